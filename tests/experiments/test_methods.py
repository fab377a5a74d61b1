from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cones import Settings
from cones.models.words import spoken
from cones.search.loss import ImplantingLoss, examples
from experiments.lab import Effort, Lab
from experiments.methods import METHODS, Shut, Task, Tuned, fitted, learn, untouched
from experiments.methods.cones import Control
from experiments.methods.learning import PURPOSE, Lesson
from experiments.methods.rivals import TRAINED, Rival, rival
from tiny_lab import tiny_lab

ALONE = [name for name in METHODS if "-joint" not in name and "collab" not in name]
Bits = tuple[dict[str, Tensor], dict[str, bool], dict[str, int]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return tiny_lab(tmp_path_factory.mktemp("lab"))


def bits(lab: Lab) -> Bits:
    parts = (lab.pipeline.unet, lab.pipeline.text_encoder)
    state = {n: t.clone() for part in parts for n, t in part.state_dict().items()}
    flags = {n: p.requires_grad for part in parts for n, p in part.named_parameters()}
    return state, flags, lab.pipeline.tokenizer.get_vocab()


def same(one: Bits, other: Bits) -> bool:
    equal = all(torch.equal(t, other[0][n]) for n, t in one[0].items())
    return equal and one[0].keys() == other[0].keys() and one[1:] == other[1:]


@torch.no_grad()
def said(lab: Lab, prompt: str) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    noised = torch.randn(2, *lab.model.latent_shape, generator=draw)
    times = torch.tensor([100, 700])
    return lab.model.predict({}, noised, times, lab.model.condition([prompt] * 2))


@pytest.mark.parametrize("name", ALONE)
def test_a_method_leaves_every_bit_and_is_read_back(lab: Lab, name: str) -> None:
    before = bits(lab)
    found = learn(lab, name, lab.chosen(["a_cat"]))
    assert same(bits(lab), before)
    with found.applied(lab.pipeline):
        first = said(lab, found.phrases[0])
    assert same(bits(lab), before)
    with learn(lab, name, lab.chosen(["a_cat"])).applied(lab.pipeline):
        assert said(lab, found.phrases[0]).equal(first)
    with untouched(lab, lab.chosen(["a_cat"])).applied(lab.pipeline):
        plain = said(lab, "a V* cat")
    assert first.equal(plain) == (name in ("untouched",))
    assert (found.bytes > 0) == (name not in ("untouched", "words"))


def test_controls_are_what_they_say(lab: Lab) -> None:
    (cat,) = lab.chosen(["a_cat"])
    found = {name: learn(lab, name, [cat]) for name in ("cones", "random", "random-matched")}
    masks = {name: each.mask for name, each in found.items() if isinstance(each, Shut)}
    counts = [{n: len(mask.indices[n]) for n in mask} for mask in masks.values()]
    assert counts[0] == counts[1] == counts[2]
    assert len(masks["cones"] & masks["random"]) < len(masks["cones"])
    assert found["random"].phrases == found["cones"].phrases == ("a V* cat",)
    assert learn(lab, "no-identifier", [cat]).phrases == ("a cat",)
    assert learn(lab, "words", [cat]).phrases == ("a striped red and blue cat",)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("dreambooth", lambda n: True),
        ("custom-diffusion", lambda n: "attn2.to_k" in n or "attn2.to_v" in n),
        ("textual-inversion", lambda n: False),
    ],
)
def test_a_rival_trains_its_own_weights(
    lab: Lab, name: str, changed: Callable[[str], bool]
) -> None:
    (cat,) = lab.chosen(["a_cat"])
    found = learn(lab, name, [cat])
    assert isinstance(found, Tuned)
    own = dict(lab.pipeline.unet.named_parameters())
    assert set(found.weights) == {n for n in own if changed(n)}
    assert all(not found.weights[n].equal(own[n]) for n in found.weights)
    moved = not found.words["V*"]["text_encoder"].equal(lab.start(cat)["text_encoder"])
    assert moved == (name != "dreambooth")
    assert len(found.losses) == found.gradients == 3


def test_shira_trains_as_many_values_as_a_lora_of_its_rank(lab: Lab) -> None:
    found = learn(lab, "shira", lab.chosen(["a_cat"]))
    assert isinstance(found, Tuned)
    shapes = {n.removesuffix(".weight"): w.shape for n, w in lab.model.weights().items()}
    values = {
        n.removeprefix("base_model.model.").removesuffix(".shira_weight"): len(t)
        for n, t in found.adapter.items()
        if n.endswith(".shira_weight")
    }
    assert values == {n: 2 * sum(shape) for n, shape in shapes.items()}


def test_rivals_see_what_a_search_sees(lab: Lab, tmp_path: Path) -> None:
    (cat,) = lab.chosen(["a_cat"])
    lesson = Lesson.of(lab, Task((cat,), 3, tmp_path), prior=False)
    with spoken(lab.pipeline, {"V*": lab.start(cat)}):
        pixels = cat.seen(lab.model.size)
        pairs = examples(lab.model, pixels, [cat.phrase] * len(pixels), flip=True)
    searched = ImplantingLoss(lab.model, pairs).at(5, purpose=PURPOSE, seed=3)
    (part,) = searched(lab.model.weights())
    subject, _ = part()
    assert torch.allclose(lesson.at(5)[0], subject, rtol=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lab = tiny_lab(tmp_path, gradients=8)
    subjects = lab.chosen(["a_cat"])
    whole = rival(name, budget=8).fit(lab, Task(subjects, 0, tmp_path / "whole"))
    first = rival(name, budget=4).fit(lab, Task(subjects, 0, tmp_path / "parts", going_on=True))
    assert first.gradients == 4
    assert list((tmp_path / "parts").glob("*.safetensors"))
    original = Lesson.at

    def stopped(lesson: Lesson, step: int, **options: object) -> list[Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return original(lesson, step, **options)

    monkeypatch.setattr(Lesson, "at", stopped)
    task = Task(subjects, 0, tmp_path / "parts")
    before = bits(lab)
    with pytest.raises(KeyboardInterrupt):
        rival(name, budget=8).fit(lab, task)
    assert same(bits(lab), before)
    monkeypatch.undo()
    resumed = rival(name, budget=8).fit(lab, task)
    for part in ("weights", "adapter"):
        ours, theirs = getattr(whole, part), getattr(resumed, part)
        assert all(ours[n].equal(theirs[n]) for n in ours)
    assert whole.losses == resumed.losses
    assert not list((tmp_path / "parts").glob("*.safetensors"))


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    lab = tiny_lab(tmp_path, gradients=6)
    before = bits(lab)
    with pytest.raises(ValueError, match="found a loss of .*expected a finite.*lower the rate"):
        learn(lab, "dreambooth", lab.chosen(["a_cat"]), rate=1e30)
    assert same(bits(lab), before)


def test_a_fit_is_made_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects, method = lab.chosen(["a_dog"]), rival("lora", budget=2)
    fitted(lab, method, subjects)

    def again(self: Rival, lab: Lab, task: Task) -> Tuned:
        raise InterruptedError

    monkeypatch.setattr(Rival, "fit", again)
    fitted(replace(lab, effort=replace(lab.effort, pictures=5)), method, subjects)
    with pytest.raises(InterruptedError):
        fitted(lab, method, subjects, seed=1)
    with pytest.raises(InterruptedError):
        fitted(replace(lab, effort=Effort()), method, subjects)


def test_another_default_is_another_fit(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    subjects, told = lab.chosen(["a_dog"]), lab.told
    learn(lab, "random", subjects)
    others = Settings(prior_weight=0.5)
    monkeypatch.setattr("experiments.methods.fits.Settings", lambda: others)
    monkeypatch.setattr("experiments.lab.Settings", lambda: others)
    monkeypatch.setattr(Control, "fit", lambda *_: pytest.fail("fitted anew"))
    assert lab.told != told
    with pytest.raises(pytest.fail.Exception, match="fitted anew"):
        learn(lab, "random", subjects)


@pytest.mark.parametrize("name", ["cones", "cones-collaborative", "cones-joint", "random"])
def test_several_subjects_are_called_apart(lab: Lab, name: str) -> None:
    found = learn(lab, name, lab.chosen(["a_cat", "a_dog"]))
    assert isinstance(found, Shut)
    assert found.phrases == ("a V* cat", "a V2* dog")
    apart = [learn(lab, "cones", lab.chosen([key])) for key in ("a_cat", "a_dog")]
    union = apart[0].mask | apart[1].mask
    if name == "cones":
        assert found.mask == union
    if name == "cones-collaborative":
        assert found.mask <= union
        assert found.gradients == 3 * 3
    with found.applied(lab.pipeline):
        said(lab, "a V* cat and a V2* dog")
