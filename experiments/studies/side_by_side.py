"""How do the best pictures look (Fig. 7)? The best two of twenty by each method, side by side.

The examiner chooses, the same way for all; how many of the twenty are a success stands beside.
"""

from pathlib import Path

import pandas as pd
from PIL import Image

from cones.drawing import save_png, sheet
from experiments.lab import Lab
from experiments.methods import learn
from experiments.metrics.success import judged
from experiments.studies.shared import MERGED, RIVALS, claim, read, seeds
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import PLACES, groups, prompt
from experiments.tables import intervals

BEST = 2
ALONE = ("untouched", "cones", *RIVALS)
TOGETHER = ("untouched", "cones", "cones-collaborative", *RIVALS, *MERGED)


def cases(options: Options) -> list[Case]:
    """Take a group of every size, each in a place of its own, by every method."""
    found = []
    for size, place in zip((1, 2) if options.quick else (1, 2, 3, 4), PLACES, strict=False):
        for group in groups(options.subjects, size)[:1]:
            case = {"subjects": list(group), "size": size, "place": place, "seed": 0}
            methods = ALONE if size == 1 else TOGETHER
            found += [{**case, "method": method} for method in methods]
    return found


def measure(case: Case, lab: Lab) -> list[Row]:
    """Draw one prompt many times, rank by what the examiner reads, and keep the best."""
    chosen, place, method = lab.chosen(case["subjects"]), case["place"], case["method"]
    found, tries = learn(lab, method, chosen, seed=case["seed"]), seeds(lab.effort, "shown")
    said = prompt(found.phrases, place)
    with found.applied(lab.pipeline):
        drawn = lab.draw([said], tries)
    rows = [judged(seen, chosen, place) for seen in read(lab, drawn)]
    order = sorted(range(len(rows)), key=lambda k: (-rows[k]["success"], -sum(rows[k].values())))
    files = []
    for rank, k in enumerate(order[:BEST]):
        name = "-".join([*case["subjects"], place, method, str(case["seed"]), str(rank)])
        files.append(f"shown/{name.replace(' ', '_')}.png")
        save_png(drawn[k], lab.work / files[-1], {"prompt": said, "seed": tries[k]})
    success = sum(row["success"] for row in rows) / len(rows)
    best = sum(rows[k]["success"] for k in order[:BEST]) / BEST
    return [{"success": success, "best": best, "of": len(rows), "files": files}]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Say how many of the pictures are right."""
    rows, claims = [], []
    for size, part in table.groupby("size"):
        about = {"size": int(size), **part.iloc[0][["subjects", "place"]].to_dict()}
        found = intervals(part, "method", ("best", "success"))
        rows += [about | row for row in found]
        best = {row["method"]: row["best"]["mean"] or 0.0 for row in found}
        own, others = (
            max((best[name] for name in names if name in best), default=None)
            for names in (("cones", "cones-collaborative"), (*RIVALS, *MERGED))
        )
        if own is not None and others is not None:
            here = f"Best two right: Cones {own:.0%}, best rival {others:.0%}."
            paper = f"Pictures of {size} by Cones are as good as any, or better."
            claims.append(claim(paper, here, own >= others))
    return {"rows": rows, "of": int(table["of"].max()), "claims": claims}


def figure(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Lay the pictures out: a row a method, the photos on top, groups from left to right."""
    rows: dict[str, list[Image.Image]] = {"photos": []}
    captions: list[str] = []
    blank = Image.new("RGB", (lab.model.size, lab.model.size), "white")
    for _, part in table.groupby("size"):
        chosen, place = lab.chosen(part["subjects"].iloc[0].split("+")), part["place"].iloc[0]
        shown = {row["method"]: row["files"] for row in part.to_dict("records")}
        paths = {name: [lab.work / file for file in files] for name, files in shown.items()}
        paths = {"photos": [each.folder / "00.png" for each in chosen], **paths}
        wide, before = max(BEST, len(chosen)), len(rows["photos"])
        for name, files in paths.items():
            row = rows.setdefault(name, [])
            row += [blank] * (before - len(row)) + [Image.open(file) for file in files]
            row += [blank] * (before + wide - len(row))
        captions += [prompt([each.phrase for each in chosen], place), *[""] * (wide - 1)]
    save_png(sheet(rows, captions), docs / "side_by_side.png", {})


TITLE = "The best pictures of each method"
STUDY = Study("side_by_side", TITLE, cases, measure, results, least=2, figure=figure)
