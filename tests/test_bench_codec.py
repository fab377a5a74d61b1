"""The benchmarks run, count what they say and find the undo exact, on a small inventory."""

import pytest
import torch

from cones.bench import codec, inventory, swap
from cones.bench.timing import milliseconds
from cones.errors import ConesError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the inventory by its first four entries at a quarter of the width."""
    shapes = {n: (80, s[1] // 4) for n, s in list(inventory.stable_diffusion_shapes().items())[:4]}
    monkeypatch.setattr(inventory, "stable_diffusion_shapes", lambda: shapes)


def test_inventory_is_that_of_stable_diffusion():
    shapes = inventory.stable_diffusion_shapes()
    sizes = {n: a * b for n, (a, b) in shapes.items()}
    assert len(shapes) == 64
    assert sum(sizes.values()) == 43_950_080
    assert sum(size for n, size in sizes.items() if "attn2" in n) == 19_169_280


@pytest.mark.usefixtures("small")
def test_codec_figures():
    found = codec.codec_figures(density=0.02, repeats=2)
    assert found["exact"]
    assert found["weights"] == 2 * 80 * 80 + 2 * 80 * 192
    assert 0 < found["position_bytes"] < found["file_bytes"]
    assert 0.9 < found["position_bytes"] / found["entropy_bytes"] < 1.3
    assert 0 < found["decode_ms"]["min"] <= found["decode_ms"]["median"]


@pytest.mark.usefixtures("small")
def test_swap_figures():
    pytest.importorskip("peft")
    threads = torch.get_num_threads()
    found = swap.swap_figures(repeats=2, lora_repeats=1)
    for dtype in ("float32", "float16", "bfloat16"):
        assert found[dtype]["cones"]["exact"]
        assert found[dtype]["cones"]["changed_share"] == 0
        assert 0 < found[dtype]["lora"]["changed_share"] < 1
        assert not found[dtype]["lora"]["exact"]
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("small")
def test_missing_peft_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConesError, match=r"pip install 'cones\[bench\]'"):
        swap.swap_figures(repeats=1)


def test_the_first_call_is_not_timed():
    calls = []
    found = milliseconds(lambda: calls.append(0), repeats=3)
    assert len(calls) == 4
    assert 0 <= found["min"] <= found["median"]
