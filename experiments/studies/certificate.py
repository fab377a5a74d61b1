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
    means = pd.DataFrame(table.groupby("subjects")[list(GAINS)].mean()).reset_index()
    rows = means.rename(columns={"subjects": "subject"}).to_dict("records")
    verdicts = {
        key: part["certificate.verdict"].tolist() for key, part in table.groupby("subjects")
    }
    gained = [set(each) == {"gained"} for each in verdicts.values()]
    return {
        "subjects": [{**row, "verdicts": verdicts[row["subject"]]} for row in rows],
        "n": len(rows),
        "gaining": sum(row["gain_new"] > 0 for row in rows),
        "own": sum(row["gain_others"] < row["gain_new"] / 3 for row in rows),
        "gained": sum(gained),
        "mean": over_subjects(table.assign(all="all"), "all", GAINS)["all"],
        "lead": interval(row["gain_new"] - row["gain_others"] for row in rows),
    }


STUDY = Study(
    "certificate", "Is a concept its subject's own?", cases, measure, results, judged=False
)
