"""Average the figures of concept algebra, keep them, and write ``docs/algebra.md`` from them.

The page is a function of the JSON file; a test compares the two. Its first sentences are chosen by
the figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cones.bench.interval import average, interval, paired
from cones.record import write_json, write_text

RESULTS, PAGE = "results/algebra.json", "algebra.md"
CLEANED, SHARED = "algebra", "algebra-shared"  # names of the ledgers
GENERAL = ("others", "any_look", "all_looks")
FIGURES = ("subject", "prior", "loss", "image_alignment", "text_alignment")
LOSSES = FIGURES[:3]
SAID = {
    "untouched": "untouched model",
    "concept": "concept",
    "others": "concept less what other subjects hold",
    "any_look": "concept less what any other look holds",
    "all_looks": "concept less what all other looks hold",
    "own": "the subject's own neurons",
    "shared": "neurons that both hold",
    "part": "as many of its own, drawn at random",
    "random": "as many, drawn at random anywhere",
}


def algebra_summary(
    cleaned: Sequence[Mapping[str, Any]], shared: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Average both studies.

    Returns:
        ``cleaned``: per kind of general neurons, over the subjects that have it, the ``subjects``
        counted, ``removed`` (share of the concept), ``means`` by side and figure, and the paired
        differences ``minus_concept`` and ``minus_random``. ``shared``: ``size`` (share of the
        subject's own), ``means`` by side of the losses, and ``minus_part``, ``minus_random`` and
        ``minus_untouched``, with intervals over the subjects measured on.
    """
    found: dict[str, Any] = {"cleaned": {}, "shared": _shared(shared) if shared else None}
    for kind in GENERAL:
        rows = [row for row in cleaned if kind in row]
        if not rows:
            continue
        figures = [name for name in FIGURES if name in rows[0]["concept"]]
        sides = ("untouched", "concept", kind, f"{kind}_random")
        removed = {
            r["subject"]: [1 - r[kind]["neurons"] / max(r["concept"]["neurons"], 1)] for r in rows
        }
        found["cleaned"][kind] = {
            "subjects": len(rows),
            "removed": interval(removed),
            "means": {s: {f: average(rows, s, f) for f in figures} for s in sides},
            "minus_concept": {f: paired(rows, kind, "concept", f) for f in figures},
            "minus_random": {f: paired(rows, kind, f"{kind}_random", f) for f in figures},
        }
    return found


def _shared(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [{**pair, "subject": pair["on"]} for pair in pairs]
    sizes: dict[str, list[float]] = {}
    for row in rows:
        size = row["shared"]["neurons"] / max(row["own"]["neurons"], 1)
        sizes.setdefault(row["subject"], []).append(size)
    sides = ("untouched", "own", "shared", "part", "random")
    return {
        "size": interval(sizes),
        "means": {s: {f: average(rows, s, f) for f in LOSSES} for s in sides},
        **{
            f"minus_{other}": {f: paired(rows, "shared", other, f) for f in LOSSES}
            for other in ("part", "random", "untouched")
        },
    }


def record(found: Mapping[str, Any], docs: Path | str) -> None:
    """Write the figures and the page into the folder ``docs``."""
    write_json(Path(docs) / RESULTS, found)
    write_text(Path(docs) / PAGE, markdown(found))


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    summary, computer, rule = found["summary"], found["machine"], found["rule"]
    lines = [
        "# Is a concept better without what others hold too?",
        "",
        f"Written by `cones bench algebra` from [{RESULTS}]({RESULTS}); do not edit.",
        "",
        *_verdicts(summary),
        "",
        f"What other subjects hold: the neurons of at least {rule['others']} of the other",
        "concepts. Looks: pictures of other things of the same noun, searched like subjects. A",
        "random row is the concept less as many of its own neurons in every layer. Losses are of",
        "held-out samples (low is good), alignments are of pictures (high is good).",
        "",
    ]
    for kind, each in summary["cleaned"].items():
        lines += _cleaned(kind, each, found["figures"])
    if summary["shared"]:
        lines += _family(summary["shared"])
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    looks = "; ".join(f"{noun}: {', '.join(names)}" for noun, names in found["looks"].items())
    lines += [
        f"{len(found['subjects'])} subjects; looks searched: {looks or 'none'}.",
        f"{rule['samples']} held-out samples of each half of a loss. Intervals are over subjects.",
        f"Measured with the model `{found['model']}` on {computer['processor']}, "
        f"{computer['threads']} threads, torch {computer['torch']}. Settings: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _verdicts(summary: Mapping[str, Any]) -> list[str]:
    """Say for every kind what taking it out did to the subject's loss, beside the control."""
    lines = []
    for kind, each in summary["cleaned"].items():
        change, control = each["minus_concept"]["subject"], each["minus_random"]["subject"]
        what = SAID[kind].removeprefix("concept less ")
        lines += [
            f"- **Taking out {what} {_way(change)} the subject's loss**, and compared with taking",
            f"  out as many at random it {_way(control)} it ({_signed(control)}).",
        ]
    if summary["shared"]:
        part, none = (summary["shared"][f"minus_{n}"]["subject"] for n in ("part", "untouched"))
        lines += [
            f"- **What two subjects of a noun share, shut alone, {_way(none)} the loss** of a",
            "  subject against the untouched model; against as many of its own neurons it",
            f"  {_way(part)} it ({_signed(part)}).",
        ]
    return lines


def _way(change: Mapping[str, float]) -> str:
    if change["high"] < 0:
        return "lowers"
    return "raises" if change["low"] > 0 else "does not clearly change"


def _cleaned(kind: str, each: Mapping[str, Any], figures: list[str]) -> list[str]:
    head = ["", *(name.replace("_", " ") for name in figures)]
    sides = {"untouched": SAID["untouched"], "concept": SAID["concept"], kind: SAID[kind]}
    sides[f"{kind}_random"] = "concept less as many at random"
    rows = [
        [said, *(_mean(each["means"][side][name]) for name in figures)]
        for side, said in sides.items()
    ]
    rows += [
        [said, *(_signed(each[key][name]) for name in figures)]
        for key, said in (("minus_concept", "less concept"), ("minus_random", "less random"))
    ]
    removed = each["removed"]
    return [
        f"## {SAID[kind][0].upper() + SAID[kind][1:]}",
        "",
        f"{each['subjects']} subjects; {removed['mean']:.1%} "
        f"[{removed['low']:.1%}, {removed['high']:.1%}] of the concept are taken out.",
        "",
        *_table(head, rows),
        "",
    ]


def _family(each: Mapping[str, Any]) -> list[str]:
    rows = [
        [SAID[side], *(_mean(found[name]) for name in LOSSES)]
        for side, found in each["means"].items()
    ]
    for other in ("untouched", "part", "random"):
        said = f"both hold, less {SAID[other]}"
        rows.append([said, *(_signed(each[f"minus_{other}"][name]) for name in LOSSES)])
    size = each["size"]
    return [
        "## What two subjects of one noun share",
        "",
        f"It is {size['mean']:.1%} [{size['low']:.1%}, {size['high']:.1%}] of the neurons of the",
        "subject whose loss is measured. Shut alone:",
        "",
        *_table(["", *LOSSES], rows),
        "",
    ]


def _mean(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.4f}"


def _signed(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
