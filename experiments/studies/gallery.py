"""Do the subjects come out? All of them, as they come: no picture and no subject is chosen.

Photo, untouched model and Cones in six places, with one of the seeds for pictures that are shown.
"""

from pathlib import Path

import pandas as pd
from PIL import Image

from cones.drawing import save_png, sheet
from cones.files import replace_when_done
from experiments.lab import Lab
from experiments.methods import learn
from experiments.metrics.success import judged
from experiments.studies.shared import FIRST_SEED, read
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import prompt

SHOWN = ("beach", "grass", "night", "room", "snow", "wooden floor")
COLUMNS = ("photo", "untouched, beach", *SHOWN)
QUALITY = 88  # of the JPEG file


def cases(options: Options) -> list[Case]:
    """Take every subject with the first search."""
    return [{"subjects": [key], "seed": 0} for key in options.subjects]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Draw one picture a place, and let the examiner say which are a success."""
    (example,), files = lab.chosen(case["subjects"]), []
    drawn = [Image.open(example.folder / "00.png").convert("RGB")]
    for method, places in (("untouched", SHOWN[:1]), ("cones", SHOWN)):
        found = learn(lab, method, [example], seed=case["seed"])
        with found.applied(lab.pipeline):
            said = [prompt(found.phrases, place) for place in places]
            drawn += lab.draw(said, [FIRST_SEED["shown"]])
    seen = zip(read(lab, drawn[-len(SHOWN) :]), SHOWN, strict=True)
    right = sum(judged(each, [example], place)["success"] for each, place in seen)
    for name, image in zip(COLUMNS, drawn, strict=True):
        files.append(f"shown/{example.key}-{name.replace(' ', '_')}.png")
        save_png(image, lab.work / files[-1], {"subject": example.key})
    return [{"files": files, "right": right}]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Count the successes among the pictures that are shown."""
    shown = table[["subjects", "right"]].to_dict("records")
    return {"rows": shown, "right": sum(table["right"]), "of": len(SHOWN) * len(table)}


def figure(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Lay the pictures out, a row a subject."""
    rows = {
        str(row["subjects"]).replace("_", " "): [Image.open(lab.work / f) for f in row["files"]]
        for row in table.to_dict("records")
    }
    with replace_when_done(docs / "gallery.jpg") as path:
        sheet(rows, COLUMNS).save(path, "JPEG", quality=QUALITY)


STUDY = Study("gallery", "Every subject, as it comes", cases, measure, results, figure=figure)
