"""The stricter control: other weights of the same sizes."""

import torch

from cones import Mask
from experiments.methods.cones import matched


def test_a_matched_mask_has_the_same_magnitudes_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(100, 100, generator=generator)}
    mask = Mask.where({"w": weights["w"].abs() > 1.5})
    found = matched(mask, weights, generator)
    sizes = [weights["w"].view(-1)[m.indices["w"]].abs() for m in (mask, found)]
    assert len(found) == len(mask)
    torch.testing.assert_close(sizes[0].mean(), sizes[1].mean(), rtol=0.02, atol=0)
    few = Mask.where({"w": (weights["w"].abs() > 1.5) & (weights["w"].abs() < 1.8)})
    elsewhere = matched(few, weights, generator)
    assert len(few & elsewhere) < len(few)
    assert weights["w"].view(-1)[elsewhere.indices["w"]].abs().min() > 1.3
