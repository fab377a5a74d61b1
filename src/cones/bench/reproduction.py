"""Write ``docs/reproduction.md``: what the paper reports beside what was measured.

The page is a function of the files in ``docs/results`` and of the paper's own numbers below, and a
test compares it with them: ``python -m cones.bench.reproduction docs``. A study whose record is
missing is left out.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cones.bench.claims import first
from cones.bench.markdown import change, markdown, mean
from cones.bench.paper import NUMBERS, PAPER, STORED
from cones.bench.plan import CONTROLS
from cones.bench.tuning_page import tuning_section
from cones.record import write_text

PAGE = "reproduction.md"
SHOWN = {
    "text_alignment": "text (CLIP)",
    "image_alignment": "image (judge)",
    "clip_image_alignment": "image (CLIP)",
    "present": "subjects shown",
    "all_present": "all shown",
    "recognition": "recognised",
    "drift": "drift",
}
EDITED = {
    f"{score}_{kind}": f"{score}: {kind}"
    for kind in ("background", "object", "style", "property")
    for score in ("text", "image")
}
OVERFITTED = {"template_diversity": "diversity of the training prompt", "leak": "leak"}


def page(results: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        results: Content of ``docs/results`` by file name without ending.
    """
    lines = [
        "# The paper's experiments, again",
        "",
        "Written by `python -m cones.bench.reproduction docs` from [results](results); do not",
        "edit. The paper measured Stable Diffusion 1.4 with CLIP ViT-L/14; here it is the",
        "built-in model, its own CLIP and an independent judge (EfficientNet-Lite0), so that only",
        "signs and orders can be compared, never columns. Intervals are 95 %, by a bootstrap over",
        "groups of subjects and their seeds.",
        "",
    ]
    lines += [*first(results), ""]
    for name, write in (
        ("table1", _table1),
        ("several", _several),
        ("table1", _edits),
        ("table1", _template),
        ("sequential", _sequential),
        ("sanity", _sanity),
        ("tuning", partial(tuning_section, shown=SHOWN)),
        ("tuning_several", partial(tuning_section, shown=SHOWN)),
    ):
        if name in results:
            lines += [*write(results[name]), ""]
    return "\n".join(lines)


def _table1(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Table 1: methods side by side, one subject",
        "",
        f"{_drawn(found)} [Pictures and settings](table1.html).",
        "",
        *_sizes(found),
    ]
    return [*lines, "", *_table2(found)]


def _several(found: Mapping[str, Any]) -> list[str]:
    return [
        "## Table 1 and Fig. 8: several subjects at once",
        "",
        f"{_drawn(found)} [Pictures and settings](several.html). Of a picture that should show k",
        f"subjects, the k that the judge finds strongest of {len(found['candidates'])} count as",
        "shown, so that chance is k of these. `cones` joins the neurons of subjects searched",
        "apart, `cones-collaborative` searches once more within these, `cones-scratch` among all",
        "weights.",
        "",
        *_sizes(found),
        "",
        *_table2(found),
    ]


def _drawn(found: Mapping[str, Any]) -> str:
    plan = found["plan"]
    missing = f" {found['missing']} cells are missing." if found.get("missing") else ""
    return (
        f"{len(plan['groups'])} groups, {len(plan['prompts'])} prompts with {plan['images']} "
        f"picture{'s' * (plan['images'] > 1)} each, {plan['steps']} steps, seeds "
        f"{', '.join(map(str, plan['seeds']))}; model `{found['model']}`.{missing}"
    )


def _sizes(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for size, name in enumerate(NUMBERS, 1):
        entries = [e for e in found["table"] if e["subjects"] == size]
        if entries:
            lines += [f"### {name.capitalize()}", "", *_scores(entries, SHOWN, size), ""]
    return lines[:-1]


def _scores(
    entries: Sequence[Mapping[str, Any]], names: Mapping[str, str], size: int
) -> list[str]:
    there = [n for n in names if any(n in entry["scores"] for entry in entries)]
    head = ["method", *(names[name] for name in there)]
    if size:
        head += ["paper: text", "paper: image", "file", "seconds"]
    rows = []
    for entry in entries:
        row = [f"`{entry['method']}`", *(mean(entry["scores"].get(name)) for name in there)]
        if size:
            paper = PAPER.get(entry["method"])
            row += [f"{value:.3f}" for value in paper[size - 1]] if paper else ["", ""]
            row.append(f"{entry['bytes'] / 1e6:.3f} MB" if "bytes" in entry else "")
            row.append(f"{entry['seconds']:.0f}" if "seconds" in entry else "")
        rows.append(row)
    changed = [entry for entry in entries if "change" in entry]
    lines = markdown(head, rows)
    if size and changed:
        lines += ["", "Change from the untouched model, paired:", ""]
        rows = [
            [f"`{e['method']}`", *(change(e["change"].get(name)) for name in there)]
            for e in changed
        ]
        lines += markdown(["method", *(names[name] for name in there)], rows)
    return lines


def _table2(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for entry in found["table"]:
        if entry["method"] == "cones" and "density" in entry:
            size = entry["subjects"]
            stored, share = STORED[size - 1]
            own = [f"{entry['bytes'] / 1e3:.1f} kB", f"{entry['density']:.2%}"]
            rows.append([NUMBERS[size - 1], f"{stored:.2f} MB", f"{share:.2f} %", *own])
    return [
        "Table 2, storage and sparsity of `cones` (the models differ in size; for that of Stable",
        "Diffusion 1.4 see the README):",
        "",
        *markdown(["", "paper: file", "paper: sparsity", "file", "sparsity"], rows),
    ]


def _edits(found: Mapping[str, Any]) -> list[str]:
    entries = [entry for entry in found["table"] if entry["subjects"] == 1]
    return [
        "## Figs. A10 and A11: backgrounds, other things, styles and colours by text",
        "",
        "The pictures of Table 1 by the kind of their prompt: likeness to the words (CLIP) and to",
        "the photos (judge).",
        "",
        *_scores(entries, EDITED, 0),
    ]


def _template(found: Mapping[str, Any]) -> list[str]:
    entries = [entry for entry in found["table"] if entry["subjects"] == 1]
    return [
        "## App. C.4: overfitting to the training prompt",
        "",
        "Diversity of pictures of `a photo of a V* noun`; and how much more like the photos",
        "pictures of `a photo of a noun`, without the identifier, have become (leak). Concept",
        "neurons are shut whatever the prompt says, so a leak is to be expected of Cones.",
        "",
        *_scores(entries, OVERFITTED, 0),
    ]


def _sequential(found: Mapping[str, Any]) -> list[str]:
    sides = ("first alone", "first of two", "forgotten", "second alone", "second of two")
    rows = [
        [f"`{method}`", *(mean(each[side]) for side in sides)]
        for method, each in found["summary"].items()
    ]
    pairs = ", ".join(" then ".join(g) for g in found["plan"]["groups"]).replace("_", " ")
    return [
        "## Fig. A9: one subject after another",
        "",
        f"Likeness to a subject's photos by the judge; pairs: {pairs}. `forgotten` is what the",
        "first loses when the second is learnt after it.",
        "",
        *markdown(["method", *sides], rows),
    ]


def _sanity(found: Mapping[str, Any]) -> list[str]:
    names = [group[0] for group in found["plan"]["groups"]]
    rows = [
        ["photos to each other", *_two(found["photos"], None, names), ""],
        ["photos after the autoencoder", *_two(found["redrawn"], None, names), ""],
        *(
            [
                f"`{method}`",
                *_two(each, found["losses"][method], names),
                f"{found['untrained'][method]:.0%}" if method in found["untrained"] else "",
            ]
            for method, each in found["trained"].items()
        ),
    ]
    heads = [f"{n.replace('_', ' ')}: {what}" for n in names for what in ("likeness", "loss")]
    long = "; ".join(
        f"{method} {', '.join(f'{k} {v}' for k, v in each.items() if k in ('steps', 'rate'))}"
        for method, each in found["settings"].items()
        if "rate" in each
    )
    return [
        "## Sanity: is a method beaten by a bug?",
        "",
        "Likeness, by the judge, of pictures of the training prompt after long training",
        f"({long}), the loss of the photos on samples of no training, and the share of",
        "pictures that are the untouched model's to the last bit after no training at all. A",
        "method that redraws the photos reaches the likeness of these after the autoencoder.",
        _unlearnt(found["losses"]),
        "",
        *markdown(["", *heads, "untrained: same"], rows),
    ]


def _unlearnt(losses: Mapping[str, Mapping[str, float]]) -> str:
    """Name the methods that do not lower the loss of every subject."""
    own = losses["untouched"]
    bad = [
        method
        for method, each in losses.items()
        if method not in CONTROLS and any(each[name] >= own[name] for name in own)
    ]
    if not bad:
        return "Every method lowers the loss of every subject."
    return f"Methods that do not lower the loss of every subject: {', '.join(bad)}."


def _two(likeness: Mapping[str, float], losses: Mapping[str, float] | None, names: Sequence[str]):
    """Give two columns a subject."""
    return [
        said
        for name in names
        for said in (f"{likeness[name]:.3f}", f"{losses[name]:.4f}" if losses else "")
    ]


def write(docs: Path | str) -> None:
    """Bring the page in the folder ``docs`` up to date."""
    docs = Path(docs)
    results = {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in (docs / "results").glob("*.json")
    }
    write_text(docs / PAGE, page(results) + "\n")


if __name__ == "__main__":
    write(sys.argv[1])
