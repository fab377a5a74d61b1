"""Keep the figures of the attention in ``docs/results``, write ``docs/attention.md``, draw maps.

The page is a function of the JSON file; a test compares the two. The picture shows the first
scene of a few subjects, chosen by their order alone, with maps that the JSON file holds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cones.bench.scenes import compose
from cones.plot import Row, overlay, picture_sheet, save_picture
from cones.record import write_json, write_text

RESULTS, PAGE, PICTURE = "results/attention.json", "attention.md", "attention.png"
SHOWN = 3  # subjects in the picture
TITLES = {
    "untouched": "untouched",
    "shut": "shut",
    "random": "random mask",
    "stranger": "another subject's",
}
WORDS = {
    "subject": "V* and noun",
    "identifier": "V* alone",
    "noun": "noun alone",
    "place": "word of the place",
}
GAPS = ("untouched", "random", "stranger")


def record(found: Mapping[str, Any], docs: Path | str, corpus: Path | str) -> None:
    """Write the figures, the page and the picture into the folder ``docs``."""
    write_json(Path(docs) / RESULTS, found)
    write_text(Path(docs) / PAGE, markdown(found))
    settings = {"model": found["model"], "looks": found["looks"]}
    save_picture(sheet(found, corpus), Path(docs) / PICTURE, settings)


def sheet(found: Mapping[str, Any], corpus: Path | str) -> Image.Image:
    """Compose the first scene of some subjects again and lay the maps over it."""
    rows, count = found["rows"], len(found["rows"])
    chosen = rows[:: max(count // SHOWN, 1)][:SHOWN]
    lines = []
    for row in chosen:
        scenes = compose(corpus, row["subject"], count=1, seed=found["looks"]["seed"])
        picture, mask = (_picture(each[0]) for each in (scenes.pixels, scenes.inside[:, None]))
        big = picture.resize((128, 128), Image.Resampling.BICUBIC)
        maps = [overlay(big, side["map"]) for side in row["sides"].values()]
        said = [f"{TITLES[name]}: {_inside(side)}" for name, side in row["sides"].items()]
        area = f"true mask: {row['area'][0]:.0%}"
        prompt = scenes.prompts[0].format(f"V* {row['noun']}")
        label = f"{row['subject'].replace('_', ' ')}: {prompt}"
        lines.append(Row(label, [picture, mask, *maps], ["the picture", area, *said]))
    return picture_sheet(lines, title="attention of V* and the noun; share on the mask")


def _inside(side: Mapping[str, Any]) -> str:
    return f"{side['words']['subject']['share'][0]:.0%}"


def _picture(pixels: Any) -> Image.Image:
    shown = pixels.expand(3, -1, -1).permute(1, 2, 0).mul(255).round().byte()
    return Image.fromarray(shown.numpy())


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    summary, looks, computer = found["summary"], found["looks"], found["machine"]
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    levels = ", ".join(str(level) for level in looks["levels"])
    lines = [
        "# Does shutting draw the subject's outline?",
        "",
        f"Written by `cones bench attention` from [{RESULTS}]({RESULTS}); do not edit. The paper",
        "shows that shutting concept neurons draws the subject's outline in the attention of its",
        "word, by one picture (Sec. 3.1, Fig. 2), without a control.",
        "",
        *_result(summary),
        "",
        f"![Pictures, true masks and attention maps]({PICTURE})",
        "",
        "First scene of three subjects. Each map is lit by its own largest value.",
        "",
        "## How it was measured",
        "",
        f"{looks['count']} pictures a subject, each with a prompt of its own (`a V* cat on a",
        "beach`), composed of views of the subject that no search has seen and a background, so",
        f"that the true mask is known. They are noised to {levels} of the timesteps of training,",
        "and cross-attention is recorded while the network removes the noise, mean over heads,",
        "layers and levels. *Share* is the part of a word's attention that falls on the mask.",
        "*Order* is the chance that a place on the mask draws more of it than a place beside it",
        "(0.5 is blind, 1 a perfect outline, however faint). *Amount* is the part of all",
        "attention that the word draws. The random mask has as many neurons in every layer;",
        "another subject's are those of the next subject in the list.",
        "",
        "## By word",
        "",
        *_table(summary["words"], WORDS, summary),
        "",
        "## By noise level, V* and noun",
        "",
        *_table(summary["levels"], {name: name for name in summary["levels"]}, summary),
        "",
        "## By layer, V* and noun",
        "",
        "On the grid of each layer, where coarse places are partly subject and partly not.",
        "",
        *_table(summary["layers"], {name: _layer(name) for name in summary["layers"]}, summary),
        "",
        "Differences are paired (same picture and noise), with the 95 % interval of a bootstrap",
        f"over {summary['subjects']} subjects and, for words, their pictures. Measured with the",
        f"model `{found['model']}` on {computer['processor']}, {computer['threads']} threads,",
        f"torch {computer['torch']}. Settings: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _result(summary: Mapping[str, Any]) -> list[str]:
    """Say first what was found, whatever it is."""
    words = summary["words"]["subject"]
    lines = []
    for figure in ("share", "order", "amount"):
        values = words[figure]
        random, untouched = values["shut_minus_random"], values["shut_minus_untouched"]
        verdict = _verdict(random) if _verdict(random) == _verdict(untouched) else "unclear"
        lines.append(
            f"- **{figure.capitalize()}: {verdict}.** {values['untouched']['mean']:.4f} "
            f"untouched, {values['shut']['mean']:.4f} shut, {values['random']['mean']:.4f} with "
            f"a random mask; shut minus untouched {_signed(untouched)}, shut minus random "
            f"{_signed(random)}; higher than untouched in {summary['wins']['untouched'][figure]} "
            f"of {summary['subjects']} subjects, and in {_risen(summary, figure)} layers taken "
            "by themselves."
        )
    area = summary["area"]["mean"]
    lines.append(f"- Attention that is equal everywhere would have a share of {area:.4f}.")
    lines.append(
        "- The figures above are of the mean map, as Fig. 2 shows it; layers that attend more to "
        "the word weigh more in it, so it may change where no layer's own map does."
    )
    return lines


def _risen(summary: Mapping[str, Any], figure: str) -> str:
    gaps = [layer[figure]["shut_minus_untouched"] for layer in summary["layers"].values()]
    return f"{sum(_verdict(gap) == 'rises' for gap in gaps)} of {len(gaps)}"


def _verdict(gap: Mapping[str, float]) -> str:
    if gap["low"] > 0:
        return "rises"
    return "falls" if gap["high"] < 0 else "no change that can be told from none"


def _table(
    part: Mapping[str, Any], names: Mapping[str, str], summary: Mapping[str, Any]
) -> list[str]:
    gaps = [f"shut_minus_{name}" for name in GAPS if name in summary["wins"]]
    sides = [name for name in TITLES if name in next(iter(part.values()))["share"]]
    head = ["", "figure", *(TITLES[name] for name in sides)]
    head += [gap.replace("_minus_", " − ").replace("stranger", "other's") for gap in gaps]
    rows = [
        [
            said,
            figure,
            *(f"{values[side]['mean']:.4f}" for side in sides),
            *(_signed(values[gap]) for gap in gaps),
        ]
        for name, said in names.items()
        for figure, values in part[name].items()
    ]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _signed(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def _layer(name: str) -> str:
    return name.replace(".transformer_blocks", "").replace(".attn2", "").replace("_blocks", "")
