"""Keep the figures of styles in ``docs/results``, write ``docs/style.md``, lay out the pictures.

The page is a function of the JSON file; a test compares the two. Its first sentences are chosen by
the figures. The sheet shows the first picture of every thing, of the first seed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cones.bench.style import picture_file, spoken
from cones.bench.style_set import HELD_OUT
from cones.errors import ConesError
from cones.plot import Row, picture_sheet, save_picture
from cones.record import write_json, write_text

RESULTS, PAGE, PICTURE = "results/style.json", "style.md", "style.png"
TITLES = {
    "plain": "untouched, without V*",
    "untouched": "untouched, with V*",
    "random": "random mask",
    "stranger": "other style's",
    "shut": "shut",
}
FIGURES = {
    "drawing": "like the set's drawing of the thing",
    "drawing_clip": "the same, by the CLIP",
    "look": "like its drawings of other things",
    "noun": "the thing told apart",
    "nearer": "nearer to the drawing than to photos",
    "copies": "like the five fitted drawings",
    "text": "like the words",
    "paper": "share of white",
}
RIVALS = ("plain", "untouched", "random", "stranger")
WIDE = 80  # pixels of a picture of the sheet
COLOURS = 256  # of the sheet, whose file is a third for it


def record(
    found: Mapping[str, Any], docs: Path | str, folder: Path | str, work: Path | str
) -> None:
    """Write the figures, the page and the sheet into the folder ``docs``.

    Raises:
        ConesError: A picture is not in ``work``. Nothing has been written then.
    """
    drawn = sheet(found, folder, work)
    write_json(Path(docs) / RESULTS, found)
    write_text(Path(docs) / PAGE, markdown(found))
    settings = {"model": found["model"], "drawing": found["drawing"]}
    save_picture(drawn, Path(docs) / PICTURE, settings)


def sheet(found: Mapping[str, Any], folder: Path | str, work: Path | str) -> Image.Image:
    """Show for every style the five drawings, and what every side made of the other things."""
    lines = []
    for row in [row for row in found["rows"] if row["seed"] == found["seeds"][0]]:
        style = Path(folder) / row["style"]
        fitted = [_opened(file) for file in sorted(style.glob("*.png"))]
        lines.append(Row(f"{_said(row['style'])}: fitted", fitted))
        names = [f"{thing.replace(' ', '_')}.png" for thing in row["things"]]
        held_out = [_opened(style / HELD_OUT / name) for name in names]
        lines.append(Row("held out, by the artists", held_out, row["things"]))
        for side in row["sides"]:
            files = [picture_file(work, row["pictures"], side, t) for t in row["things"]]
            lines.append(Row(TITLES[side], [_opened(file) for file in files]))
    title = f"{_example(found)}, and of other things"
    return picture_sheet(lines, side=WIDE, title=title).quantize(COLOURS)


def _opened(file: Path) -> Image.Image:
    if not file.exists():
        raise ConesError(
            f"found no picture {file.name} of {file.parent.name}; expected the pictures that were "
            "drawn beside style.jsonl; remove style.jsonl from the work folder and measure again"
        )
    with Image.open(file) as image:
        return image.convert("RGB")


def _example(found: Mapping[str, Any]) -> str:
    row = found["rows"][0]
    return spoken(row["noun"], row["things"][:1], "V*")[0]


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    summary, computer, drawing = found["summary"], found["machine"], found["drawing"]
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    lines = [
        "# Can a concept be a style?",
        "",
        f"Written by `cones bench style` from [{RESULTS}]({RESULTS}); do not edit. The paper",
        'shows concepts of a style, "V* art", by a few pictures (App. C.2, Fig. A10). Here a',
        "concept is searched on five drawings of different things of one set that the model never",
        f"saw, and things that none of them shows are drawn: `{_example(found)}`.",
        "",
        *[line for style in summary for line in _result(style, summary[style])],
        *_doubts(found),
        "",
        f"![The drawings, and what was drawn]({PICTURE})",
        "",
        "First picture of every thing, first seed; the same noise in every row of a style.",
        "",
        "## Figures",
        "",
        *[line for style in summary for line in _figures(style, summary[style])],
        "*Like the set's drawing*: cosine, in the space of a judge that the model was not made",
        "with, of a picture and the set's held-out drawing of the same thing. *The thing told",
        "apart*: that, less the cosine with its drawings of the other things. *Like the five",
        "fitted drawings*: cosine with these, less that with drawings of the other things; it",
        "rises if the concept repeats what it was shown. *Like the words*: cosine with",
        f"`{spoken(found['rows'][0]['noun'], found['rows'][0]['things'][:1])[0]}`, by the model's",
        "own CLIP. The random mask has as many neurons in every layer; another style's are those",
        "of the next style, searched on drawings of the same things. *The set itself*: its own",
        "held-out drawings, scored as if they had been drawn here.",
        "",
        "Differences are paired (same thing and noise), with the 95 % interval of a bootstrap",
        f"over things and, within them, seeds ({len(found['seeds'])}); it says nothing about",
        f"other sets of drawings. {drawing['count']} pictures of every thing and side, "
        f"{drawing['steps']} steps, guidance {drawing['guidance']}. Measured with",
        f"the model `{found['model']}` on {computer['processor']}, {computer['threads']} threads,",
        f"torch {computer['torch']}. Settings: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _result(style: str, summary: Mapping[str, Any]) -> list[str]:
    """Say first what was found for a style, whatever it is."""
    figures, loss = summary["figures"], summary["loss"]
    drawing, rivals = figures["drawing"], _rivals(figures["drawing"])
    better = [name for name in rivals if drawing[f"shut_minus_{name}"]["low"] > 0]
    verdict = "some" if {"untouched", "random"} <= set(better) else "no"
    verdict = "all" if better == rivals else verdict
    gaps = "; ".join(
        f"{TITLES[name]} {_signed(drawing[f'shut_minus_{name}'])} "
        f"(more in {drawing['wins'][name]} of {summary['things']} things)"
        for name in rivals
    )
    lines = [
        f"- **{_said(style)}: {ANSWERS[verdict]}** {_way(summary)}",
        f"  Likeness to the set's own drawing of the thing is {drawing['shut']['mean']:.3f} shut; "
        f"shut less {gaps}.",
        f"  The loss of the five drawings is {loss['untouched']:.4f} untouched, "
        f"{loss['shut']:.4f} shut, {loss['random']:.4f} with a random mask.",
    ]
    said = {"noun": "the thing is told apart", "text": "the words are met"}
    for name in [name for name in (*said, "copies") if name in figures]:
        gap = figures[name]["shut_minus_untouched"]
        what = said.get(name, "the pictures are like the five fitted drawings")
        lines.append(f"  Against the untouched model, {what} {_verdict(gap)}, {_signed(gap)}.")
    return lines


ANSWERS = {
    "all": "closer to the set than every control.",
    "some": "closer to the set than untouched model and random mask, not than every control.",
    "no": "no style was learnt that can be told from the untouched model and a random mask.",
}


def _way(summary: Mapping[str, Any]) -> str:
    way = summary["way"]
    return (
        f"Of the way from the look of the untouched model to that of the set itself, the concept "
        f"goes {way['mean']:.1%} [{way['low']:.1%}, {way['high']:.1%}]."
    )


def _doubts(found: Mapping[str, Any]) -> list[str]:
    """Say what else than a style could explain the result."""
    lines = []
    for style, each in found["summary"].items():
        paper = each["figures"]["paper"]
        lines.append(
            f"- {_said(style)}: {paper['untouched']['mean']:.0%} of the pictures is white "
            f"untouched, {paper['shut']['mean']:.0%} shut, {paper['random']['mean']:.0%} with a "
            "random mask, and a white background alone makes a picture more like drawings on "
            "white. The untouched model limits how far the thing is told apart: "
            f"{each['figures']['noun']['untouched']['mean']:.3f}, where perfect copies of the "
            f"drawings would have {each['figures']['noun']['artists']:.3f}."
        )
    gaps = [
        each["figures"]["drawing"].get("shut_minus_stranger") for each in found["summary"].values()
    ]
    if len(gaps) == 2 and None not in gaps and {_verdict(g) for g in gaps} == {"more", "less"}:
        lines.append(
            "- One concept is the closer one to both sets, its own and the other: what puts it "
            "ahead is not the style that it was fitted to."
        )
    return lines


def _figures(style: str, summary: Mapping[str, Any]) -> list[str]:
    figures = summary["figures"]
    first = next(iter(figures.values()))
    sides = [side for side in TITLES if side in first]
    rivals = _rivals(first)
    means = [
        [
            said,
            *(f"{figures[name][side]['mean']:.3f}" for side in sides),
            f"{figures[name]['artists']:.3f}",
        ]
        for name, said in FIGURES.items()
        if name in figures
    ]
    gaps = [
        [said, *(_signed(figures[name][f"shut_minus_{rival}"]) for rival in rivals)]
        for name, said in FIGURES.items()
        if name in figures
    ]
    return [
        f"### {_said(style)}, density {summary['density']:.2%}",
        "",
        *_table(["", *(TITLES[side] for side in sides), "the set itself"], means),
        "",
        *_table(["shut less", *(TITLES[rival] for rival in rivals)], gaps),
        "",
    ]


def _rivals(figure: Mapping[str, Any]) -> list[str]:
    return [name for name in RIVALS if name in figure]


def _verdict(gap: Mapping[str, float]) -> str:
    if gap["low"] > 0:
        return "more"
    return "less" if gap["high"] < 0 else "neither clearly more nor less"


def _said(style: str) -> str:
    return style.replace("_", " ")


def _signed(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
