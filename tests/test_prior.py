"""Prior pictures: drawn once, kept, and never confused with another model's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cones.backbones import backbone_for
from cones.bench.plan import PROMPTS
from cones.errors import BackboneError, SubjectError
from cones.prior import SCENES, prior_folder, prior_images, prior_key, prior_prompts, prior_set

SETTINGS = {"noun": "cat", "steps": 2, "guidance": 2.0}


def test_pictures_are_drawn_kept_and_extended(sd1: Any, tmp_path: Path) -> None:
    told = []
    note = lambda done, count: told.append((done, count))  # noqa: E731
    first = prior_images(sd1, count=3, batch=2, cache_dir=tmp_path, on_progress=note, **SETTINGS)
    assert first.shape == (3, 3, 64, 64)
    assert told == [(2, 3), (3, 3)]
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
    ]
    more = prior_images(sd1, count=4, cache_dir=tmp_path, on_progress=note, **SETTINGS)
    assert torch.equal(more[:3], first)
    assert told[2:] == [(4, 4)]
    assert not torch.equal(more[0], more[1])
    assert torch.equal(
        prior_images(sd1, count=4, cache_dir=tmp_path, on_progress=note, **SETTINGS), more
    )
    assert len(told) == 3  # nothing was drawn
    fresh = prior_images(sd1, count=1, batch=1, **SETTINGS)
    torch.testing.assert_close(fresh, first[:1], atol=1.5 / 255, rtol=0)


def test_scenes_take_turns_and_none_is_in_an_evaluation() -> None:
    assert prior_prompts("cat", "noun", 3) == ["a cat"] * 3
    scenes = prior_prompts("cat", "scenes", len(SCENES) + 2)
    assert scenes[0] == scenes[len(SCENES)] == "a cat"
    assert scenes[1] == scenes[-1] == SCENES[1].format("cat")
    assert len(set(scenes)) == len(SCENES)
    places = {scene.removeprefix("a {}").strip() for scene in SCENES[1:]}
    assert not any(place in prompt for place in places for prompt in PROMPTS)


def test_a_picture_of_a_set_is_that_of_its_prompt_alone(sd1: Any, tmp_path: Path) -> None:
    told = []
    note = lambda done, count: told.append((done, count))  # noqa: E731
    asked = {"steps": 2, "batch": 1, "cache_dir": tmp_path}
    prompts = ["a cat", "a dog", "a cat"]
    found = prior_set(sd1, prompts, on_progress=note, **asked)
    cats = prior_images(sd1, prompt="a cat", count=2, **asked)
    dogs = prior_images(sd1, prompt="a dog", count=1, **asked)
    assert torch.equal(found, torch.stack([cats[0], dogs[0], cats[1]]))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not torch.equal(cats[0], dogs[0])


def test_a_damaged_picture_is_drawn_again(sd1: Any, tmp_path: Path) -> None:
    first = prior_images(sd1, count=2, batch=1, cache_dir=tmp_path, **SETTINGS)
    (folder,) = tmp_path.iterdir()
    (folder / "00001.png").write_bytes((folder / "00001.png").read_bytes()[:60])
    again = prior_images(sd1, count=2, batch=1, cache_dir=tmp_path, **SETTINGS)
    assert torch.equal(again, first)


def test_the_key_is_that_of_model_prompt_and_settings(
    sd1: Any, fresh: Callable[[Any], Any]
) -> None:
    pipeline = fresh(sd1)
    plain = prior_key(pipeline, "a cat", {"steps": 2})
    assert plain == prior_key(sd1, "a cat", {"steps": 2})
    assert plain != prior_key(pipeline, "a dog", {"steps": 2})
    assert plain != prior_key(pipeline, "a cat", {"steps": 3})
    backbone_for(pipeline).register("V*")
    assert plain == prior_key(pipeline, "a cat", {"steps": 2})
    for part in ("unet", "vae", "text_encoder"):
        weight = list(getattr(pipeline, part).parameters())[-1].data
        weight[0] += 1
        assert plain != prior_key(pipeline, "a cat", {"steps": 2})
        weight[0] -= 1
    pipeline.register_to_config(_name_or_path="other/model")
    assert plain != prior_key(pipeline, "a cat", {"steps": 2})


def test_a_folder_of_photographs(tmp_path: Path) -> None:
    for number in range(22):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{number}.png")
    assert prior_folder(tmp_path, size=8).shape == (22, 3, 8, 8)


def test_leaves_the_progress_bar_as_it_was(sd1: Any, fresh: Callable[[Any], Any]) -> None:
    pipeline = fresh(sd1)
    pipeline.set_progress_bar_config(desc="mine", disable=True)
    prior_images(pipeline, count=1, **SETTINGS)
    assert pipeline._progress_bar_config == {"desc": "mine", "disable": True}


def test_refuses(sd1: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SubjectError, match="expected exactly one"):
        prior_images(sd1)
    with pytest.raises(SubjectError, match="expected exactly one"):
        prior_images(sd1, noun="cat", prompt="a cat")
    with pytest.raises(SubjectError, match="found count 0"):
        prior_images(sd1, noun="cat", count=0)

    class Flagged:
        nsfw_content_detected = (True,)

    monkeypatch.setattr(type(sd1), "__call__", lambda *_, **__: Flagged())
    with pytest.raises(BackboneError, match="1 of 1 prior pictures blackened"):
        prior_images(sd1, noun="cat", count=1)
