"""Whom do people prefer (Table A3)? A page of randomised pairs, and a counter of its answers.

``python -m experiments run userstudy`` draws the pictures and writes ``WORK/userstudy``: a page
without any name of a method, and ``key.json`` that says which picture is whose. A person opens the
page and saves ``answers.json``; ``python -m experiments.studies.userstudy KEY ANSWERS...`` counts.
"""

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import typer
from PIL import Image
from rich.console import Console

from cones.files import write_atomic
from experiments.lab import Lab
from experiments.studies import side_by_side
from experiments.studies.shared import RIVALS
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import PLACES, groups, prompt
from experiments.tables import interval, intervals, page

COMBINATIONS, PROMPTS = 3, 4  # of each number of subjects, of each combination (Appendix B.5)
SIDES = ("left", "right")
QUESTIONS = {
    "image": "Which picture is more like the photos?",
    "text": "Which picture shows better what the words say?",
}


def cases(options: Options) -> list[Case]:
    """Take three combinations of each number of subjects in four places, by every method."""
    sizes, prompts = ((1,), 1) if options.quick else ((1, 2, 3, 4), PROMPTS)
    return [
        {"subjects": list(group), "size": n, "place": place, "method": method, "seed": 0}
        for n in sizes
        for group in groups(options.subjects, n)[: 1 if options.quick else COMBINATIONS]
        for place in list(PLACES)[:prompts]
        for method in ("cones", *RIVALS)
    ]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Say what is shown; people's answers are counted by :func:`counted`."""
    rows = intervals(table, "method", ("best", "success"))
    return {"rows": rows, "pairs": len(pairs(table))}


def pairs(table: pd.DataFrame) -> list[dict[str, str]]:
    """Put the best picture of Cones beside that of every rival; digests order pairs and sides."""
    found = []
    for (subjects, place), part in table.groupby(["subjects", "place"]):
        files = {row["method"]: row["files"][0] for row in part.to_dict("records")}
        for rival in [name for name in files if name != "cones" and "cones" in files]:
            name = hashlib.sha256(f"{subjects}/{place}/{rival}".encode()).hexdigest()[:10]
            sides = ("cones", rival) if int(name, 16) % 2 else (rival, "cones")
            row = {"pair": name, "subjects": subjects, "place": place}
            row |= dict(zip(SIDES, sides, strict=True))
            found.append(row | {f"{side}_file": files[row[side]] for side in SIDES})
    return sorted(found, key=lambda row: row["pair"])


def figure(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Write the page and its key into the work folder."""
    folder, found, shown = lab.work / "userstudy", pairs(table), []
    for row in found:
        chosen = lab.chosen(row["subjects"].split("+"))
        photos = [each.folder / name for each in chosen for name in ("00.png", "01.png")]
        entry = {"pair": row["pair"], "photos": [_embedded(file) for file in photos]}
        entry["said"] = prompt([f"this {each.noun}" for each in chosen], row["place"])
        shown.append(entry | {side: _embedded(lab.work / row[f"{side}_file"]) for side in SIDES})
    key = {row["pair"]: {n: row[n] for n in (*SIDES, "subjects")} for row in found}
    text = page("userstudy.html", pairs=shown, questions=QUESTIONS)
    write_atomic(folder / "index.html", text.encode())
    write_atomic(folder / "key.json", json.dumps(key, indent=1).encode())


def counted(key: Path, answers: Sequence[Path]) -> list[Row]:
    """Count how often people prefer Cones, for every question, number of subjects and rival.

    Answers are files that people saved, the key was written with the page; a share is an interval
    over combinations of subjects.

    Raises:
        ValueError: An answer is not to this page.
    """
    sides, rows = json.loads(key.read_text("utf-8")), []
    for file in answers:
        for each in json.loads(file.read_text("utf-8")):
            pair, asked = sides.get(each.get("pair")), each.get("question")
            if pair is None or asked not in QUESTIONS or each.get("choice") not in SIDES:
                raise ValueError(
                    f"found the answer {each} in {file}; expected one to this page; count it with "
                    "the key that was written beside its page"
                )
            (rival,) = {pair[side] for side in SIDES} - {"cones"}
            row = {"question": asked, "size": pair["subjects"].count("+") + 1, "rival": rival}
            own = float(pair[each["choice"]] == "cones")
            rows.append({**row, "subjects": pair["subjects"], "own": own})
    found, by = [], ["question", "size", "rival"]
    for names, part in pd.DataFrame(rows, columns=[*by, "subjects", "own"]).groupby(by):
        share = interval(part.groupby("subjects")["own"].mean())
        about = {**dict(zip(by, names, strict=True)), "size": int(names[1])}
        found.append({**about, "share": share, "answers": len(part)})
    return found


def _embedded(path: Path) -> str:
    data = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(data, "PNG")  # without the text that says how it was drawn
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


STUDY = Study(
    "userstudy", "Whom do people prefer?", cases, side_by_side.measure, results, figure=figure
)


def main(key: Path, answers: list[Path]) -> None:
    """Count the answers."""
    Console().print_json(data=counted(key, answers))


if __name__ == "__main__":
    typer.run(main)
