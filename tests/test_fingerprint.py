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


def test_same_in_any_order_and_precision(weights: dict[str, Tensor]) -> None:
    base = of(weights)
    assert base == of(dict(reversed(weights.items())))
    assert base.weights.startswith("float32:")
    assert len(base.signs) == 128
    for dtype in (torch.float16, torch.bfloat16):
        rounded = of({n: w.to(dtype) for n, w in weights.items()})
        assert rounded.weights.startswith(str(dtype).removeprefix("torch."))
        assert base.compare(rounded) == rounded.compare(base) == "same"
    half = {n: w.half() for n, w in weights.items()}
    assert of(half) == of({n: w.float() for n, w in half.items()})


def test_signs_survive_underflow(weights: dict[str, Tensor]) -> None:
    tiny = {n: w * 1e-9 for n, w in weights.items()}  # zeros in half precision, with their signs
    assert of(tiny).compare(of({n: w.half() for n, w in tiny.items()})) == "same"


def test_fine_tunes_and_strangers(weights: dict[str, Tensor]) -> None:
    base, g = of(weights), torch.Generator().manual_seed(1)
    tuned = {n: w + 0.02 * torch.randn(w.shape, generator=g) for n, w in weights.items()}
    other = {n: torch.randn(w.shape, generator=g) for n, w in weights.items()}
    nudged = {n: w * 1.001 for n, w in weights.items()}
    assert base.compare(of(tuned)) == base.require(of(tuned)) == "fine-tune"
    assert base.compare(of(nudged)) == "fine-tune"
    assert base.compare(of(other)) == "unrelated"
    assert abs(base.agreement(of(other)) - 0.5) < 0.08
    with pytest.raises(MaskError, match="'b' shares .*% of signs.*load 'maker/base'"):
        base.require(of(other, "b"))


def test_other_layouts(weights: dict[str, Tensor]) -> None:
    base, fewer = of(weights), dict(list(weights.items())[1:])
    turned = {n: w.t() for n, w in weights.items()}
    for layout in (fewer, turned):
        assert base.compare(of(layout)) == "other-layout"
        with pytest.raises(MaskError, match="has other layers than"):
            base.require(of(layout))
    with pytest.raises(MaskError, match="gave no weights"):
        of({})


def test_every_parameter_has_its_signs(weights: dict[str, Tensor]) -> None:
    base = of(weights)
    for name in weights:
        agreement = base.agreement(of({**weights, name: -weights[name]}))
        assert abs(agreement - 0.8) < 0.01  # one of five parameters turned
