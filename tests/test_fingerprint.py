"""A model is recognised in another precision and as a fine-tune; strangers are told apart."""

import pytest
import torch
from torch import Tensor

from cones.errors import MaskError
from cones.fingerprint import Fingerprint


@pytest.fixture
def weights() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {f"{k}.to_k": torch.randn(30, 20 + k, generator=g) / 20 for k in range(5)}


def of(weights: dict[str, Tensor], name: str = "maker/base") -> Fingerprint:
    return Fingerprint.of(weights, name)


def agreement(a: Fingerprint, b: Fingerprint) -> float:
    """Give the share of equal bits."""
    pairs = zip(a.signs, b.signs, strict=True)
    return 1 - sum((x ^ y).bit_count() for x, y in pairs) / 1024


def test_same_in_any_order_and_precision(weights: dict[str, Tensor]) -> None:
    base = of(weights)
    assert base == of(dict(reversed(weights.items())))
    assert len(base.signs) == 128
    for dtype in (torch.float16, torch.bfloat16):
        rounded = of({n: w.to(dtype) for n, w in weights.items()})
        base.require(rounded)  # a warning would be an error here
        rounded.require(base)
    half = {n: w.half() for n, w in weights.items()}
    assert of(half) == of({n: w.float() for n, w in half.items()})


def test_signs_survive_underflow(weights: dict[str, Tensor]) -> None:
    tiny = {n: w * 1e-9 for n, w in weights.items()}  # zeros in half precision, with their signs
    of(tiny).require(of({n: w.half() for n, w in tiny.items()}))


def test_weights_tell_models_of_equal_signs_apart(weights: dict[str, Tensor]) -> None:
    base = of(weights)
    shorter = {n: w[:, :, None] for n, w in weights.items()}
    renamed = {f"a.{n}": w for n, w in weights.items()}
    for other in ({n: w * 1.001 for n, w in weights.items()}, shorter, renamed):
        assert of(other).signs == base.signs
        assert of(other).weights != base.weights


def test_fine_tunes_and_strangers(weights: dict[str, Tensor]) -> None:
    base, g = of(weights), torch.Generator().manual_seed(1)
    tuned = {n: w + 0.02 * torch.randn(w.shape, generator=g) for n, w in weights.items()}
    other = {n: torch.randn(w.shape, generator=g) for n, w in weights.items()}
    with pytest.warns(UserWarning, match="mine is a fine-tune of maker/base, where the concept"):
        base.require(of(tuned, "mine"))
    assert abs(agreement(base, of(other)) - 0.5) < 0.08
    fewer = dict(list(weights.items())[1:])
    turned = {n: w.t() for n, w in weights.items()}
    for stranger in (other, fewer, turned):
        with pytest.raises(MaskError, match="'b' shares .*% of signs, as by.*load 'maker/base'"):
            base.require(of(stranger, "b"))


def test_every_parameter_has_its_signs(weights: dict[str, Tensor]) -> None:
    base = of(weights)
    for name in weights:
        same = agreement(base, of({**weights, name: -weights[name]}))
        assert abs(same - 0.8) < 0.01  # one of five parameters turned
