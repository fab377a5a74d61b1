"""Every study runs, goes on where it stopped, and its page and results follow from its records."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.lab import Lab
from experiments.studies import STUDIES, frontier, shared, storage, table1, tuning
from experiments.study import Case, Options, Row, Study, publish, run
from experiments.tables import interval

ELSEWHERE = ("certificate", "rates")  # need real searches and rivals
CASE: Case = {"subjects": ["a_cat"], "method": "dreambooth", "seed": 0}
ROW = {"method", "success", "interval", "noun", "colour", "second", "place", "drift", "gradients"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCKS", {"mid_block": (64, 1)})


def never(case: Case, lab: Lab) -> list[Row]:
    raise AssertionError(f"measured {case} again")


def strict(text: str) -> dict:
    def refused(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refused)


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in ELSEWHERE])
def test_a_study_runs_once_and_its_page_follows(
    name: str,
    lab: Lab,
    options: Options,
    tmp_path: Path,
    shortened: Callable[[Study], Study],
) -> None:
    weights = {n: w.clone() for n, w in lab.model.weights().items()}
    study = shortened(STUDIES[name])
    run(study, lab, options)
    run(replace(study, measure=never), lab, options)
    pages = [publish(study, lab, options, tmp_path / part).read_text("utf-8") for part in "ab"]
    assert pages[0] == pages[1]
    assert "Not complete" not in pages[0]
    assert ("judge's own accuracy" in pages[0]) == study.judged
    found = strict((tmp_path / "a" / "results" / f"{name}.json").read_text("utf-8"))
    assert found["cases"]["done"] == found["cases"]["of"] > 0
    assert all(w.equal(weights[n]) for n, w in lab.model.weights().items())


def test_the_results_of_table_1_and_of_several_have_their_shape(
    lab: Lab, options: Options
) -> None:
    rows = [
        {"subjects": subjects, "method": method, "seed": 0, "at": "report", "size": 2}
        | dict.fromkeys(shared.FIGURES, value)
        for subjects, value in (("a+b", 0.25), ("c+d", 0.75))
        for method in table1.METHODS
    ]
    table = pd.DataFrame(rows)
    alone = table1.results(table, options)
    (together,) = [STUDIES["several"].results(table, options)["2"]]
    assert [row["method"] for row in alone["rows"]] == list(table1.METHODS)
    assert together["subjects"] == 4
    for row in (*alone["rows"], *together["rows"]):
        assert set(row) >= ROW
        assert row["success"] == 0.5
        assert row["interval"] == pytest.approx([0.5 - 3.177, 0.5 + 3.177], abs=1e-3)


def test_a_rival_is_chosen_on_other_draws_than_it_is_reported_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    success = {1: 0.2, 2: 0.6, 3: 0.4}  # of a choice, by budget; a report says the opposite

    def measured(lab: Lab, how: object, examples: object, **given: object) -> Row:
        budget, choice = how.budget, given.get("draws") == "choice"
        drift = 0.031 if how.name == "cones" else budget / 100
        share = success.get(budget, 0.0)
        return {"success": share if choice else 1 - share, "drift": drift}

    monkeypatch.setattr(shared, "measured", measured)
    rows = shared.compared(CASE, lab)
    of = {row["at"]: row for row in rows}
    assert [row["budget"] for row in rows if row["at"] == "curve"] == [1, 2, 3]
    assert (of["report"]["budget"], of["report"]["success"]) == (2, 0.4)
    assert of["equal drift"]["budget"] == 3


def test_without_any_drift_equal_drift_is_the_best(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(lab: Lab, how: object, examples: object, **given: object) -> Row:
        return {"success": float(how.budget == 2), "drift": 0.03 if how.name == "cones" else 0.0}

    monkeypatch.setattr(shared, "measured", measured)
    rows = shared.compared(CASE, lab)
    assert [row["budget"] for row in rows if row["at"] != "curve"] == [2, 2]


def test_a_difference_is_within_the_subjects_that_both_have() -> None:
    one, other = (
        pd.DataFrame({"subjects": list(keys), "success": values})
        for keys, values in (("aabc", [0.2, 0.4, 0.9, 0.7]), ("ab", [0.1, 0.5]))
    )
    assert shared.lead(one, other) == pytest.approx(interval([0.2, 0.4]))
    nothing = shared.lead(one, other[:0])
    assert nothing == {"mean": None, "low": None, "high": None, "n": 0}


def test_a_point_above_the_line_of_cones_is_told(options: Options) -> None:
    def row(method: str, weight: float | None, success: float, drift: float) -> Row:
        figures = dict.fromkeys(shared.FIGURES, 0.0) | {"success": success, "drift": drift}
        case = {"subjects": "a", "method": method, "prior_weight": weight, "budget": 8}
        return case | figures

    points = [row("cones", 0.1, 0.5, 0.02), row("lora", None, 0.5, 0.02)]
    assert frontier.results(pd.DataFrame(points), options)["above"] == []
    points.append(row("dreambooth", None, 0.2, 0.01))  # where Cones has nothing yet
    (above,) = frontier.results(pd.DataFrame(points), options)["above"]
    assert above["method"] == "dreambooth"


def test_a_best_setting_at_an_edge_is_told(options: Options) -> None:
    rows = [
        {
            "subjects": key,
            **tuning.BASE,
            "prior_weight": weight,
            **dict.fromkeys(shared.FIGURES, 0),
        }
        | {"success": weight}
        for key in ("a", "b")
        for weight in (0.1, 1.0, 3.0)
    ]
    found = tuning.results(pd.DataFrame(rows), options)
    assert found["edges"] == ["prior_weight"]
    assert found["best"]["prior_weight"] == 3.0
    assert found["default"]["success"] == pytest.approx(1.0)
    assert [row["lead"]["mean"] for row in found["rows"]] == pytest.approx([2.0, 0.0, -0.9])
    assert strict(json.dumps(found))
