"""Is a concept its subject's own? The certificate of every subject, on what no search saw."""

import pandas as pd

from experiments.lab import Lab
from experiments.methods import learn
from experiments.methods.cones import certificate
from experiments.metrics.drift import drift
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import interval, over_subjects

GAINS = ("gain_seen", "gain_new", "gain_others", "drift_noun", "drift_unrelated")


def cases(options: Options) -> list[Case]:
    """Take every subject with every seed."""
    return [
        {"subjects": [key], "seed": seed} for key in options.subjects for seed in options.seeds
    ]


def measure(case: Case, lab: Lab) -> list[Row]:
    """Search, and measure new views too."""
    examples = lab.chosen(case["subjects"])
    found = learn(lab, "cones", examples, seed=case["seed"])
    return [{"certificate": dict(certificate(found)), **drift(lab, found, examples[0])}]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average the seeds of a subject, and count the subjects whose new views gain."""
    means = table.groupby("subjects")[list(GAINS)].mean()
    verdicts = table.groupby("subjects")["certificate.verdict"].agg(list)
    subjects = [
        {"subject": key, "verdicts": verdicts[key]} | row.to_dict()
        for key, row in means.iterrows()
    ]
    return {
        "subjects": subjects,
        "n": len(subjects),
        "gaining": int((means["gain_new"] > 0).sum()),
        "own": int((means["gain_others"] < means["gain_new"] / 3).sum()),
        "gained": int(
            (table["certificate.verdict"] == "gained").groupby(table["subjects"]).all().sum()
        ),
        "mean": over_subjects(table.assign(all="all"), "all", GAINS)["all"],
        "lead": interval((means["gain_new"] - means["gain_others"]).tolist()),
    }


STUDY = Study(
    "certificate", "Is a concept its subject's own?", cases, measure, results, judged=False
)
