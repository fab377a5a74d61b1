import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.tables import (
    interval,
    intervals,
    markdown,
    over_subjects,
    plain,
    rows_of,
    write_results,
)

TABLE = pd.DataFrame(
    [
        ("a", "cat", 0, 0.2, 1.0),
        ("a", "cat", 1, 0.4, 1.0),
        ("a", "dog", 0, 0.9, 3.0),
        ("b", "dog", 0, 0.5, 5.0),
        ("b", "cat", 0, 0.1, 7.0),
    ],
    columns=["method", "subjects", "seed", "success", "drift"],
)


def test_an_interval_is_students() -> None:
    values = [0.1, 0.4, 0.2, 0.7]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert interval(values) == pytest.approx(
        {"mean": 0.35, "low": low, "high": high, "n": 4}, rel=1e-9
    )


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert interval([math.nan]) == {"mean": None, "low": None, "high": None, "n": 0}


def test_the_unit_is_the_subject_not_the_search() -> None:
    found = over_subjects(TABLE, "method", ["success"])["a"]["success"]
    assert found == pytest.approx(interval([0.3, 0.9]))  # three rows, two subjects


def test_methods_come_in_their_order_with_the_interval_of_success() -> None:
    rows = rows_of(TABLE.iloc[::-1], "method", ["success", "drift", "absent"])
    assert [row["method"] for row in rows] == ["b", "a"]
    assert rows[1] == {
        "method": "a",
        "n": 2,
        "success": pytest.approx(0.6),
        "interval": [pytest.approx(v) for v in (interval([0.3, 0.9])[k] for k in ("low", "high"))],
        "drift": 2.0,
    }


def test_every_column_has_its_interval() -> None:
    first, second = intervals(TABLE, "method", ["success", "drift"])
    assert (first["method"], second["method"]) == ("a", "b")
    assert first["drift"] == pytest.approx(interval([1.0, 3.0]))


def test_a_results_file_is_strict_json(tmp_path: Path) -> None:
    path = write_results(tmp_path, "x", {"name": "ä"})
    assert path.read_text("utf-8") == '{\n "name": "ä"\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(tmp_path, "x", {"share": math.nan})


def test_a_table_in_markdown() -> None:
    rows = [
        {"method": "cones", "success": 0.614, "interval": [0.5, 0.7], "drift": 0.0175},
        {"method": "lora", "success": None, "interval": [None, None], "drift": interval([0.1])},
    ]
    columns = {"method": "method", "success|pct": "success", "interval|pct": "95 %"}
    assert markdown(rows, {**columns, "drift|3": "drift"}).splitlines() == [
        "| method | success | 95 % | drift |",
        "| --- | --- | --- | --- |",
        "| cones | 61 % | 50 % to 70 % | 0.018 |",
        "| lora |  |  | 0.100 |",
    ]


def test_json_holds_no_nan_and_no_numpy() -> None:
    found = plain({"a": [np.float64(math.nan), np.int64(3)], 1: ("x", None)})
    assert found == {"a": [None, 3], "1": ["x", None]}
    assert type(found["a"][1]) is int
