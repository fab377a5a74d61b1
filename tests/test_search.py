"""Algorithm 1 against plain floats, Algorithm A2 against torch.optim, both against each other."""

import itertools

import pytest
import torch
from safetensors import SafetensorError

from cones.errors import SearchError
from cones.search import score_accelerated, score_moments, score_sampled
from cones.state import SearchState, run
from fakes import Quadratic, TwoLayers, random_weights

STEPS = 7


def setup_quadratic(dtype=torch.float64):
    weights = random_weights((3, 4), (5,), dtype=dtype)
    target = random_weights((3, 4), (5,), seed=1, dtype=dtype)
    return Quadratic(target, noise=0.5), weights


def by_hand(theta, targets, rate):
    """Algorithm 1 for one number, in plain floats; one target per gradient."""
    total = 0.0
    for target in targets:
        product = theta * (theta - target)
        total += product
        theta = theta * (1 - rate * product)
    return total


def assert_same(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], **tolerance)


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in a)


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_algorithm_1_is_its_plain_float_loop(steps):
    losses, weights = setup_quadratic()
    score = run(score_sampled(losses, weights, steps=steps, rate=0.05))
    assert losses.asked == list(range(steps))
    for name, w in weights.items():
        targets = [losses.targets(k)[name].view(-1).tolist() for k in range(steps)]
        expected = [
            by_hand(w.view(-1).tolist()[i], [t[i] for t in targets], 0.05)
            for i in range(w.numel())
        ]
        torch.testing.assert_close(score[name].view(-1), torch.tensor(expected).to(w))


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_algorithm_a2_is_torch_optim_on_the_gate(optimiser):
    losses, weights = TwoLayers(), TwoLayers().weights(torch.float64)
    rate = 0.01
    xi = [torch.ones_like(w).requires_grad_() for w in weights.values()]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser]
    optimizer = kind(xi, lr=rate)
    for k in range(STEPS):
        optimizer.zero_grad()
        gated = zip(weights.items(), xi, strict=True)
        losses(k)({n: x * w for (n, w), x in gated}).backward()
        optimizer.step()
    expected = {n: (1 - x.detach()) / rate for n, x in zip(weights, xi, strict=True)}
    search = score_accelerated(losses, weights, steps=STEPS, rate=rate, optimiser=optimiser)
    assert_same(run(search), expected)


def test_one_gradient_is_the_same_in_every_engine():
    losses, weights = TwoLayers(), TwoLayers().weights()
    sampled = run(score_sampled(losses, weights, steps=1, rate=0.1))
    sgd = run(score_accelerated(losses, weights, steps=1, rate=0.1, optimiser="sgd"))
    assert_same(sgd, sampled)
    assert_same(run(score_moments(losses, weights, steps=1)).total, sampled)


def test_algorithms_differ_by_first_order_in_the_rate():
    losses, weights = TwoLayers(), TwoLayers().weights(torch.float64)
    frozen = run(score_moments(losses, weights, steps=STEPS)).total
    apart, from_frozen = [], []
    for rate in (1e-3, 1e-4, 1e-5):
        sampled = run(score_sampled(losses, weights, steps=STEPS, rate=rate))
        sgd = run(score_accelerated(losses, weights, steps=STEPS, rate=rate, optimiser="sgd"))
        apart.append(distance(sampled, sgd))
        from_frozen.append(distance(sampled, frozen))
    for series in (apart, from_frozen):
        assert series[0] > 1e-7
        assert series[0] / series[1] == pytest.approx(10, rel=0.1)
        assert series[1] / series[2] == pytest.approx(10, rel=0.1)


def test_the_papers_rate_moves_the_gate_in_float32():
    losses, weights = TwoLayers(), TwoLayers().weights()
    search = score_accelerated(losses, weights, steps=STEPS, rate=2e-5 * 1e-6, optimiser="sgd")
    assert_same(run(search), run(score_moments(losses, weights, steps=STEPS)).total)


def test_moments_are_mean_and_rms_of_the_products():
    losses, weights = setup_quadratic()
    moments = run(score_moments(losses, weights, steps=STEPS))
    for name, w in weights.items():
        products = torch.stack([w * (w - losses.targets(k)[name]) for k in range(STEPS)])
        rms = products.square().mean(0).sqrt()
        torch.testing.assert_close(moments.mean[name], products.mean(0))
        torch.testing.assert_close(moments.rms[name], rms)
        torch.testing.assert_close(moments.total[name], products.sum(0))
        torch.testing.assert_close(moments.consistency[name], products.mean(0) / rms)


def test_consistency_stays_in_range_where_products_vanish():
    weights = {"w": torch.tensor([0.0, 1e-25, 1.0])}
    losses = Quadratic({"w": torch.tensor([1.0, -1.0, 0.5])})  # the square of 1e-25 is 0
    found = run(score_moments(losses, weights, steps=3)).consistency["w"]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0]))


def test_adam_counts_steps_whatever_the_scale():
    weights = {"w": torch.tensor([2.0, 2.0])}
    tiny, large = (Quadratic({"w": torch.zeros(2)}, curvature=c) for c in (1e-4, 1e4))
    for losses in (tiny, large):
        score = run(score_accelerated(losses, weights, steps=20, rate=2e-5))
        torch.testing.assert_close(score["w"], torch.tensor([20.0, 20.0]), rtol=1e-3, atol=0)


def test_bounded_gates_neither_grow_nor_turn():
    weights = {"w": torch.tensor([1.0, 1.0])}
    losses = Quadratic({"w": torch.tensor([-5.0, 5.0])})
    found = run(score_accelerated(losses, weights, steps=20, rate=0.2, bounded=True))
    torch.testing.assert_close(found["w"], torch.tensor([5.0, 0.0]))


ENGINES = {
    "sampled": lambda *a, **k: score_sampled(*a, rate=0.01, **k),
    "sgd": lambda *a, **k: score_accelerated(*a, rate=0.01, optimiser="sgd", **k),
    "adam": lambda *a, **k: score_accelerated(*a, rate=0.01, **k),
    "moments": score_moments,
}


def tensors_of(result):
    return (
        result
        if isinstance(result, dict)
        else result.mean | {"r" + n: t for n, t in result.rms.items()}
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stop", [1, 4])
def test_an_interrupted_search_ends_in_the_same_bits(engine, stop, tmp_path):
    losses, weights = TwoLayers(), TwoLayers().weights()
    whole = tensors_of(run(ENGINES[engine](losses, weights, steps=STEPS)))
    first = ENGINES[engine](losses, weights, steps=STEPS)
    for progress in itertools.islice(first, stop):
        progress.state.save(tmp_path / "state.safetensors")
    state = SearchState.load(tmp_path / "state.safetensors")
    assert state.step == stop
    resumed = tensors_of(run(ENGINES[engine](losses, weights, steps=STEPS, state=state)))
    assert all(resumed[n].equal(whole[n]) for n in whole)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_are_only_read_and_handed_on_in_their_type(engine, dtype):
    seen = set()

    def losses(step):
        def loss(weights):
            seen.update(w.dtype for w in weights.values())
            return TwoLayers()(step)(weights)

        return loss

    weights = {n: torch.nn.Parameter(w) for n, w in TwoLayers().weights(dtype).items()}
    before = {n: w.detach().clone() for n, w in weights.items()}
    with torch.no_grad():
        found = tensors_of(run(ENGINES[engine](losses, weights, steps=3)))
    assert seen == {dtype}
    assert all(w.equal(before[n]) and w.grad is None for n, w in weights.items())
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in found.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_progress_reports_every_gradient(engine):
    losses, weights = TwoLayers(), TwoLayers().weights()
    seen = []
    run(ENGINES[engine](losses, weights, steps=3), seen.append)
    assert [(p.step, p.steps) for p in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0].loss == pytest.approx(float(losses(0)(weights)))


def broken(kind):
    """Return losses that break at step 2."""

    def losses(step):
        def loss(weights):
            value = TwoLayers()(step)(weights)
            if step < 2:
                return value
            first = next(iter(weights.values()))
            return value * float("inf") if kind == "loss" else value + (0 * first.sum()).sqrt()

        return loss

    return losses


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_is_refused_before_the_state_changes(engine, kind):
    weights = TwoLayers().weights()
    search = ENGINES[engine](broken(kind), weights, steps=STEPS)
    state = [next(search), next(search)][-1].state
    before = {s: {n: t.clone() for n, t in named.items()} for s, named in state.slots.items()}
    with pytest.raises(SearchError, match=rf"{kind}.*step 2.*expected finite"):
        next(search)
    assert state.step == 2
    assert all(state.slots[s][n].equal(t) for s in before for n, t in before[s].items())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rate": 0.02}, "rate=0.01, expected 0.02"),
        ({"optimiser": "sgd"}, "optimiser='adam'"),
        ({"epsilon": 1e-6}, "epsilon"),
        ({"bounded": True}, "bounded"),
        ({"steps": 1}, "taken 2 steps"),
        ({"weights": {n: w + 1 for n, w in TwoLayers().weights().items()}}, "weights="),
    ],
)
def test_a_state_of_another_search_is_refused(change, match):
    asked = {"weights": TwoLayers().weights(), "steps": STEPS, "rate": 0.01, "optimiser": "adam"}
    search = score_accelerated(TwoLayers(), **asked)
    state = [next(search), next(search)][-1].state
    with pytest.raises(SearchError, match=match):
        score_accelerated(TwoLayers(), **(asked | change), state=state)
    with pytest.raises(SearchError, match="engine='accelerated', expected 'moments'"):
        score_moments(TwoLayers(), TwoLayers().weights(), steps=STEPS, state=state)


def test_damaged_states_are_refused(tmp_path):
    weights = {"w": torch.tensor([1.0, 2.0])}
    search = score_accelerated(Quadratic({"w": torch.zeros(2)}), weights, steps=3, rate=0.1)
    path = tmp_path / "state"
    next(search).state.save(path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at])
        with pytest.raises(SearchError, match="cannot be read"):
            SearchState.load(path)
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(SearchError, match="cannot be read"):
            SearchState.load(path)
    with pytest.raises(SearchError, match="cannot be read"):
        SearchState.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("raised", "expected"), [(OSError, OSError), (SafetensorError, SearchError)]
)
def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch, raised, expected):
    search = score_moments(TwoLayers(), TwoLayers().weights(), steps=3)
    state = next(search).state
    state.save(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise raised("disk full")

    monkeypatch.setattr("cones.state.save_file", fail)
    with pytest.raises(expected, match="disk full"):
        state.save(tmp_path / "state")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rate": 0.0}, "rate is 0.0, expected a positive"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"optimiser": "lion"}, "optimiser is 'lion'"),
        ({"weights": {}}, "no weight to search"),
        ({"weights": {"w": torch.ones(2, dtype=torch.int8)}}, "'w' is torch.int8"),
        ({"weights": {"w": torch.ones(2, device="meta")}}, "on meta"),
    ],
)
def test_impossible_requests_are_refused_at_once(change, match):
    asked = {"weights": TwoLayers().weights(), "steps": 1, "rate": 0.1}
    with pytest.raises(SearchError, match=match):
        score_accelerated(TwoLayers(), **(asked | change))


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda w: w["a"].sum(), "does not depend on 'b'"),
        (lambda w: w["a"] + w["b"], r"shape \(2,\)"),
        (lambda w: (w["a"] + w["b"]).sum().detach(), "requires_grad=False"),
    ],
)
def test_unusable_losses_are_refused(loss, match):
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    with pytest.raises(SearchError, match=match):
        run(score_moments(lambda step: loss, weights, steps=1))
