"""Prior pictures: what they show, and that a folder gives back exactly what was drawn."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.search.prior import OTHERS, UNSEEN, pictures, prior_prompts, unseen_prompts


class Painter:
    """Draws noise from the seed and the prompt; keeps what it was asked."""

    def __init__(self, stop: int = 10**6) -> None:
        self.asked: list[tuple[str, int]] = []
        self.stop = stop

    def __call__(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Image.Image]:
        if len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        self.asked += zip(prompts, seeds, strict=True)
        draws = [
            np.random.default_rng([seed, len(p)]) for p, seed in zip(prompts, seeds, strict=True)
        ]
        return [Image.fromarray(d.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for d in draws]


def test_half_is_the_noun_alone_and_in_scenes_and_half_is_other_things() -> None:
    said = prior_prompts("cat", 32)
    assert said[0] == "a cat"
    assert [prompt.startswith("a cat") for prompt in said] == [True, False] * 16
    assert len(set(said[::2])) == 5
    assert {prompt.split()[-1] for prompt in said[1::2]} == set(OTHERS) - {"cat"}
    assert prior_prompts("apple", 3, plain=True) == ["an apple"] * 3


def test_a_certificate_sees_things_that_no_search_looks_at() -> None:
    for noun in ("cat", "teapot"):
        unseen = unseen_prompts(noun, 8)
        assert len(unseen) == 8
        assert not set(unseen) & set(prior_prompts(noun, 32))
        assert f"a {noun}" not in unseen
    assert not set(OTHERS) & set(UNSEEN)


def test_a_picture_depends_on_its_prompt_seed_and_number_alone() -> None:
    first = pictures(Painter(), ["a cat", "a dog", "a cat"], seed=1, size=32)
    assert first.shape == (3, 3, 32, 32)
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert not torch.equal(first[0], first[2])
    more = pictures(Painter(), ["a dog"] + ["a cat"] * 10, seed=1, size=32)
    assert torch.equal(more[:3], first[[1, 0, 2]])
    other = pictures(Painter(), ["a cat"], seed=2, size=32)
    assert not torch.equal(other[0], first[0])


def test_a_folder_gives_back_what_was_drawn(tmp_path: Path) -> None:
    prompts = ["a cat", "a dog"] * 10
    plain = pictures(Painter(), prompts, seed=1, size=32)
    painter, told = Painter(), []

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        told.append((stage, done, total))

    options = {"seed": 1, "size": 32, "folder": tmp_path / "p"}
    assert torch.equal(pictures(painter, prompts, progress=tell, **options), plain)
    assert told == [("pictures", done, 20) for done in (8, 16, 20)]
    assert torch.equal(pictures(painter, prompts, **options), plain)
    assert len(painter.asked) == 20
    assert len(set(painter.asked)) == 20


def test_interrupted_pictures_go_on(tmp_path: Path) -> None:
    prompts = ["a cat"] * 20
    options = {"seed": 1, "size": 32, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        pictures(Painter(stop=8), prompts, **options)
    painter = Painter()
    found = pictures(painter, prompts, **options)
    assert len(painter.asked) == 12
    assert torch.equal(found, pictures(Painter(), prompts, seed=1, size=32))


def test_what_is_missing_is_drawn_in_the_batches_of_an_unbroken_run(tmp_path: Path) -> None:
    def crowded(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        return [Image.new("RGB", (32, 32), (len(prompts), seed % 200, 0)) for seed in seeds]

    options = {"seed": 1, "size": 32, "folder": tmp_path}
    whole = pictures(crowded, ["a cat"] * 20, **options)
    files = sorted(tmp_path.iterdir())
    before = {path: path.read_bytes() for path in files}
    for path in files[::3]:
        path.unlink()
    assert torch.equal(pictures(crowded, ["a cat"] * 20, **options), whole)
    assert {path: path.read_bytes() for path in files} == before
