"""Eight searches on Ray, of which one is killed, end as in a plain loop."""

from pathlib import Path

import pytest

from experiments.scale import many


@pytest.mark.slow
def test_a_worker_that_dies_changes_no_file(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = many(tmp_path)
    assert (found["subjects"], found["equal"], found["strays"]) == (8, 8, 0)
    assert (found["workers"], found["killed"]) == (2, ["WorkerCrashedError"])
    assert found["processes"] >= 2
    assert found["skipped"] == 8
