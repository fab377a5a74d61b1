"""Every bit comes back: per dtype, nested, after exceptions, in any order."""

import copy
import gc

import pytest
import torch
from torch import nn

from cones import intervention
from cones.errors import InterventionError, MaskError
from cones.intervention import Intervention, shut
from cones.mask import ConceptMask

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Build two small layers whose weights hold -0.0, NaN and infinities too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 5, bias=False)).to(dtype)
    odd = torch.tensor([-0.0, float("nan"), float("inf"), -float("inf"), 1e-7], dtype=dtype)
    net[0].weight.data.view(-1)[:5] = odd
    return net


def bits(net: nn.Module) -> list[torch.Tensor]:
    """Copy the raw bits of every weight."""
    return [p.detach().clone().view(BITS[p.dtype]) for p in net.parameters()]


def same(before: list[torch.Tensor], net: nn.Module) -> bool:
    """Compare raw bits."""
    return all(a.equal(b) for a, b in zip(before, bits(net), strict=True))


def draw(net: nn.Module, density: float, seed: int = 0) -> ConceptMask:
    """Draw a mask over every weight of ``net``."""
    g = torch.Generator().manual_seed(seed)
    return ConceptMask.where(
        {n: torch.rand(p.shape, generator=g) < density for n, p in net.named_parameters()}
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0, 0.1, 1])
@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0, -1.0])
def test_every_bit_comes_back(dtype, density, strength):
    net = model(dtype)
    before, mask = bits(net), draw(net, density)
    with shut(net, mask, strength=strength):
        assert same(before, net) == (density == 0 or strength == 0)
    assert same(before, net)
    assert not any(p in intervention._LAYERS for p in net.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_shut_writes_positive_zero_there_and_nothing_elsewhere(dtype):
    net = model(dtype)
    mask = draw(net, 0.5)
    hits, before = mask.hits(), bits(net)
    with shut(net, mask):
        for (name, _), old, new in zip(net.named_parameters(), before, bits(net), strict=True):
            assert (new[hits[name]] == 0).all()
            assert new[~hits[name]].equal(old[~hits[name]])


def test_strength_shrinks():
    net = nn.Linear(2, 1, bias=False)
    net.weight.data.copy_(torch.tensor([[2.0, -4.0]]))
    with shut(net, ConceptMask({"weight": (1, 2)}, {"weight": torch.tensor([1])}), strength=0.25):
        assert net.weight.tolist() == [[2.0, -3.0]]


def test_values_are_written_in_order():
    net = nn.Linear(3, 1, bias=False)
    net.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    mask = ConceptMask({"weight": (1, 3)}, {"weight": torch.tensor([0, 2])})
    with Intervention(mask, {"weight": torch.tensor([8.0, 9.0])}).applied(net):
        assert net.weight.tolist() == [[8.0, 2.0, 9.0]]
    with Intervention(mask, {"weight": torch.tensor([5.0, 3.0])}, 0.5).applied(net):
        assert net.weight.tolist() == [[3.0, 2.0, 3.0]]
    assert net.weight.tolist() == [[1.0, 2.0, 3.0]]


def test_after_an_exception():
    net = model()
    before = bits(net)
    with pytest.raises(KeyError), shut(net, draw(net, 0.5)):  # noqa: PT012
        raise KeyError
    assert same(before, net)


def test_nested_is_the_union():
    net = model()
    before, a, b = bits(net), draw(net, 0.4, 1), draw(net, 0.4, 2)
    with shut(net, a | b):
        union = bits(net)
    with shut(net, a):
        first = bits(net)
        with shut(net, b):
            assert same(union, net)
        assert same(first, net)
    with (Intervention(a) | Intervention(b)).applied(net):
        assert same(union, net)
    assert same(before, net)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_removed_in_any_order(order):
    net = model()
    before = bits(net)
    masks = [draw(net, 0.5, seed) for seed in range(3)]
    applied = [Intervention(m, strength=0.5).apply(net) for m in masks]
    for k in order:
        assert not same(before, net)
        applied[k].remove()
    assert same(before, net)
    applied[0].remove()
    assert same(before, net)


def test_what_lies_above_stays():
    net = model()
    a, b = draw(net, 0.5, 1), draw(net, 0.5, 2)
    with shut(net, b):
        only_b = bits(net)
    below, above = Intervention(a).apply(net), Intervention(b).apply(net)
    below.remove()
    assert same(only_b, net)
    above.remove()


def test_what_is_written_inside_is_undone_at_the_mask():
    net = model()
    before = bits(net)
    with shut(net, draw(net, 1)):
        for p in net.parameters():
            p.data.fill_(7)
    assert same(before, net)


def test_nothing_is_kept_of_a_dropped_model():
    net = model()
    Intervention(draw(net, 0.5)).apply(net)
    del net
    gc.collect()
    assert len(intervention._LAYERS) == 0


def test_stays_the_same_parameter_in_the_same_place():
    net = model()
    where = [(id(p), p.data_ptr()) for p in net.parameters()]
    with shut(net, draw(net, 0.5)):
        assert where == [(id(p), p.data_ptr()) for p in net.parameters()]
        assert all(p.requires_grad for p in net.parameters())


def test_stale_backward_is_refused():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    loss = net(torch.ones(1, 3)).sum()
    with shut(net, draw(net, 1)), pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_transposed_and_tied_weights():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[0].weight = nn.Parameter(torch.arange(16.0).view(4, 4).t())
    net[1].weight = net[0].weight
    position = torch.tensor([1])  # row 0, column 1
    mask = ConceptMask(
        {"0.weight": (4, 4), "1.weight": (4, 4)}, {"0.weight": position, "1.weight": position}
    )
    with shut(net, mask):
        assert net[0].weight[0].tolist() == [0, 0, 8, 12]
    assert net[0].weight[0].tolist() == [0, 4, 8, 12]


def test_moved_to_another_dtype_while_applied():
    net = model()
    expected = copy.deepcopy(net).half()
    applied = Intervention(draw(net, 0.5)).apply(net)
    net.half()
    applied.remove()
    assert same(bits(expected), net)


def test_compiled_model_is_not_compiled_again():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 5, bias=False))
    compiled, pixels, mask = torch.compile(net, backend="eager"), torch.ones(2, 6), draw(net, 0.5)
    plain = compiled(pixels)
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True), shut(compiled, mask):
        assert torch.equal(compiled(pixels), net(pixels))
        assert not torch.equal(compiled(pixels), plain)
    assert torch.equal(compiled(pixels), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_inference_mode():
    net = model()
    before = bits(net)
    with torch.inference_mode(), shut(net, draw(net, 0.5)):
        pass
    applied = Intervention(draw(net, 0.5)).apply(net)
    with torch.inference_mode():
        applied.remove()
    assert same(before, net)


def test_foreign_mask_changes_nothing():
    net = model()
    before = bits(net)
    good = torch.tensor([0])
    absent = ConceptMask(
        {"0.weight": (8, 6), "x.to_k.weight": (2, 2)}, {"0.weight": good, "x.to_k.weight": good}
    )
    other = ConceptMask(
        {"0.weight": (8, 6), "1.weight": (8, 5)}, {"0.weight": good, "1.weight": good}
    )
    with pytest.raises(MaskError, match="has 'x.to_k.weight' absent"), shut(net, absent):
        pass
    with pytest.raises(MaskError, match=r"\(5, 8\), the mask expects it of shape \(8, 5\)"):
        Intervention(other).apply(net)
    assert same(before, net)


def unwritable() -> dict[str, nn.Module]:
    """Build one module per kind of weight that cannot be written."""

    def holding(weight):
        net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        net[1].weight = nn.Parameter(weight, requires_grad=False)
        return net

    with torch.inference_mode():
        made_in_inference = torch.ones(2, 2)
    return {
        "meta device": holding(torch.ones(2, 2, device="meta")),
        "float8": holding(torch.ones(2, 2).to(torch.float8_e4m3fn)),
        "int8": holding(torch.ones(2, 2, dtype=torch.int8)),
        "repeats one number": holding(torch.ones(1, 2).expand(2, 2)),
        "inference mode": holding(made_in_inference),
        "not initialised": nn.Sequential(nn.Linear(2, 2, bias=False), nn.LazyLinear(2)),
    }


@pytest.mark.parametrize("kind", unwritable())
def test_unwritable_weights_are_refused_before_the_first_write(kind):
    net = unwritable()[kind]
    before, one = net[0].weight.detach().clone(), torch.tensor([0])
    mask = ConceptMask(
        {"0.weight": (2, 2), "1.weight": (2, 2)}, {"0.weight": one, "1.weight": one}
    )
    with pytest.raises(InterventionError, match=kind), shut(net, mask):
        pass
    assert net[0].weight.equal(before)


def test_joining_values():
    shapes = {"w": (4,)}
    a = ConceptMask(shapes, {"w": torch.tensor([0, 2])})
    b = ConceptMask(shapes, {"w": torch.tensor([2, 3])})
    one = Intervention(a, {"w": torch.tensor([1.0, 5.0])})
    two = Intervention(b, {"w": torch.tensor([5.0, 7.0])})
    assert (one | two).values["w"].tolist() == [1, 5, 7]
    assert (one | two).mask == a | b
    zeros = Intervention(b - a)
    assert (one | zeros).values["w"].tolist() == [1, 5, 0]
    with pytest.raises(InterventionError, match="different values to the same neurons"):
        one | Intervention(b)
    with pytest.raises(InterventionError, match="strengths are 1.0 and 0.5"):
        one | Intervention(b, strength=0.5)


def test_bad_values_and_strength():
    mask = ConceptMask({"w": (4,)}, {"w": torch.tensor([0, 2])})
    with pytest.raises(InterventionError, match=r"shape \(1,\), expected \(2,\)"):
        Intervention(mask, {"w": torch.ones(1)})
    with pytest.raises(InterventionError, match="finite"):
        Intervention(mask, strength=float("nan"))
