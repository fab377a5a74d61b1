"""Eqs. 2-4 against plain numbers, and draws that depend on seed and step alone."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from cones.backbones import backbone_for
from cones.errors import SubjectError
from cones.objective import Examples, ImplantingLoss, JointLoss, Parts, examples
from cones.subject import Subject


class Scale:
    """A backbone whose only weight scales latents; the loss is a formula, every call is kept."""

    train_steps, resolution, latent_shape = 1000, 64, (1, 2, 2)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 1000, (count,), generator=generator)

    def loss(self, weights: Mapping[str, Tensor], **drawn: Any) -> Tensor:
        self.calls.append(drawn)
        error = weights["w"] * drawn["latents"] - drawn["noise"]
        return error.square().flatten(1).mean(1)


def pairs(values: list[float]) -> Examples:
    """Make latents of constant value, marked in the condition as well."""
    latents = torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2)
    return Examples(latents, {"encoder_hidden_states": latents.flatten(1)})


WEIGHTS = {"w": torch.tensor(0.5)}
SUBJECT, PRIOR = [1.0, 2.0, 3.0], [10.0, 20.0]


def implanting(**changes: Any) -> ImplantingLoss:
    """Make a loss of three subject and two prior pictures."""
    settings = {"prior": pairs(PRIOR), "batch": 4, **changes}
    return ImplantingLoss(Scale(), pairs(SUBJECT), **settings)


def by_hand(drawn: dict[str, Any], weight: float, count: int, prior_weight: float) -> float:
    """Work out Eq. 4 sample by sample, in plain floats."""
    errors = []
    for latents, noise in zip(drawn["latents"], drawn["noise"], strict=True):
        each = [
            (weight * x - e) ** 2
            for x, e in zip(latents.flatten().tolist(), noise.flatten().tolist(), strict=True)
        ]
        errors.append(sum(each) / len(each))
    subject, prior = errors[:count], errors[count:]
    return sum(subject) / count + prior_weight * sum(prior) / len(prior)


@pytest.mark.parametrize("prior_weight", [0.0, 1.0, 2.5])
def test_loss_is_equation_4(prior_weight: float) -> None:
    loss = implanting(prior_weight=prior_weight)
    found = loss.at(3, seed=1)(WEIGHTS)
    (drawn,) = loss.backbone.calls
    assert found.shape == ()
    assert float(found) == pytest.approx(by_hand(drawn, 0.5, 4, prior_weight), rel=1e-5)


def test_one_mixed_batch_of_subject_and_prior_examples() -> None:
    loss = implanting(batch=6, weighting="min-snr")
    loss.at(0, seed=0)(WEIGHTS)
    (drawn,) = loss.backbone.calls
    marks = drawn["latents"][:, 0, 0, 0].tolist()
    assert sorted(marks[:6]) == [1, 1, 2, 2, 3, 3]  # pictures come evenly
    assert sorted(marks[6:]) == [10, 10, 10, 20, 20, 20]
    assert drawn["condition"]["encoder_hidden_states"][:, 0].tolist() == marks
    assert drawn["weighting"] == "min-snr"
    assert len(drawn["timesteps"]) == 12
    assert not torch.equal(drawn["noise"][:6], drawn["noise"][6:])


def test_without_prior_only_the_subject() -> None:
    loss = implanting(prior=None)
    found = loss.at(3, seed=1)(WEIGHTS)
    (drawn,) = loss.backbone.calls
    assert len(drawn["latents"]) == 4
    error = (0.5 * drawn["latents"] - drawn["noise"]).square().mean()
    torch.testing.assert_close(found, error)
    parts = loss.parts(WEIGHTS, samples=5, seed=0)
    assert parts.prior.shape == (0,)
    assert parts.total == pytest.approx(float(parts.subject.mean()))
    torch.testing.assert_close(implanting(prior_weight=0.0).at(3, seed=1)(WEIGHTS), found)


def test_draws_depend_on_seed_and_step_alone() -> None:
    def drawn(step: int, seed: int) -> Tensor:
        loss = implanting()
        torch.rand(3)  # the global generator plays no part
        loss.at(step, seed=seed)(WEIGHTS)
        call = loss.backbone.calls[0]
        return torch.cat([call["noise"].flatten(), call["timesteps"]])

    first = drawn(7, 1)
    assert torch.equal(first, drawn(7, 1))
    assert not torch.equal(first, drawn(8, 1))
    assert not torch.equal(first, drawn(7, 2))
    assert not torch.equal(drawn(1, 2), drawn(2, 1))


def test_a_loss_is_the_same_function_on_every_call() -> None:
    loss = implanting().at(0, seed=0)
    assert torch.equal(loss(WEIGHTS), loss(WEIGHTS))
    weight = torch.tensor(0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss({"w": weight}), [weight])
    step = 1e-3
    slope = (loss({"w": weight + step}) - loss({"w": weight - step})) / (2 * step)
    torch.testing.assert_close(gradient, slope.detach(), rtol=1e-2, atol=1e-2)


def test_held_out_samples_are_fixed_and_no_searched_ones() -> None:
    loss = implanting(prior_weight=3.0)
    first = loss.parts(WEIGHTS, samples=8, seed=0)
    again = loss.parts(WEIGHTS, samples=8, seed=0, batch=5)
    torch.testing.assert_close(first.subject, again.subject)
    torch.testing.assert_close(first.prior, again.prior)
    assert first.subject.shape == first.prior.shape == (8,)
    assert not first.subject.requires_grad
    assert [len(call["latents"]) for call in loss.backbone.calls] == [16, 5, 5, 5, 1]
    held_out = loss.backbone.calls[0]
    marks = held_out["latents"][:, 0, 0, 0]
    assert bool((marks[:8] < 10).all())
    assert bool((marks[8:] >= 10).all())
    expected = (0.5 * held_out["latents"] - held_out["noise"]).square().mean((1, 2, 3))
    torch.testing.assert_close(torch.cat([first.subject, first.prior]), expected)
    assert first.total == pytest.approx(by_hand(held_out, 0.5, 8, 3.0), rel=1e-5)
    other = loss.parts(WEIGHTS, samples=8, seed=1)
    assert not torch.equal(first.subject, other.subject)
    for step in range(10):
        search = implanting(batch=8)
        search.at(step, seed=0)(WEIGHTS)
        assert not torch.equal(search.backbone.calls[0]["noise"], held_out["noise"])


def test_no_gradient_is_kept_for_held_out_samples() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    assert not implanting().parts({"w": weight}, samples=2, seed=0).subject.requires_grad


def test_losses_of_subjects_add_up() -> None:
    a, b, c = implanting(), implanting(prior_weight=2.0), implanting(prior=None)
    joint = a + b + c
    assert isinstance(joint, JointLoss)
    assert (a + (b + c)).losses == joint.losses == (a, b, c)
    expected = sum(float(each.at(5, seed=2)(WEIGHTS)) for each in (a, b, c))
    assert float(joint.at(5, seed=2)(WEIGHTS)) == pytest.approx(expected, rel=1e-6)
    parts = joint.parts(WEIGHTS, samples=6, seed=0)
    singles = [each.parts(WEIGHTS, samples=6, seed=0) for each in (a, b, c)]
    torch.testing.assert_close(parts.subject, sum(each.subject for each in singles))
    assert parts.total == pytest.approx(sum(each.total for each in singles), rel=1e-6)
    assert (c + c).parts(WEIGHTS, samples=6, seed=0).prior.shape == (0,)


def test_parts_weigh_the_prior_only() -> None:
    parts = Parts(torch.tensor([1.0, 3.0]), torch.tensor([10.0, 30.0]), 0.5)
    assert parts.total == 2 + 0.5 * 20


def test_examples_of_a_subject_and_of_prior_pictures(sd1: Any) -> None:
    backbone = backbone_for(sd1)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    subject = examples(backbone, Subject(pixels, "cat"))
    said = backbone.condition(["a V* cat"])["encoder_hidden_states"]
    torch.testing.assert_close(subject.condition["encoder_hidden_states"], said.expand(2, -1, -1))
    torch.testing.assert_close(subject.latents, backbone.latents(pixels))
    prior = examples(backbone, pixels, ["a cat", "a dog"], flip=True)
    assert len(prior) == 4
    torch.testing.assert_close(prior.latents[2:], backbone.latents(pixels.flip(-1)))
    states = prior.condition["encoder_hidden_states"]
    assert torch.equal(states[:2], states[2:])
    assert not torch.equal(states[0], states[1])


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_real_backbone(request: pytest.FixtureRequest, family: str) -> None:
    backbone = backbone_for(request.getfixturevalue(family))
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = ImplantingLoss(
        backbone,
        examples(backbone, Subject(pixels, "cat")),
        examples(backbone, pixels[:1], "a cat"),
        batch=2,
    )
    weights = {n: w.clone().requires_grad_() for n, w in backbone.weights().items()}
    value = loss.at(0, seed=0)(weights)
    gradients = torch.autograd.grad(value, list(weights.values()))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert torch.equal(value, loss.at(0, seed=0)(backbone.weights()))


def test_refuses_what_does_not_fit(sd1: Any) -> None:
    backbone = backbone_for(sd1)
    pixels = torch.rand(2, 3, 64, 64)
    with pytest.raises(SubjectError, match="found 3 prompts for 2 pictures"):
        examples(backbone, pixels, ["a"] * 3)
    with pytest.raises(SubjectError, match="found 0 prompts for 2 pictures"):
        examples(backbone, pixels)
    with pytest.raises(SubjectError, match="read them with size=64"):
        examples(backbone, torch.rand(1, 3, 32, 64), "a cat")
    with pytest.raises(SubjectError, match="expected one condition for every picture"):
        Examples(torch.zeros(2, 4, 8, 8), {"encoder_hidden_states": torch.zeros(1, 4, 4)})
    with pytest.raises(SubjectError, match="found batch 0"):
        implanting(batch=0)
    with pytest.raises(SubjectError, match="prior_weight -1"):
        implanting(prior_weight=-1)
