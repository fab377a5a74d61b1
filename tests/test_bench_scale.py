"""The full-size step, on a U-Net of the same blocks and reduced width."""

from typing import Any

from cones.bench import scale


def test_figures_are_those_of_the_network(sd1: Any, fresh: Any, monkeypatch: Any) -> None:
    unet = fresh(sd1).unet
    monkeypatch.setattr(scale, "full_unet", lambda: unet)
    monkeypatch.setattr(scale, "WIDTH", unet.config.cross_attention_dim)
    monkeypatch.setattr(scale, "TOKENS", 5)
    before = {name: w.detach().clone() for name, w in unet.named_parameters()}
    found = scale.scale_figures(steps=2)
    searched = [w for n, w in before.items() if n.endswith(("to_k.weight", "to_v.weight"))]
    assert found["sites"] == len(searched) == 64
    assert found["searched"] == sum(w.numel() for w in searched)
    assert found["weights"] == sum(w.numel() for w in before.values())
    assert len(found["seconds_per_gradient"]) == 2
    assert found["neurons"] == round(0.0132 * found["searched"])
    assert found["exact_undo"] is True
    assert found["peak_memory_gb"] > 0.1
    assert all(before[name].equal(w) for name, w in unet.named_parameters())
