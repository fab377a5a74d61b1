"""Is a concept its subject's own? The certificate of every subject, on what no search saw."""

import pandas as pd

from cones.search.certify import GAINED
from experiments.lab import Lab
from experiments.methods import learn
from experiments.metrics.drift import drift
from experiments.studies.shared import searches, shut
from experiments.study import Case, Options, Results, Row, Study
from experiments.tables import interval, over_subjects

PARTS = ("subject", "lead", "others", "word", "random", "drift_noun", "drift_unrelated")
GAINS = ("gain_seen", "gain_new", "gain_others", "drift_noun", "drift_unrelated")


def measure(case: Case, lab: Lab) -> list[Row]:
    """Search, and measure new views too."""
    examples = lab.chosen(case["subjects"])
    found = learn(lab, "cones", examples, seed=case["seed"])
    measured = dict(shut(found).concepts[0].certificate)
    return [{"certificate": measured, **drift(lab, found, examples[0])}]


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average the seeds of a subject, and count the subjects whose new views gain."""
    means = pd.DataFrame(table.groupby("subjects", sort=False)[list(GAINS)].mean()).reset_index()
    rows = means.rename(columns={"subjects": "subject"}).to_dict("records")
    told = [shown(row) for row in table.to_dict("records")]
    for row in rows:
        verdicts = {each["verdict"] for each in told if each["name"] == row["subject"]}
        row["verdict"] = ", ".join(sorted(verdicts))
    return {
        "subjects": rows,
        "certificates": told,
        "n": len(rows),
        "gaining": sum(row["gain_new"] > 0 for row in rows),
        "own": sum(max(0.0, row["gain_others"]) < row["gain_new"] / 3 for row in rows),
        "gained": sum(row["verdict"] == GAINED for row in rows),
        "mean": over_subjects(table.assign(all="all"), "all", GAINS)["all"],
        "lead": interval(row["gain_new"] - row["gain_others"] for row in rows),
    }


def shown(row: Row) -> Row:
    """Put the columns of one certificate together again."""
    found = {"name": row["subjects"], "seed": row["seed"], "verdict": row["certificate.verdict"]}
    for part in PARTS:
        found[part] = {at: row[f"certificate.{part}.{at}"] for at in ("mean", "low", "high", "n")}
    return found


STUDY = Study(
    "certificate", "Is a concept its subject's own?", searches, measure, results, judged=False
)
