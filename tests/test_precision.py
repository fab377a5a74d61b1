"""Quantisers: few levels, idempotent, bounded errors, gradients as if they were not there."""

import pytest
import torch

from cones.codecs import numbers
from cones.errors import CodecError, InterventionError
from cones.precision import (
    LEVELS,
    PRECISIONS,
    Values,
    codes,
    decoded,
    fitted_scale,
    largest,
    require_precision,
    snapped,
    straight_through,
)


def draw(count: int = 500, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.03


def rounded(precision: str, count: int = 500, seed: int = 0) -> torch.Tensor:
    values = draw(count, seed)
    return snapped(values, fitted_scale(values, precision), precision)


@pytest.mark.parametrize(("precision", "count"), [("quaternary", 4), ("binary", 2)])
def test_there_are_as_many_levels_as_the_name_says(precision, count):
    levels = rounded(precision).unique()
    assert len(levels) == count
    assert levels.equal(-levels.flip(0))
    assert levels.diff().tolist() == pytest.approx(
        [2 * float(levels[-1]) / (count - 1)] * (count - 1)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounding_twice_is_rounding_once(precision):
    values = draw()
    for scale in (fitted_scale(values, precision), torch.tensor(0.01), torch.tensor(0.0)):
        once = snapped(values, scale, precision)
        assert snapped(once, scale, precision).equal(once)
    fitted = rounded(precision)
    assert snapped(fitted, largest(fitted), precision).equal(fitted)


@pytest.mark.parametrize(
    ("precision", "reach", "error"), [("quaternary", 4 / 3, 1 / 3), ("binary", 2, 1)]
)
def test_the_error_is_at_most_half_a_gap(precision, reach, error):
    scale = torch.tensor(0.6)
    values = torch.linspace(-float(scale) * reach, float(scale) * reach, 4001)
    found = snapped(values, scale, precision)
    assert float((found - values).abs().max()) == pytest.approx(error * 0.6, rel=1e-3)
    levels = torch.tensor(LEVELS[precision]) * scale
    nearest = (values[:, None] - levels).abs().amin(1)
    torch.testing.assert_close((found - values).abs(), nearest)


def test_float16_rounds_to_eleven_bits_and_saturates():
    values = draw()
    found = snapped(values, torch.tensor(0.0), "float16")
    bound = values.abs() * 2**-11 + 2**-25
    assert bool(((found - values).abs() <= bound).all())
    assert not found.equal(values)
    assert snapped(torch.tensor([1e9, -1e9]), torch.tensor(0.0), "float16").tolist() == [
        65504,
        -65504,
    ]
    assert snapped(values, torch.tensor(0.0), "float32").equal(values)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_gradient_passes_straight_through(precision):
    values, weight = draw().requires_grad_(), draw(seed=1)
    scale = fitted_scale(values.detach(), precision).requires_grad_()
    found = straight_through(values, scale, precision)
    assert found.detach().equal(snapped(values, scale, precision).detach())
    (found * weight).sum().backward()
    assert values.grad.equal(weight)


@pytest.mark.parametrize("precision", LEVELS)
def test_the_gradient_of_the_scale_is_that_of_the_levels_held(precision):
    values, weight, step = draw(), draw(seed=1), 1e-4
    scale = torch.tensor(0.05, requires_grad=True)
    (straight_through(values, scale, precision) * weight).sum().backward()
    held = codes(values, torch.tensor(0.05), precision)
    ends = [
        (decoded(held, torch.tensor(0.05 + d), precision) * weight).sum() for d in (step, -step)
    ]
    assert float(scale.grad) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-2)


@pytest.mark.parametrize("precision", LEVELS)
def test_the_fitted_scale_has_the_least_error(precision):
    values = draw(2000)

    def error(scale):
        return float((snapped(values, torch.as_tensor(scale), precision) - values).square().mean())

    best = min(error(scale) for scale in torch.linspace(0.001, 0.15, 600))
    assert error(fitted_scale(values, precision)) <= 1.001 * best
    assert float(fitted_scale(values[:0], precision)) == 0
    assert float(fitted_scale(torch.zeros(3), precision)) == 0


def test_unknown_precisions_are_refused():
    with pytest.raises(InterventionError, match=r"'int3'; expected one of float32, float16, quat"):
        require_precision("int3")
    with pytest.raises(InterventionError, match="found precision 'shut'"):
        Values("shut", {})


@pytest.mark.parametrize("precision", ["float16", *LEVELS])
def test_values_that_a_precision_does_not_hold_are_refused(precision):
    with pytest.raises(InterventionError, match=f"'w' that {precision} does not hold.*round them"):
        Values(precision, {"w": draw()})
    with pytest.raises(InterventionError, match="does not hold"):
        Values("float32", {"w": torch.tensor([1.0, float("nan")])})
    with pytest.raises(InterventionError, match="does not hold"):
        Values("float32", {"w": torch.tensor([1.0, float("inf")])})


def test_the_digest_follows_precision_names_and_values():
    values = rounded("binary")
    made = [
        Values("binary", {"a": values, "b": values[:2]}),
        Values("float32", {"a": values, "b": values[:2]}),
        Values("binary", {"a": values, "c": values[:2]}),
        Values("binary", {"a": values, "b": -values[:2]}),
        Values("binary", {"a": values[:-1], "b": values[:2]}),
    ]
    assert len({each.digest for each in made}) == len(made)
    assert Values("binary", {"b": values[:2], "a": values}).digest == made[0].digest


COUNTS = {"b": 13, "none": 0, "a": 7}


def stored(precision: str) -> Values:
    return Values(precision, {n: rounded(precision, c, seed=c) for n, c in COUNTS.items()})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_come_back_bit_for_bit_in_as_few_bytes(precision):
    values = stored(precision)
    tensors = numbers.pack(values, COUNTS)
    back = numbers.unpack(precision, tensors, COUNTS)
    assert list(back.numbers) == list(COUNTS)
    turned = Values(precision, dict(reversed(values.numbers.items())))
    assert all(t.equal(tensors[n]) for n, t in numbers.pack(turned, COUNTS).items())
    for name in COUNTS:
        assert back.numbers[name].equal(values.numbers[name])
    sizes = {"float32": 4 * 20, "float16": 2 * 20, "quaternary": 5, "binary": 3}
    assert tensors["cones.values"].nbytes == sizes[precision]
    assert sum(t.nbytes for t in tensors.values()) == sizes[precision] + 12 * (precision in LEVELS)


def test_the_example_of_the_format_description():
    values = {"a": torch.tensor([0.5, -0.5, 0.5]), "b": torch.tensor([2.0, -2.0])}
    tensors = numbers.pack(Values("binary", values), values)
    assert tensors["cones.values"].tolist() == [0xB0]
    assert tensors["cones.values.scale"].tolist() == [0.5, 2.0]
    third = torch.tensor(3.0) * torch.tensor(1 / 3)
    four = {"a": torch.tensor([-3.0, -third, third, 3.0])}
    tensors = numbers.pack(Values("quaternary", four), four)
    assert tensors["cones.values"].tolist() == [0b00011011]


@pytest.mark.parametrize(
    ("precision", "changes", "match"),
    [
        ("float32", {"cones.values": torch.zeros(19)}, "expected 20 of torch.float32"),
        ("float16", {"cones.values": torch.zeros(20)}, "expected 20 of torch.float16"),
        (
            "binary",
            {"cones.values": torch.zeros(4, dtype=torch.uint8)},
            "expected 3 of torch.uint8",
        ),
        ("quaternary", {"cones.values.scale": torch.ones(2)}, "2.*scales.*expected 3"),
        (
            "binary",
            {"cones.values": torch.full((3,), 255, dtype=torch.uint8)},
            "bits after the last",
        ),
        (
            "binary",
            {"cones.values.scale": torch.tensor([1.0, -1.0, 1.0])},
            "scale of values is neg",
        ),
        ("binary", {"cones.values.scale": torch.tensor([1.0, float("nan"), 1.0])}, "no number"),
    ],
)
def test_forged_tensors_are_refused(precision, changes, match):
    tensors = numbers.pack(stored(precision), COUNTS) | changes
    with pytest.raises(CodecError, match=match):
        numbers.unpack(precision, tensors, COUNTS)


def test_infinite_scales_and_values_are_refused():
    tensors = numbers.pack(stored("binary"), COUNTS)
    tensors["cones.values.scale"][0] = float("inf")
    with pytest.raises(InterventionError, match="does not hold"):
        numbers.unpack("binary", tensors, COUNTS)
    tensors = numbers.pack(stored("float32"), COUNTS)
    tensors["cones.values"][4] = float("nan")
    with pytest.raises(InterventionError, match="does not hold"):
        numbers.unpack("float32", tensors, COUNTS)
