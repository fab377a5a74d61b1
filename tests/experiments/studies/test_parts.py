"""What single studies compute: values at neurons, files of a large model, answers of people."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.lab import Lab
from experiments.methods import Tuned, fitted, learn
from experiments.studies import storage, userstudy, values
from experiments.studies.shared import RIVALS, shut


@pytest.mark.parametrize(
    ("precision", "allowed"), [("binary", (0, 1)), ("quaternary", (-1, 0, 1, 2))]
)
def test_few_bits_allow_few_values(precision: str, allowed: tuple[int, ...]) -> None:
    factors, theta = torch.linspace(-3, 3, 101), torch.full((101,), 0.7)
    found = values.ROUNDED[precision](factors, theta) / 0.7
    assert sorted(set(found.round(decimals=4).tolist())) == list(allowed)
    assert values.ROUNDED[precision](torch.zeros(1), theta[:1]).item() == 0  # starts shut


def test_values_start_shut_and_end_no_worse_by_the_draws_for_choices(lab: Lab) -> None:
    chosen = lab.chosen(["a_cat"])
    mask = shut(learn(lab, "cones", chosen)).mask
    found = fitted(lab, values.Optimised("float32", budget=3, rate=1.0), chosen)
    assert isinstance(found, Tuned)
    assert len(found.losses) == 4
    assert min(found.losses) < found.losses[0]
    moved = 0
    for name, weight in lab.model.weights().items():
        changed = (found.weights[name] != weight).reshape(-1).nonzero()[:, 0]
        assert set(changed.tolist()) <= set(mask.indices[name].tolist())
        moved += int((found.weights[name] != weight.masked_fill(mask.hits()[name], 0)).sum())
    assert moved > 0


def test_the_large_model_has_the_projections_of_stable_diffusion() -> None:
    shapes = storage.large_shapes()
    # 16 transformer blocks, each with two projections from itself and two from the text.
    assert len(shapes) == 16 * 4
    assert sum(w * d for w, d in shapes.values()) == 2 * sum(
        w * (w + 768) for w in (320,) * 5 + (640,) * 5 + (1280,) * 6
    )


def pictures() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"subjects": key, "place": "snow", "method": method, "files": [f"{key}-{method}.png"]}
            for key in ("a", "b", "c", "d+e")
            for method in ("cones", *RIVALS)
        ]
    )


def test_sides_are_dealt_by_chance_and_no_name_is_told() -> None:
    pairs = userstudy.pairs(pictures())
    left = [row["left"] == "cones" for row in pairs]
    assert len(pairs) == 4 * len(RIVALS)
    assert 4 < sum(left) < 16
    assert not any(method in row["pair"] for row in pairs for method in ("cones", *RIVALS))


def test_answers_are_counted_by_question_and_rival(tmp_path: Path) -> None:
    pairs = userstudy.pairs(pictures())
    key, answers = tmp_path / "key.json", tmp_path / "answers.json"
    key.write_text(json.dumps({row["pair"]: row for row in pairs}))
    said = []
    for row in pairs:  # against LoRA Cones is always preferred, else always what is on the right
        side = "left" if (row["left"], row["right"]) == ("cones", "lora") else "right"
        said.append({"pair": row["pair"], "question": "image", "choice": side})
        rival = "right" if row["left"] == "cones" else "left"
        said.append({"pair": row["pair"], "question": "text", "choice": rival})
    answers.write_text(json.dumps(said))
    found = userstudy.counted(key, [answers, answers])
    of = {(row["question"], row["size"], row["rival"]): row for row in found}
    assert of["image", 1, "lora"]["share"]["mean"] == 1
    assert (of["image", 1, "lora"]["share"]["n"], of["image", 1, "lora"]["answers"]) == (3, 6)
    assert of["image", 2, "lora"]["share"]["n"] == 1
    assert {row["share"]["mean"] for row in found if row["question"] == "text"} == {0}
    answers.write_text(json.dumps([{"pair": "?", "question": "image", "choice": "left"}]))
    with pytest.raises(ValueError, match="expected one to this page"):
        userstudy.counted(key, [answers])
