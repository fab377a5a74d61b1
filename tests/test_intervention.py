"""Every bit comes back: nested, after exceptions, in any order; one thread at a time."""

import copy
import itertools
import threading
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from cones import intervention
from cones.errors import InterventionError, MaskError
from cones.intervention import shut, shut_each
from cones.mask import Mask

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


def draw(net: nn.Module, density: float, seed: int = 0) -> Mask:
    """Draw a mask over every weight of ``net``."""
    g = torch.Generator().manual_seed(seed)
    return Mask.where(
        {n: torch.rand(p.shape, generator=g) < density for n, p in net.named_parameters()}
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0, 0.1, 1])
@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0, -1.0])
def test_every_bit_comes_back(dtype: torch.dtype, density: float, strength: float) -> None:
    net = model(dtype)
    before, mask = bits(net), draw(net, density)
    with shut(net, mask, strength=strength):
        assert same(before, net) == (density == 0 or strength == 0)
    assert same(before, net)
    assert not intervention._OPEN


@pytest.mark.parametrize("dtype", DTYPES)
def test_shut_writes_positive_zero_there_and_nothing_elsewhere(dtype: torch.dtype) -> None:
    net = model(dtype)
    mask = draw(net, 0.5)
    hits, before = mask.hits(), bits(net)
    with shut(net, mask):
        for (name, _), old, new in zip(net.named_parameters(), before, bits(net), strict=True):
            assert (new[hits[name]] == 0).all()
            assert new[~hits[name]].equal(old[~hits[name]])


def test_strength_is_the_amount_of_shutting() -> None:
    net = nn.Linear(3, 1, bias=False)
    net.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    mask = Mask({"weight": (1, 3)}, {"weight": torch.tensor([0, 2])})
    for strength, expected in {0.25: [0.75, 2.0, 2.25], -1.0: [2.0, 2.0, 6.0]}.items():
        with shut(net, mask, strength=strength):
            assert net.weight.tolist() == [expected]
    assert net.weight.tolist() == [[1.0, 2.0, 3.0]]
    with pytest.raises(InterventionError, match="strength is nan; expected a finite"):
        shut(net, mask, strength=float("nan")).__enter__()


def test_after_an_exception() -> None:
    net = model()
    before = bits(net)
    with pytest.raises(KeyError), shut(net, draw(net, 0.5)):
        raise KeyError
    assert same(before, net)
    with shut(net, draw(net, 0.5)):
        assert not same(before, net)


def test_an_exception_while_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    before, mask = bits(net), draw(net, 0.5)
    written = iter([torch.tensor(0.0)])  # the second parameter finds none: StopIteration
    monkeypatch.setattr(intervention, "_shrunk", lambda *_: next(written))
    with pytest.raises(RuntimeError), shut(net, mask):
        pass
    assert same(before, net)
    assert not intervention._OPEN


def test_nested_is_the_union() -> None:
    net = model()
    before, a, b = bits(net), draw(net, 0.4, 1), draw(net, 0.4, 2)
    with shut(net, a | b):
        union = bits(net)
    with shut(net, a):
        first = bits(net)
        with shut(net, b):
            assert same(union, net)
        assert same(first, net)
    assert same(before, net)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_ended_in_any_order(dtype: torch.dtype, order: tuple[int, ...]) -> None:
    net = model(dtype)
    before = bits(net)
    open_ones = [shut(net, draw(net, 0.5, seed), strength=0.5) for seed in range(3)]
    for context in open_ones:
        context.__enter__()
    for k in order:
        assert not same(before, net)
        open_ones[k].__exit__(None, None, None)
    assert same(before, net)


def test_what_lies_above_stays() -> None:
    net = model()
    a, b = draw(net, 0.5, 1), draw(net, 0.5, 2)
    with shut(net, b):
        only_b = bits(net)
    below = ExitStack()
    below.enter_context(shut(net, a))
    with shut(net, b):
        below.close()
        assert same(only_b, net)


def test_what_is_written_inside_is_undone_at_the_mask() -> None:
    net = model()
    before = bits(net)
    with shut(net, draw(net, 1)):
        for p in net.parameters():
            p.data.fill_(7)
    assert same(before, net)


def test_stays_the_same_parameter_in_the_same_place() -> None:
    net = model()
    where = [(id(p), p.data_ptr()) for p in net.parameters()]
    with shut(net, draw(net, 0.5)):
        assert where == [(id(p), p.data_ptr()) for p in net.parameters()]
        assert all(p.requires_grad for p in net.parameters())


def test_stale_backward_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    loss = net(torch.ones(1, 3)).sum()
    with shut(net, draw(net, 1)), pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_transposed_and_tied_weights() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[0].weight = nn.Parameter(torch.arange(16.0).view(4, 4).t())
    net[1].weight = net[0].weight
    position = torch.tensor([1])  # row 0, column 1
    mask = Mask(
        {"0.weight": (4, 4), "1.weight": (4, 4)}, {"0.weight": position, "1.weight": position}
    )
    with shut(net, mask):
        assert net[0].weight[0].tolist() == [0, 0, 8, 12]
    assert net[0].weight[0].tolist() == [0, 4, 8, 12]


def test_moved_to_another_dtype_while_open() -> None:
    net = model()
    expected = copy.deepcopy(net).half()
    with shut(net, draw(net, 0.5)):
        net.half()
    assert same(bits(expected), net)


def test_compiled_model_is_not_compiled_again() -> None:
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 5, bias=False))
    compiled, pixels, mask = torch.compile(net, backend="eager"), torch.ones(2, 6), draw(net, 0.5)
    plain = compiled(pixels)
    with torch._dynamo.config.patch(error_on_recompile=True), shut(compiled, mask):
        assert torch.equal(compiled(pixels), net(pixels))
        assert not torch.equal(compiled(pixels), plain)
    assert torch.equal(compiled(pixels), plain)


def test_inference_mode() -> None:
    net = model()
    before = bits(net)
    with torch.inference_mode(), shut(net, draw(net, 0.5)):
        pass
    context = shut(net, draw(net, 0.5))
    context.__enter__()
    with torch.inference_mode():
        context.__exit__(None, None, None)
    assert same(before, net)


def test_foreign_mask_changes_nothing() -> None:
    net = model()
    before, one = bits(net), torch.tensor([0])
    absent = Mask({"0.weight": (8, 6), "x.to_k": (2, 2)}, {"0.weight": one, "x.to_k": one})
    other = Mask({"0.weight": (8, 6), "1.weight": (8, 5)}, {"0.weight": one, "1.weight": one})
    with pytest.raises(MaskError, match="'x.to_k' is absent in the model"), shut(net, absent):
        pass
    with pytest.raises(MaskError, match=r"\(5, 8\) in the model; expected shape \(8, 5\)"):
        shut(net, other).__enter__()
    assert same(before, net)
    assert not intervention._OPEN


def unwritable() -> dict[str, torch.Tensor]:
    """Build one tensor per kind of weight that cannot be written."""
    with torch.inference_mode():
        made_in_inference = torch.ones(2, 2)
    return {
        "meta": torch.ones(2, 2, device="meta"),
        "float8": torch.ones(2, 2).to(torch.float8_e4m3fn),
        "int8": torch.ones(2, 2, dtype=torch.int8),
        "repeated": torch.ones(1, 2).expand(2, 2),
        "inference": made_in_inference,
    }


@pytest.mark.parametrize("kind", unwritable())
def test_unwritable_weights_are_refused_before_the_first_write(kind: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = nn.Parameter(unwritable()[kind], requires_grad=False)
    before, one = net[0].weight.detach().clone(), torch.tensor([0])
    mask = Mask({"0.weight": (2, 2), "1.weight": (2, 2)}, {"0.weight": one, "1.weight": one})
    with pytest.raises(InterventionError, match="'1.weight' is a .*ordinary floating-point"):
        shut(net, mask).__enter__()
    assert net[0].weight.equal(before)


def test_a_second_thread_gets_an_error_and_never_wrong_weights() -> None:
    net = nn.Linear(40, 40, bias=False)
    before = bits(net)
    masks = [draw(net, 0.3, seed) for seed in range(2)]
    expected = []
    for mask in masks:
        with shut(net, mask):
            expected.append(bits(net))
    wrong, refused, served = [0, 0], [0, 0], [0, 0]

    def work(k: int) -> None:
        for _ in range(300):
            try:
                with shut(net, masks[k]):
                    wrong[k] += not same(expected[k], net)
                    served[k] += 1
            except InterventionError as error:
                refused[k] += "already changed by thread" in str(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0]
    assert [refused[k] + served[k] for k in range(2)] == [300, 300]
    assert same(before, net)


def test_another_part_of_the_same_model_is_in_use_too() -> None:
    net, seen = model(), []
    inner = Mask({"weight": (5, 8)}, {"weight": torch.tensor([0])})

    def other() -> None:
        for module, mask in ((net[1], inner), (net[0], Mask.empty({})), (model(), Mask.empty({}))):
            try:
                with shut(module, mask):
                    seen.append("served")
            except InterventionError:
                seen.append("refused")

    with shut(net, Mask({"0.weight": (8, 6)}, {"0.weight": torch.tensor([0])})):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["refused", "refused", "served"]


class Two(nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.k, self.v = nn.Linear(4, 3, bias=False), nn.Linear(3, 2)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=draw)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.v(self.k(rows))


def hit(*numbers: int, name: str = "k.weight", shape: tuple[int, int] = (3, 4)) -> Mask:
    return Mask({name: shape}, {name: torch.tensor(numbers, dtype=torch.int64)})


def test_every_sample_meets_the_weights_that_it_would_meet_alone() -> None:
    net, v = Two(), {"name": "v.weight", "shape": (2, 3)}
    samples = [
        [(hit(0, 5), 1.0)],
        [],
        [(hit(0, 3), 0.3), (hit(3, 7), 0.7), (hit(1, **v), 1.0)],
    ]
    rows = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    with torch.no_grad(), shut_each(net, samples):
        found = net(rows)
        assert all(torch.equal(before[name], w) for name, w in net.state_dict().items())
    for k, each in enumerate(samples):
        with torch.no_grad(), ExitStack() as stack:
            for mask, strength in each:
                stack.enter_context(shut(net, mask, strength=strength))
            alone = net(rows[k::3])
        assert torch.allclose(found[k::3], alone, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(found[0::3], net(rows[0::3]), atol=1e-3)
        assert torch.equal(net(rows)[1::3], net(rows[1::3]))
    assert not {"forward"} & {*vars(net.k), *vars(net.v)}


def test_samples_that_are_alike_share_the_weights_themselves() -> None:
    net = Two()
    with shut_each(net, [[(hit(0), 1.0)], [(hit(0), 1.0)]]):
        assert net.k.weight.flatten()[0] == 0
        assert "forward" not in vars(net.k)
    with shut_each(net, []):
        pass
    assert net.k.weight.flatten()[0] != 0


def test_a_forward_of_its_own_comes_back() -> None:
    net = Two()
    own = net.k.forward = lambda rows: rows[..., :3]
    with shut_each(net, [[(hit(0), 1.0)], []]):
        assert net.k.forward is not own
    assert net.k.forward is own


def test_a_batch_of_other_samples_is_refused() -> None:
    net, conv = Two(), nn.Sequential(nn.Conv1d(4, 3, 1))
    with (
        shut_each(net, [[(hit(0), 1.0)], []]),
        pytest.raises(InterventionError, match="found a batch of 3; expected a multiple of 2"),
    ):
        net(torch.zeros(3, 5, 4))
    odd = hit(0, name="0.weight", shape=(3, 4, 1))
    with (
        pytest.raises(InterventionError, match="of no linear layer"),
        shut_each(conv, [[(odd, 1.0)], []]),
    ):
        pass
    assert "forward" not in vars(net.k)


def test_below_a_lora_the_base_weight_is_the_samples_own() -> None:
    net = Two()
    net.k.base_layer = plain = nn.Linear(4, 3, bias=False)
    net.k.forward = lambda rows: plain(rows) + 1
    wrapped = nn.ModuleDict({"net": net})
    mask = hit(*range(12), name="net.k.weight")
    rows = torch.ones(2, 1, 4)
    plain.weight.data.fill_(1.0)
    with torch.no_grad(), shut_each(wrapped, [[(mask, 1.0)], []]):
        assert net.k(rows)[:, 0, 0].tolist() == [1, 5]
