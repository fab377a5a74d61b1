"""Learnt values: lower the loss, touch nothing else, and go through a concept file unchanged."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cones.attention import before_and_after
from cones.backbones import backbone_for
from cones.base_check import BaseCheck
from cones.codecs import container
from cones.concept import Concept, Member, combine
from cones.concept_file import dumps, load, loads, save
from cones.errors import CodecError, InterventionError, MaskError, SearchError
from cones.export import export_diffusers
from cones.generate import edit, generate, prepare
from cones.mask import ConceptMask
from cones.precision import LEVELS, PRECISIONS, Values
from cones.values import filled, optimised
from fakes import Quadratic, TwoLayers, random_weights


def masked(weights, density=0.4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return ConceptMask.where(
        {n: torch.rand(w.shape, generator=g) < density for n, w in weights.items()}
    )


@pytest.fixture
def two():
    loss = TwoLayers()
    weights = loss.weights()
    return loss, weights, masked(weights)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_lowers_the_loss(two, precision):
    loss, weights, mask = two

    def mean(steps):
        found = optimised(loss, weights, mask, precision=precision, steps=steps, rate=0.02)
        changed = filled(weights, mask, found.values)
        return float(sum(loss(step)(changed) for step in range(20)) / 20)

    assert mean(60) < 0.6 * mean(0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_steps_give_the_weights_themselves_rounded(two, precision):
    loss, weights, mask = two
    found = optimised(loss, weights, mask, precision=precision, steps=0)
    for name, hits in mask.hits().items():
        start = weights[name][hits]
        if precision == "float32":
            assert found.values[name].equal(start)
        assert float((found.values[name] - start).square().mean()) < float(start.square().mean())
        assert precision not in LEVELS or len(found.values[name].unique()) <= len(
            LEVELS[precision]
        )


def test_everything_else_is_frozen(two):
    loss, weights, mask = two
    before = {n: w.clone() for n, w in weights.items()}
    seen = []

    def watched(step):
        def call(point):
            seen.append({n: w.detach().clone() for n, w in point.items()})
            return loss(step)(point)

        return call

    found = optimised(watched, weights, mask, steps=5, rate=0.1)
    assert len(seen) == 5
    for point in [*seen, filled(weights, mask, found.values)]:
        for name, hits in mask.hits().items():
            assert point[name][~hits].equal(before[name][~hits])
    for name, hits in mask.hits().items():
        assert not seen[-1][name][hits].equal(before[name][hits])
        assert weights[name].equal(before[name])


def test_float32_finds_the_known_answer():
    weights = random_weights((6, 5), (4,))
    mask = masked(weights, 0.5)
    target = random_weights((6, 5), (4,), seed=1)
    found = optimised(Quadratic(target), weights, mask, steps=400, rate=0.05)
    for name, hits in mask.hits().items():
        torch.testing.assert_close(found.values[name], target[name][hits], atol=0.02, rtol=0)


def test_a_scale_is_learnt_too():
    weights = {"w": torch.tensor([0.5, -0.5, 0.5, -0.5])}
    mask = ConceptMask.where({"w": torch.ones(4, dtype=torch.bool)})
    target = {"w": torch.tensor([1.5, -1.5, 1.5, 1.5])}
    found = optimised(Quadratic(target), weights, mask, precision="binary", steps=400, rate=0.02)
    torch.testing.assert_close(found.values["w"], target["w"], atol=0.05, rtol=0)


def test_a_scale_may_cross_zero():
    """One step of Adam moves all by the rate, here past zero: still towards the target."""
    weights = {"w": torch.full((4,), 0.01)}
    mask = ConceptMask.where({"w": torch.ones(4, dtype=torch.bool)})
    target = Quadratic({"w": torch.full((4,), -1.5)})
    for precision in LEVELS:
        found = optimised(target, weights, mask, precision=precision, steps=1, rate=0.02)
        assert bool((found.values["w"] < -0.003).all())


def test_the_samples_are_the_steps_and_a_seed_decides_all(two):
    loss, weights, mask = two
    quadratic = Quadratic(weights, noise=0.1)
    told = []
    optimised(quadratic, weights, mask, steps=3, notify=told.append)
    assert quadratic.asked == [0, 1, 2]
    assert [(s.stage, s.step, s.steps) for s in told] == [
        ("values float32", k, 3) for k in (1, 2, 3)
    ]
    a, b = (optimised(loss, weights, mask, precision="binary", steps=4) for _ in range(2))
    assert all(a.values[n].equal(b.values[n]) for n in mask)


def test_shut_learns_nothing(two):
    loss, weights, mask = two
    found = optimised(None, weights, mask, precision="shut")
    assert found.values is None
    zeros = filled(weights, mask, found.values)
    for name, hits in mask.hits().items():
        assert bool((zeros[name][hits] == 0).all())


def test_half_weights_and_empty_parameters_work(two):
    loss, weights, mask = two
    half = {n: w.bfloat16() for n, w in weights.items()}
    first = next(iter(mask))
    only = ConceptMask(mask.shapes, {**mask.indices, first: mask.indices[first][:0]})
    for precision in PRECISIONS:
        found = optimised(loss, half, only, precision=precision, steps=2, rate=0.1)
        assert len(found.values[first]) == 0
        assert filled(half, only, found.values)[first].dtype == torch.bfloat16


def test_wrong_questions_are_refused(two):
    loss, weights, mask = two
    with pytest.raises(InterventionError, match="found precision 'int8'"):
        optimised(loss, weights, mask, precision="int8")
    with pytest.raises(SearchError, match="absent in the other"):
        optimised(loss, weights, mask.restricted(["net.a.to_k.weight"]))


SHAPES = {"u.attn2.to_v.weight": (16, 24), "u.attn1.to_k.weight": (20, 10)}


def valued(precision, *, density=0.2, seed=0):
    weights = random_weights(*SHAPES.values(), seed=seed)
    weights = dict(zip(SHAPES, weights.values(), strict=True))
    mask = masked(weights, density)
    quadratic = Quadratic({n: w.roll(1, 0) for n, w in weights.items()})
    found = optimised(quadratic, weights, mask, precision=precision, steps=3, rate=0.05)
    member = Member("V*", "cat", {"clip": torch.ones(1, 4)})
    plain = Concept((mask,), 0, (member,), BaseCheck.of(weights, "maker/base"), {}, {"gain": 1})
    return plain.valued(Values(precision, found.values))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("density", [0, 0.05, 1])
def test_files_bring_values_back(tmp_path, precision, density):
    concept = valued(precision, density=density)
    path = tmp_path / "cat.cones.safetensors"
    assert save(concept, path) == path.stat().st_size
    back = load(path)
    assert back.mask == concept.mask
    assert back.certificate == {}
    assert back.values.precision == precision
    for name in concept.mask:
        assert back.values.numbers[name].equal(concept.values.numbers[name])
    assert dumps(back) == path.read_bytes()
    assert container.unpack(path.read_bytes())[0]["format_version"] == "2"


def test_files_are_as_large_as_expected():
    sizes = {precision: len(dumps(valued(precision))) for precision in PRECISIONS}
    plain = len(dumps(valued("float32").using(valued("float32").mask)))
    neurons = len(valued("float32").mask)
    for precision, bits in (("float32", 32), ("float16", 16), ("quaternary", 2), ("binary", 1)):
        beyond = sizes[precision] - plain - neurons * bits / 8
        assert 0 <= beyond < 256, "the rest is names in the header, and scales"


def test_the_dump_of_version_1_is_written_as_ever():
    text = (Path(__file__).parents[1] / "FORMAT.md").read_text()
    dump = text.split("```hexdump\n")[1].split("```")[0]
    lines = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} +)+)\|", dump, flags=re.MULTILINE)
    data = bytes.fromhex("".join(lines))
    assert dumps(loads(data)) == data


def test_without_values_nothing_has_changed():
    concept = valued("binary")
    shut = concept.using(concept.mask)
    metadata, tensors = container.unpack(dumps(shut))
    assert metadata["format_version"] == "1"
    assert "values" not in metadata["concept"]
    assert not any(name.startswith("cones.values") for name in tensors)
    assert loads(dumps(shut)).values is None


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_cut_and_flip_of_a_file_with_values_is_refused(precision):
    data = dumps(valued(precision, density=0.02))
    for length in range(len(data)):
        with pytest.raises(CodecError):
            loads(data[:length])
    for at in range(len(data)):
        with pytest.raises(CodecError):
            loads(data[:at] + bytes([data[at] ^ 0x2A]) + data[at + 1 :])


def forged(*, version="2", without=(), **changes):
    """Write a file with a right digest and a changed description."""
    metadata, tensors = container.unpack(dumps(valued("quaternary")))
    described = {**json.loads(metadata["concept"]), **changes}
    described = {name: value for name, value in described.items() if name not in without}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in without}
    metadata |= {"format_version": version, "concept": json.dumps(described)}
    return container.pack(metadata, tensors)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"version": "1"}, "version 1 is with values"),
        ({"without": ["values"]}, "version 2 is without values"),
        ({"version": "3"}, "'cones', '3'.*update cones"),
        ({"values": {"precision": "int3"}}, "'int3'; expected one of"),
        ({"values": {"precision": "binary"}}, "expected .* of torch.uint8"),
        ({"values": {"precision": "float32"}}, "expected .* of torch.float32"),
        ({"values": {}}, "not understood"),
        ({"values": 3}, "not understood"),
        ({"without": ["cones.values"]}, "not understood"),
        ({"without": ["cones.values.scale"]}, "not understood"),
    ],
)
def test_forged_values_are_refused(changes, match):
    with pytest.raises(CodecError, match=match):
        loads(forged(**changes))


def test_concepts_refuse_values_that_are_not_theirs():
    concept = valued("binary")
    values = concept.values
    with pytest.raises(InterventionError, match="one value per neuron of the mask"):
        replace(concept.using(ConceptMask.empty(concept.mask.shapes)), values=values)
    levels = (ConceptMask.empty(concept.mask.shapes), concept.mask)
    with pytest.raises(MaskError, match="found values for 2 levels"):
        replace(concept, levels=levels, level=1)
    several = replace(concept, levels=levels, level=1, values=None)
    assert several.valued(values).levels == (concept.mask,)
    assert concept.at(1).values is values
    with pytest.raises(MaskError, match=r"found binary values for 'V\*'.*use it alone"):
        combine(concept, several.renamed("U*"))


@pytest.fixture
def drawn(sd1, fresh):
    """Give a pipeline and a concept of it with values of its own."""
    pipeline = fresh(sd1)
    backbone = backbone_for(pipeline)
    weights = backbone.weights("cross")
    mask = masked(weights, 0.3)
    values = {n: torch.full((len(i),), 0.25) for n, i in mask.indices.items()}
    member = Member("V1*", "cat", backbone.register("V1*"))
    plain = Concept((mask,), 0, (member,), BaseCheck.of(weights, backbone.model_id))
    return pipeline, plain, plain.valued(Values("binary", values))


def bits(pipeline):
    return {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}


def test_pictures_are_drawn_with_the_values_and_every_bit_comes_back(drawn, tmp_path):
    pipeline, plain, concept = drawn
    before = bits(pipeline)
    save(concept, tmp_path / "cat")
    edited = edit(pipeline, [load(tmp_path / "cat")])
    with edited.applied(pipeline.unet):
        inside = bits(pipeline)
    for name, weight in before.items():
        hits = plain.mask.hits().get(name, torch.zeros_like(weight, dtype=torch.bool))
        assert bool((inside[name][hits] == 0.25).all())
        assert inside[name][~hits].equal(weight[~hits])
    options = {"prompt": "a V1* cat", "steps": 1, "count": 1}
    images = [generate(pipeline, [c], **options)[0].tobytes() for c in (concept, plain)]
    images.append(generate(pipeline, [], **options)[0].tobytes())
    images.append(generate(pipeline, [concept], strength=0, **options)[0].tobytes())
    assert len(set(images[:3])) == 3
    assert images[3] == images[2]
    seen = before_and_after(pipeline, [concept], "a V1* cat", steps=1)[1]
    assert seen.images[0].tobytes() == images[0]
    assert all(w.equal(before[n]) for n, w in bits(pipeline).items())


def test_several_concepts_with_values_are_refused(drawn):
    pipeline, plain, concept = drawn
    other = plain.renamed("U1*")
    assert edit(pipeline, [plain, other]).mask == plain.mask
    assert edit(pipeline, []) is None
    for refused in ([concept, other], [other, concept]):
        with pytest.raises(MaskError, match=r"found binary values for 'V1\*'"):
            edit(pipeline, refused)
    with pytest.raises(MaskError, match="found binary values"):
        prepare(pipeline, [concept])


def test_an_exported_model_holds_the_values(drawn, tmp_path):
    from cones.backbones import load_pipeline

    pipeline, plain, concept = drawn
    folder = export_diffusers(pipeline, [concept], tmp_path / "model")
    found = dict(load_pipeline(str(folder)).unet.named_parameters())
    for name, hits in plain.mask.hits().items():
        assert bool((found[name][hits] == 0.25).all())
