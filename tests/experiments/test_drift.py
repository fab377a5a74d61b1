from dataclasses import replace

import pytest
import torch

from experiments.lab import Lab
from experiments.methods import Shut, Tuned, learn, untouched
from experiments.metrics import drift as metric
from experiments.metrics.drift import drift
from tiny_lab import tiny_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return tiny_lab(tmp_path_factory.mktemp("lab"))


def test_the_untouched_model_gains_by_its_word_alone_and_does_not_drift(lab: Lab) -> None:
    (cat,) = lab.chosen(["a_cat"])
    found = drift(lab, untouched(lab, [cat]), cat)
    assert {found["drift_noun"], found["drift_unrelated"], found["drift"]} == {0.0}
    assert found["gain_new"] != 0.0
    plain = replace(cat, identifier="")  # "a  cat", which is read as "a cat"
    assert drift(lab, untouched(lab, []), plain)["gain_new"] == 0.0


def test_a_word_alone_does_not_move_the_plain_noun(lab: Lab) -> None:
    (cat,) = lab.chosen(["a_cat"])
    words = {"V*": {"text_encoder": 9 * torch.ones(1, 32)}}
    found = drift(lab, Tuned(words, (cat.phrase,)), cat)
    assert found["drift"] == found["drift_noun"] == found["drift_unrelated"] == 0.0
    assert found["gain_new"] != 0.0


def test_shut_neurons_drift_by_what_predictions_move(lab: Lab) -> None:
    (cat,) = lab.chosen(["a_cat"])
    found = learn(lab, "cones", [cat])
    assert isinstance(found, Shut)
    measured = drift(lab, found, cat)
    half = drift(lab, Shut(found.concepts, found.phrases, strength=0.5), cat)
    assert measured["drift_noun"] > half["drift_noun"] > 0
    mean = (measured["drift_noun"] + measured["drift_unrelated"]) / 2
    assert measured["drift"] == pytest.approx(mean)


def test_choice_and_report_share_no_draw_and_each_is_measured_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cat,) = lab.chosen(["a_cat"])
    found, fresh = learn(lab, "cones", [cat]), replace(lab)
    report = drift(fresh, found, cat)
    choice = drift(fresh, found, cat, purpose="choice")
    assert all(report[name] != choice[name] for name in report)
    asked: list[int] = []
    monkeypatch.setattr(metric, "untouched", lambda *given: asked.append(1))
    assert drift(fresh, found, cat) == report
    assert not asked


def test_gain_is_the_fall_of_the_error(lab: Lab) -> None:
    (cat,) = lab.chosen(["a_cat"])
    last = lab.pipeline.unet.conv_out
    words = {"V*": lab.start(cat)}

    def saying(value: float) -> dict[str, float]:
        weights = {"conv_out.weight": torch.zeros_like(last.weight)}
        weights["conv_out.bias"] = torch.full_like(last.bias, value)
        return drift(lab, Tuned(words, (cat.phrase,), weights=weights), cat)

    # The target is unit noise, so that saying 3 is wrong by 9 more than saying 0.
    nothing, three = saying(0.0), saying(3.0)
    for name in ("gain_seen", "gain_new", "gain_others"):
        assert nothing[name] - three[name] == pytest.approx(9, abs=1)
    assert three["drift"] > nothing["drift"] > 0
