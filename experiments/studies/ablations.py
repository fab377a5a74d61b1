"""What does each part of the method bring? Cones with one thing changed at a time.

Learnt with the first seed, judged as in Table 1, and compared subject by subject with the default.
"""

from dataclasses import replace

import pandas as pd

from cones.models.words import candidates
from experiments.lab import Lab
from experiments.methods import METHODS
from experiments.studies import shared
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import rows_of

DEFAULT = "default"
SETTINGS: dict[str, dict[str, object]] = {
    DEFAULT: {},
    "rule: Algorithm A2 alone": {"rule": "adam"},
    "rule: Algorithm 1 alone": {"rule": "sum"},
    "prior: pictures of the noun": {"prior": "drawn"},
    "prior: agreement at weight .1": {"prior_weight": 0.1},
    "prior: none": {"prior": "none"},
    "density: 0.66 %": {"density": 0.0066},
    "density: 2.43 %": {"density": 0.0243},
    "density: 4.54 %": {"density": 0.0454},
    "attention: cross": {"scope": "cross"},
    "attention: self": {"scope": "self"},
    "steps: half": {"steps": 150},
    "steps: double": {"steps": 600},
    "loss: min-snr weights": {"weighting": "min-snr"},
    "guard: within one standard deviation": {"guard": 1.0},
    "photos: not mirrored": {"flip": False},
}
FIELDS: dict[str, dict[str, object]] = {  # of the method
    "photos: 1": {"photos": 1},
    "photos: 2": {"photos": 2},
    "photos: 3": {"photos": 3},
    "loss: inside the subject": {"masked": True},
    "identifier: from the name that fits least": {},
}
UNHEARD = [*FIELDS][-1]
ASKED = {  # what the paper chose, and whether the change should then be for the better
    "rule: Algorithm A2 alone": ("Algorithm A2 finds the neurons.", True),
    "prior: pictures of the noun": ("The prior is the model's own pictures.", True),
    "density: 0.66 %": ("A subject needs 1.32 % of the weights.", False),
    "attention: cross": ("Cross attention dominates the generation of a subject.", True),
}


def cases(options: Options) -> list[Case]:
    """Take every variant with every subject."""
    variants = [*SETTINGS, *FIELDS]
    chosen = [*variants[:2], *variants[-2:]] if options.quick else variants
    return shared.variants(options.subjects, chosen)


def measure(case: Case, lab: Lab) -> list[Row]:
    """Search with one thing changed, and judge."""
    (example,), variant = lab.chosen(case["subjects"]), case["method"]
    if variant == UNHEARD:
        example = replace(example, identifier=f"V{len(candidates(lab.pipeline))}*")
    settings = SETTINGS.get(variant)
    how = METHODS["cones"](**FIELDS[variant]) if settings is None else shared.cones(**settings)
    row = shared.measured(lab, how, [example], seed=case["seed"])
    return [{**row, "response": lab.heard(example).response}]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average, and compare with the default subject by subject."""
    rows, claims = rows_of(table, "method", (*shared.FIGURES, "response")), []
    own = table[table["method"] == DEFAULT]
    for row in rows:
        name = row["method"]
        row["change"] = shared.lead(table[table["method"] == name], own)
        if name in ASKED and row["change"]["mean"] is not None:
            (paper, better), low, high = ASKED[name], row["change"]["low"], row["change"]["high"]
            here = f"{name}: success {row['success']:.0%}, {row['change']['mean']:+.0%}."
            told = low is not None and not low <= 0 <= high
            claims.append(shared.claim(paper, here, (low > 0) == better if told else None))
    return {"subjects": shared.distinct(table), "rows": rows, "claims": claims}


STUDY = Study("ablations", "What does each part bring?", cases, measure, results)
