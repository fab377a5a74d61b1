"""Do the words look at the subject (Fig. 2)? The share of attention inside its true mask.

New views of a subject are noised and denoised once; nothing is drawn, so the subject is where its
mask says, whatever the method. Attention that is equal everywhere has the mask's area as share.
"""

from pathlib import Path

import pandas as pd
import torch
from torch.nn.functional import adaptive_avg_pool2d

from cones.analysis.attention import attend, recorded, token_positions
from cones.drawing import save_png, sheet
from cones.search.loss import draw, examples, predicted
from experiments.lab import Lab
from experiments.methods import Fitted, learn
from experiments.studies.shared import claim, distinct, lead, searches, shut
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import Example, prompt
from experiments.tables import intervals

METHODS = ("untouched", "random", "cones")


def measure(case: Case, lab: Lab) -> list[Row]:
    """Listen to the untouched model, to a random mask and to the concept."""
    (example,), rows = lab.chosen(case["subjects"]), []
    for method in METHODS:
        found = learn(lab, method, [example], seed=case["seed"])
        rows += [{"method": method, **row} for row in heard(lab, found, example)]
    return rows


@torch.no_grad()
def heard(lab: Lab, found: Fitted, example: Example) -> list[Row]:
    """Average over new views and noise, for the identifier and for the noun."""
    model, size = lab.model, lab.model.size
    views = [*zip(example.part("kept", size), example.masks("kept", size), strict=True)]
    each, rows = max(1, lab.effort.draws // len(views)), []
    with found.applied(lab.pipeline):
        for seed, (pixels, mask) in enumerate(views):
            pairs = examples(model, pixels[None], example.phrase)
            drawn = draw(model, pairs, each, purpose="report attention", seed=seed)
            with recorded(model.module, images=each) as listening:
                predicted(model, {}, drawn)
            for kind, word in (("identifier", example.identifier), ("noun", example.noun)):
                looked = listening.map(token_positions(lab.pipeline, example.phrase, word))
                inside = adaptive_avg_pool2d(mask[None], looked.shape[-2:])[0].to(looked)
                share = float(((looked * inside).sum((1, 2)) / looked.sum((1, 2))).mean())
                rows.append({"word": kind, "share": share, "area": float(mask.mean())})
    return rows


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average by word and method; compare subject by subject."""
    rows, leads = [], {}
    for word, part in table.groupby("word", sort=False):
        rows += [{"word": word, **row} for row in intervals(part, "method", ("share", "area"))]
        of = {name: part[part["method"] == name] for name in METHODS}
        leads[word] = {n: lead(of["cones"], of[n], "share") for n in METHODS[:2]}
    found = leads["identifier"]["untouched"]
    paper = "Shutting the neurons turns attention to the subject."
    here = f"The identifier's share inside the subject changes by {found['mean']:+.1%}."
    claims = [claim(paper, here, None if found["low"] is None else found["low"] > 0)]
    return {"subjects": distinct(table), "rows": rows, "leads": leads, "claims": claims}


def figure(table: pd.DataFrame, lab: Lab, docs: Path) -> None:
    """Draw the first subject untouched and shut, with the maps of its words."""
    (example,) = lab.chosen([table["subjects"].iloc[0]])
    concepts = shut(learn(lab, "cones", [example])).concepts
    words, said = [example.identifier, example.noun], prompt([example.phrase])
    steps = lab.effort.inference_steps
    rows = attend(lab.pipeline, concepts, said, words, num_inference_steps=steps)
    page = sheet(rows, [said, *words])
    save_png(page, docs / "attention.png", {"prompt": said})


TITLE = "Do the words look at the subject?"
STUDY = Study("attention", TITLE, searches, measure, results, judged=False, figure=figure)
