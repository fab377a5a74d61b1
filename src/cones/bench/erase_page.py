"""Keep the figures of erasing in ``docs/results`` and write ``docs/erase.md`` from them.

The page is a function of the JSON file; a test compares the two. Its first sentences are chosen by
the figures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cones.bench.erase import UNTOUCHED
from cones.record import write_json, write_text

RESULTS, PAGE = "results/erase.json", "erase.md"
SAID = {"erase": "noun's loss negated", "keep": "the same, other nouns kept"}


def record(found: Mapping[str, Any], docs: Path | str) -> None:
    """Write the figures and the page into the folder ``docs``."""
    write_json(Path(docs) / RESULTS, found)
    write_text(Path(docs) / PAGE, markdown(found))


def markdown(found: Mapping[str, Any]) -> str:
    """Write the page that quotes ``found``."""
    summary, computer, plan = found["summary"], found["machine"], found["plan"]
    namers = [name for name in summary[0]["own"] if name != "loss"]
    head = ["", "density", "loss: noun", "others"]
    head += [f"{name} names the {who}" for name in namers for who in ("noun", "others")]
    rows = [
        [
            _side(entry),
            f"{entry['density']:.2%}",
            *(_mean(entry[who]["loss"], 3) for who in ("own", "others")),
            *(_share(entry[who][name]) for name in namers for who in ("own", "others")),
        ]
        for entry in summary
    ]
    gaps = [
        [
            _side(entry),
            f"{entry['density']:.2%}",
            _mean(entry["change"]["own_minus_others"]["loss"], 3, signed=True),
            *(_share(entry["change"]["own_minus_others"][n], signed=True) for n in namers),
        ]
        for entry in summary[1:]
    ]
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    drawn = f"{len(plan['prompts'])} pictures of the noun and {plan['others']} of each other one"
    lines = [
        "# Can a noun be erased by shutting neurons?",
        "",
        f"Written by `cones bench erase` from [{RESULTS}]({RESULTS}); do not edit.",
        "",
        *_verdicts(summary, namers),
        "",
        "The search is the usual one with its sign turned: it shuts weights whose closing raises",
        "the loss of `a <noun>` on pictures of the noun. Where the others are kept, the loss of",
        "pictures of the other nouns is added. Half of the pictures are searched on; losses are",
        "of the other half. Random masks have as many neurons in every layer as the mask above",
        "them.",
        "",
        *_table(head, rows),
        "",
        "What is lost of the noun beyond what is lost of the others (change from the untouched",
        "model, noun less others; an erased noun would have a high loss and a low share):",
        "",
        *_table(["", "density", "loss", *namers], gaps),
        "",
        f"Means and 95 % intervals over {len(found['nouns'])} nouns ({', '.join(found['nouns'])})",
        f"and seeds {', '.join(str(seed) for seed in found['seeds'])}; of each, {drawn},",
        f"{plan['steps']} steps. {_notes(found['notes'])}",
        f"Measured with the model `{found['model']}` on {computer['processor']}, "
        f"{computer['threads']} threads, torch {computer['torch']}. Settings: {settings}.",
        "",
    ]
    return "\n".join(lines)


def _verdicts(summary: list[Mapping[str, Any]], namers: list[str]) -> list[str]:
    """Say for both ways of searching, at the full density, what went and what went with it."""
    lines, densest = [], max(entry["density"] for entry in summary)
    for how, said in SAID.items():
        (entry,) = [
            each
            for each in summary
            if each["how"] == how and each["density"] == densest and not each["random"]
        ]
        loss = {who: entry[who]["loss"]["mean"] for who in ("own", "others")}
        before = {who: summary[0][who]["loss"]["mean"] for who in ("own", "others")}
        times = {who: loss[who] / before[who] for who in loss}
        lines += [
            f"**{said[0].upper() + said[1:]}, {densest:.2%} shut: {_verdict(entry, namers)}**",
            f"The noun's loss is {times['own']:.1f} times that of the untouched model, that of",
            f"the other nouns {times['others']:.1f} times.",
            "",
        ]
    return lines[:-1]


def _verdict(entry: Mapping[str, Any], namers: list[str]) -> str:
    change, gone, spared = entry["change"], [], []
    for name in namers:
        gone.append(change["own"][name]["high"] < 0)
        spared.append(change["own_minus_others"][name]["high"] < 0)
    others = change["others"]["loss"]
    if not all(gone):
        return "the noun is not erased: it is not named clearly less often by all."
    if all(spared):
        return "the noun is erased more than the others are."
    if others["low"] > 0:
        return "the noun goes, but the other nouns go with it: this breaks the model."
    return "the noun goes; whether the others go too is not clear."


def _side(entry: Mapping[str, Any]) -> str:
    if entry["how"] == UNTOUCHED:
        return UNTOUCHED
    return f"random, as many as {SAID[entry['how']]}" if entry["random"] else SAID[entry["how"]]


def _notes(notes: Mapping[str, Any]) -> str:
    return " ".join(str(note) for note in notes.values())


def _mean(found: Mapping[str, float], digits: int, *, signed: bool = False) -> str:
    shown = [f"{found[key]:{'+' if signed else ''}.{digits}f}" for key in ("mean", "low", "high")]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _share(found: Mapping[str, float], *, signed: bool = False) -> str:
    shown = [f"{found[key]:{'+' if signed else ''}.0%}" for key in ("mean", "low", "high")]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
