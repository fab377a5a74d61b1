"""What the studies share: a method's pictures judged in every place, and how far it drifts.

Search, choice and report draw apart: losses by purpose, pictures by seed. A measurement is kept
under all that it depends on, so that studies which ask for the same share it.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain

import pandas as pd
from PIL import Image

from cones import Settings
from cones.files import write_atomic
from experiments.lab import Effort, Lab
from experiments.methods import METHODS, Fitted, Method, Shut, fitted
from experiments.methods.fits import digest
from experiments.methods.merging import WAYS
from experiments.methods.rivals import TRAINED
from experiments.metrics.drift import drift
from experiments.metrics.examiner import Seen
from experiments.metrics.success import judged, shares
from experiments.study import Case, Options, Results, Row
from experiments.subjects import PLACES, Example, prompt
from experiments.tables import Interval, interval, rows_of

DEFAULT = Settings()
PHOTOS = "photos"  # no method: what the judge says of the subject's own photos
UNLEARNT = (PHOTOS, "untouched", "words")
REFERENCE = "cones"
RIVALS, MERGED = tuple(TRAINED), tuple(WAYS)
BUDGETS = (1 / 4, 1 / 2, 1.0)  # of a method's own, at which its curve is measured
FIRST_SEED = {"report": 0, "choice": 1_000_000, "shown": 2_000_000}
FIGURES = (
    *("success", "exact", "noun", "colour", "second", "pattern", "place", "count"),
    *("drift", "gain_seen", "gain_new", "gain_others", "gradients", "bytes"),
)


def searches(options: Options) -> list[Case]:
    """Take every subject with every seed."""
    seeds = range(options.searches)
    return [{"subjects": [key], "seed": seed} for key in options.subjects for seed in seeds]


def variants(keys: Iterable[str], names: Iterable[str]) -> list[Case]:
    """Take every variant of a method with every subject and the first seed."""
    return [{"subjects": [key], "seed": 0, "method": name} for key in keys for name in names]


def contest(options: Options, group: Sequence[str], methods: Iterable[str]) -> list[Case]:
    """Take every method with every seed; what learns nothing, once."""
    return [
        {"subjects": list(group), "method": method, "seed": seed}
        for seed in range(options.searches)
        for method in methods
        if seed == 0 or method not in UNLEARNT
    ]


def read(lab: Lab, pictures: Sequence[Image.Image]) -> Sequence[Seen]:
    """Let the examiner read pictures.

    Raises:
        ValueError: The lab has none.
    """
    if lab.examiner is None:
        raise ValueError("found no examiner; expected one to judge pictures; give the lab one")
    return lab.examiner.read(pictures)


def seeds(effort: Effort, draws: str) -> range:
    """Give the seeds of the pictures of one prompt that are drawn for a purpose."""
    n, first = effort.pictures, FIRST_SEED[draws]
    count = {"report": n, "choice": max(1, n // 4), "shown": max(2, n * 5 // 2)}[draws]
    return range(first, first + count)


def pictured(
    lab: Lab, found: Fitted, examples: Sequence[Example], *, draws: str = "report"
) -> dict[str, float]:
    """Draw the subjects in every place, and average what the examiner says of the pictures."""
    places, chosen = list(PLACES)[: lab.effort.prompts], seeds(lab.effort, draws)
    with found.applied(lab.pipeline):
        drawn = lab.draw([prompt(found.phrases, place) for place in places], chosen)
    asked = [place for place in places for _ in chosen]
    seen = zip(read(lab, drawn), asked, strict=True)
    return shares([judged(each, examples, place) for each, place in seen])


def measured(
    lab: Lab,
    how: Method,
    examples: Sequence[Example],
    *,
    seed: int,
    draws: str = "report",
    going_on: bool = False,
) -> Row:
    """Learn, draw, judge and measure the drift, or read what was measured before.

    ``draws`` is ``report``, or ``choice`` for what something is chosen by; ``going_on`` says that
    a larger budget of the same method follows.
    """
    photos = [(each.digest, each.identifier) for each in examples]
    key = {"method": how.name, "settings": asdict(how), "photos": photos, "draws": draws}
    name = "-".join([how.name, *(each.key for each in examples), str(seed), draws])
    path = lab.work / "measured" / f"{name}-{digest({**key, 'seed': seed, **lab.told})}.json"
    if not path.exists():
        found = fitted(lab, how, examples, seed=seed, going_on=going_on)
        row = pictured(lab, found, examples, draws=draws)
        row |= shares([drift(lab, found, each, purpose=draws) for each in examples])
        row |= {"gradients": found.gradients, "bytes": found.bytes}
        write_atomic(path, json.dumps(row).encode())
    return json.loads(path.read_text("utf-8"))


def curve(lab: Lab, method: str, examples: Sequence[Example], *, seed: int) -> list[Row]:
    """Measure a method at every budget, on the draws for choices; the last is its own."""
    whole, rows = lab.effort.budget(METHODS[method]().budget), []
    for budget in sorted({max(1, round(whole * share)) for share in BUDGETS}):
        how = METHODS[method](budget=budget)
        row = measured(lab, how, examples, seed=seed, draws="choice", going_on=True)
        rows.append({"budget": budget, **row})
    return rows


def compared(case: Case, lab: Lab) -> list[Row]:
    """Measure a method once; a rival at every budget, at its best, and where its drift is equal.

    The best budget of a rival and the one whose drift is nearest to that of REFERENCE are chosen
    for these subjects and this seed, on other draws than those of the report.

    Returns:
        Rows with a column ``at``: ``report``, ``equal drift`` or ``curve``.
    """
    method, examples, seed = case["method"], lab.chosen(case["subjects"]), case["seed"]
    if method == PHOTOS:
        rows = [judged(each, examples, None) for each in read(lab, examples[0].photos())]
        return [{"at": "report", **dict.fromkeys(FIGURES, 0.0), **shares(rows)}]
    if method not in (*RIVALS, *MERGED):
        return [{"at": "report", **measured(lab, METHODS[method](), examples, seed=seed)}]
    points = curve(lab, method, examples, seed=seed)
    goal = measured(lab, METHODS[REFERENCE](), examples, seed=seed, draws="choice")["drift"]

    def apart(row: Row) -> float:
        return round(abs(math.log(max(row["drift"], 1e-12) / max(goal, 1e-12))), 6)

    def good(row: Row) -> tuple[float, ...]:
        traits = sum(row.get(name, 0.0) for name in ("noun", "colour", "second", "place"))
        return row["success"], traits, -row["drift"]

    best = max(points, key=good)
    rows = [{"at": "curve", **row} for row in points]
    near = max(points, key=lambda row: (-apart(row), *good(row)))
    for at, point in {"report": best, "equal drift": near}.items():
        how = METHODS[method](budget=point["budget"])
        row = measured(lab, how, examples, seed=seed)
        rows.append({"at": at, "budget": point["budget"], **row})
    return rows


def comparison(table: pd.DataFrame) -> Results:
    """Make the parts of a results file from rows of :func:`compared`.

    Returns:
        ``rows`` of the report; ``equal_drift``, the same for rivals; ``lead``, by how much
        REFERENCE succeeds more often, paired by subject; ``curves``.
    """
    report, near, points = (table[table["at"] == at] for at in ("report", "equal drift", "curve"))
    own, curves = report[report["method"] == REFERENCE], []
    if len(points):
        curves = rows_of(points.astype({"budget": int}), ["method", "budget"], FIGURES)
    leads = [
        {
            "method": rival,
            "best": lead(own, report[report["method"] == rival]),
            "equal_drift": lead(own, near[near["method"] == rival]),
        }
        for rival in near["method"].unique()
    ]
    return {
        "rows": rows_of(report, "method", FIGURES),
        "equal_drift": rows_of(pd.concat([own, near]), "method", FIGURES),
        "lead": leads,
        "curves": curves,
    }


def lead(one: pd.DataFrame, other: pd.DataFrame, column: str = "success") -> Interval:
    """Give the interval of ``one`` minus ``other`` over the subjects that both have."""
    means = [table.groupby("subjects")[column].mean() for table in (one, other)]
    return interval(means[0] - means[1])


def cones(*, steps: int | None = None, **settings: object) -> Method:
    """Give Cones with other settings; ``steps`` of refinement come after those of scoring."""
    # Without what is the default, so that equal searches have equal names.
    changes = {name: value for name, value in settings.items() if value != getattr(DEFAULT, name)}
    scoring = DEFAULT.changed(changes).score_steps
    budget = scoring + (DEFAULT.steps if steps is None else steps)
    return METHODS["cones"](budget=budget, settings=changes)


def claim(paper: str, here: str, agrees: bool | None) -> dict[str, object]:
    """Put what the paper says beside what was found; None is undecided."""
    return {"paper": paper, "here": here, "agrees": agrees}


def aim(said: str, found: float | None, bound: float, *, most: bool = False) -> dict[str, object]:
    """Compare a share with what was aimed at: at least, or at ``most``, ``bound``."""
    met = None if found is None else found <= bound if most else found >= bound
    missed = None if found is None or met else abs(found - bound)
    return {"aim": said, "found": found, "met": met, "missed_by": missed}


def means(rows: Sequence[Row], names: Sequence[str], column: str = "success") -> dict[str, float]:
    """Give a column of some methods, as far as they are there."""
    return {row["method"]: row[column] for row in rows if row["method"] in names}


def told(shares: Mapping[str, float]) -> str:
    """Write shares in a line."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def distinct(table: pd.DataFrame) -> int:
    """Count the subjects, alone or in groups."""
    return len(set(chain.from_iterable(each.split("+") for each in table["subjects"])))


def shut(found: Fitted) -> Shut:
    """Take what a search has found for what it is."""
    if not isinstance(found, Shut):
        raise TypeError(
            f"found {type(found).__name__}; expected shut neurons; learn them by Cones"
        )
    return found
