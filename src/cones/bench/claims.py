"""The paper's claims, each beside what was found: what the page of experiments begins with."""

from collections.abc import Mapping, Sequence
from typing import Any

from cones.bench.markdown import change, markdown
from cones.bench.paper import NUMBERS, PAPER


def first(results: Mapping[str, Any]) -> list[str]:
    """Set the paper's claims beside what was found, before any table."""
    rows = [
        *_single(results.get("table1", {}).get("table", ())),
        *_several(results.get("several", {}).get("table", ())),
        *_sequential(results.get("sequential", {}).get("summary", {})),
        *_attention(results.get("attention", {}).get("summary", {})),
        *_precision(results.get("precision", {}).get("summary", {})),
        *_overlap(results.get("overlap", {}).get("summary", {})),
        *_style(results.get("style", {}).get("summary", {})),
    ]
    lines = ["## What the paper says, and what was found", ""]
    return [*lines, *markdown(["the paper", "here"], rows)] if rows else []


def _single(table: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    entries = [entry for entry in table if entry["subjects"] == 1]
    rows = []
    for number, (name, said) in enumerate((("text", "words"), ("image", "photos"))):
        paper = sorted(PAPER, key=lambda method: -PAPER[method][0][number])
        claim = f"Table 1, one subject, likeness to the {said}: {' > '.join(paper)}"
        rows.append([claim, _order(entries, f"{name}_alignment")])
    for entry in entries:
        moved = entry.get("change", {})
        if entry["method"].startswith("cones") and "image_alignment" in moved:
            said = ", ".join(
                f"{name} {change(moved[f'{name}_alignment'])}" for name in ("image", "text")
            )
            claim = "Cones draws the subject and goes on listening"
            rows.append([claim, f"`{entry['method']}`, change from the untouched model: {said}"])
    claim = "App. C.4: Cones keeps the diversity of the untouched model better than others"
    rows.append([claim, _order(entries, "template_diversity")])
    return [row for row in rows if row[1]]


def _several(table: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for size in (2, 3, 4):
        entries = [entry for entry in table if entry["subjects"] == size]
        claim = f"Fig. 8, {NUMBERS[size - 1]}: joined neurons show more of them than merged"
        rows.append([f"{claim} Custom Diffusion", _order(entries, "present")])
    return [row for row in rows if row[1]]


def _sequential(summary: Mapping[str, Any]) -> list[list[str]]:
    if not summary:
        return []
    forgotten = {method: each["forgotten"]["mean"] for method, each in summary.items()}
    said = " < ".join(f"{m} {forgotten[m]:.3f}" for m in sorted(forgotten, key=forgotten.get))
    claim = "Fig. A9: DreamBooth and Custom Diffusion forget the first subject, Cones hardly"
    return [[claim, f"forgotten: {said}"]]


def _attention(summary: Mapping[str, Any]) -> list[list[str]]:
    if not summary:
        return []
    word = summary["words"]["subject"]
    said = "; ".join(
        f"{name} {change(word[name]['shut_minus_untouched'])}"
        for name in ("share", "order", "amount")
    )
    claim = "Fig. 2: shutting draws the subject's outline in the attention of its word"
    return [[claim, f"change from the untouched model: {said} ([attention](attention.md))"]]


def _precision(summary: Mapping[str, Any]) -> list[list[str]]:
    if not summary:
        return []
    means = summary["means"]
    losses = sorted(means, key=lambda side: means[side]["loss"]["mean"])
    said = " < ".join(f"{side} {means[side]['loss']['mean']:.4f}" for side in losses)
    claim = "Fig. 3: values in float32, float16, quaternary or binary (shut) do about as well"
    return [[claim, f"held-out loss: {said} ([precision](precision.md))"]]


def _overlap(summary: Mapping[str, Any]) -> list[list[str]]:
    if not summary:
        return []
    shared = {
        kind: "{:.2%} [{:.2%}, {:.2%}], by chance {:.2%}".format(
            *(summary[kind]["jaccard"][each] for each in ("mean", "low", "high")),
            summary[kind]["expected"]["mean"],
        )
        for kind in ("subjects", "joint")
    }
    page = " ([overlap](overlap.md))"
    return [
        ["Sec. 3.3: two subjects share 2.42 % of their neurons", shared["subjects"] + page],
        ["Fig. 4: a union and the joint search have 53.27 % in common", shared["joint"] + page],
    ]


def _style(summary: Mapping[str, Any]) -> list[list[str]]:
    if not summary:
        return []
    said = ", ".join(
        "{} {:.1%} [{:.1%}, {:.1%}]".format(
            style.replace("_", " "), *(each["way"][key] for key in ("mean", "low", "high"))
        )
        for style, each in summary.items()
    )
    claim = "Fig. A10: a concept of a style draws other things in it"
    return [
        [claim, f"of the way from the untouched model to the style: {said} ([style](style.md))"]
    ]


def _order(entries: Sequence[Mapping[str, Any]], score: str) -> str:
    """Name methods from the highest score down."""
    scored = [e for e in entries if score in e["scores"]]
    ordered = sorted(scored, key=lambda entry: -entry["scores"][score]["mean"])
    return " > ".join(f"{e['method']} {e['scores'][score]['mean']:.3f}" for e in ordered)
