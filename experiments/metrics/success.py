"""Success: the subject's attributes are right and the place is right, read by an examiner.

The examiner reads every thing of a picture from its own box. Each subject is matched with a thing
of its own so that as many attributes as possible are right; with one subject and one thing there
is no choice. All figures are shares of pictures. A picture is not held to what photos do not meet:
where the examiner reads a subject's own photos otherwise than its labels, both are right.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

from experiments.metrics.examiner import Seen, SeenThing
from experiments.subjects import Example

TRAITS = ("noun", "main", "second", "pattern")
NAMES = {"main": "colour"}  # in tables
NEEDED = ("noun", "main", "second")  # for success, with the place; `exact` needs the pattern too
OFTEN = 1 / 3  # of a subject's own photos


def judged(seen: Seen, examples: Sequence[Example], place: str | None) -> dict[str, float]:
    """Judge one picture; a place of None was not asked for and is right.

    ``noun``, ``colour``, ``second`` and ``pattern`` are shares of the subjects, ``place`` and
    ``count`` are 0 or 1. ``success``: noun and both colours of all subjects and the place are
    right; ``exact``: the patterns too.
    """
    right = _matched(seen.things, examples)
    at = place is None or seen.place == place
    found = {NAMES.get(t, t): sum(row[t] for row in right) / len(examples) for t in TRAITS}
    success = at and all(row[t] for row in right for t in NEEDED)
    return found | {
        "place": float(at),
        "count": float(len(seen.things) == len(examples)),
        "success": float(success),
        "exact": float(success and all(row["pattern"] for row in right)),
    }


def looks(seen: Sequence[Seen], noun: str) -> frozenset[tuple[str, str]]:
    """Give the main and second colours that are read on a third of a subject's photos or more.

    Two colours of equal stripes have no order, and cream in the shade looks like white.
    """
    colours = [(each.main, each.second) for s in seen for each in s.things if each.noun == noun]
    return frozenset(pair for pair, n in Counter(colours).items() if n >= OFTEN * len(seen))


def shares(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Average over pictures."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _matched(
    things: Sequence[SeenThing], examples: Sequence[Example]
) -> tuple[dict[str, bool], ...]:
    """Give each subject a thing of its own, with as many right as can be; none is all wrong."""
    places = [*things, *[None] * len(examples)]
    tables = [[_right(thing, example) for thing in places] for example in examples]
    return max(
        (
            tuple(tables[k][at] for k, at in enumerate(chosen))
            for chosen in permutations(range(len(places)), len(examples))
        ),
        key=lambda rows: sum(sum(row.values()) for row in rows),
    )


def _right(thing: SeenThing | None, example: Example) -> dict[str, bool]:
    right = {t: thing is not None and getattr(thing, t) == getattr(example, t) for t in TRAITS}
    if thing is not None and (thing.main, thing.second) in example.looks:
        right |= {"main": True, "second": True}
    return right
