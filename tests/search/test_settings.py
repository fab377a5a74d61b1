"""Settings are refused before anything is loaded, and record what is read and nothing else."""

import math
from dataclasses import fields

import pytest

from cones.errors import SearchError
from cones.search.settings import Settings

BAD = [
    ("rule", "best", "rule is 'best'; expected one of refine, sum, adam"),
    ("scope", "text", "scope is 'text'; expected one of both, cross, self"),
    ("prior", None, "prior is None; expected one of agreement, drawn, none"),
    ("weighting", ["uniform"], "expected one of uniform, min-snr"),
    ("density", 0.0, "density is 0.0; expected float from 1e-06 to 0.9"),
    ("density", 1.5, "density is 1.5"),
    ("density", "1%", "density is '1%'"),
    ("density", math.nan, "density is nan"),
    ("steps", 0, "steps is 0; expected int from 1 to 1000000"),
    ("steps", 10.0, "steps is 10.0"),
    ("steps", True, "steps is True"),
    ("steps", None, "steps is None"),
    ("rate", math.inf, "rate is inf"),
    ("rate", 0, "rate is 0"),
    ("score_rate", -1e-3, "score_rate is -0.001"),
    ("batch", 0, "batch is 0"),
    ("micro_batch", 0, "micro_batch is 0"),
    ("prior_weight", -0.1, "prior_weight is -0.1"),
    ("prior_weight", False, "prior_weight is False"),
    ("drift", 0.0, "drift is 0.0"),
    ("flip", 1, "flip is 1; expected bool from False to True"),
    ("draws", 1, "draws is 1; expected int from 2"),
    ("seed", -1, "seed is -1"),
    ("seed", 2**63, "seed is 9223372036854775808"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_searched_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        Settings().changed({name: value})


@pytest.mark.usefixtures("unchecked")
def test_edges_are_allowed() -> None:
    kept = {"prior_weight": 0, "density": None, "guard": None, "micro_batch": None, "draws": 2}
    for name, value in {**kept, "seed": 2**63 - 1, "prior_guidance": 1}.items():
        assert getattr(Settings().changed({name: value}), name) == value


def test_an_unknown_setting_is_named_with_its_neighbour() -> None:
    with pytest.raises(
        SearchError, match="setting 'prior_wieght'; expected rule, .*use prior_weight"
    ):
        Settings().changed({"prior_wieght": 1.0})


@pytest.mark.parametrize("other", [{"rule": "sum"}, {"prior": "drawn"}, {"prior": "none"}])
def test_drift_is_refused_where_nothing_steers_it(other: dict[str, str]) -> None:
    assert Settings(drift=0.02).drift == 0.02
    with pytest.raises(SearchError, match="drift is 0.02 with rule="):
        Settings().changed({"drift": 0.02, **other})


def test_records_leave_out_what_the_rule_never_reads() -> None:
    everything = {field.name for field in fields(Settings)}
    assert set(Settings().recorded()) == everything
    refining = {"score_steps", "rate", "drift"}
    for rule in ("sum", "adam"):
        assert set(Settings(rule=rule).recorded()) == everything - refining
    bare = Settings(prior="none").recorded()
    assert everything - set(bare) == {"prior_weight", "prior_count", "prior_batch"}
    assert Settings(seed=7).recorded()["seed"] == 7


def test_the_papers_letter() -> None:
    paper = Settings.paper()
    assert (paper.rule, paper.prior, paper.prior_weight) == ("sum", "drawn", 1.0)
    assert (paper.steps, paper.score_rate, paper.batch) == (1000, 2e-5, 2)
    assert (paper.density, paper.prior_guidance, paper.flip) == (0.0132, 7.5, False)
