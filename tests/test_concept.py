"""Concepts: levels, combination, base check, and files that refuse every damaged byte."""

import json
import re
from pathlib import Path

import pytest
import torch

from cones.base_check import BaseCheck
from cones.codecs import container
from cones.concept import Concept, Member, combine, require_base
from cones.concept_file import dumps, load, loads, save
from cones.errors import CodecError, MaskError
from cones.mask import ConceptMask

SHAPES = {"u.attn2.to_v.weight": (16, 24), "u.attn1.to_k.weight": (20, 10)}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw the weights of a base model."""
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=g) for n, s in SHAPES.items()}


def concept(
    *densities: float, seed: int = 0, identifier: str = "V*", noun: str = "cat"
) -> Concept:
    """Draw a concept with one level per density."""
    g = torch.Generator().manual_seed(seed)
    draws = {n: torch.rand(s, generator=g) for n, s in SHAPES.items()}
    levels = [ConceptMask.where({n: d < p for n, d in draws.items()}) for p in densities or [0.1]]
    member = Member(
        identifier,
        noun,
        {"clip": torch.randn(1, 4, generator=g), "big": torch.ones(2, 3, dtype=torch.bfloat16)},
    )
    base = BaseCheck.of(weights(), "maker/base")
    settings = {"tau": 0.5, "prompts": ["a {}"], "seed": 3}
    return Concept(tuple(levels), 0, (member,), base, settings, {"gain": -1.25})


def test_levels():
    c = concept(0.01, 0.1, 0.4)
    densities = c.densities
    assert list(densities) == sorted(densities)
    assert c.at(0.2).mask == c.levels[1]
    assert c.at(densities[2]).mask == c.levels[2]
    assert c.at(1).level == 2
    assert c.at(0).level == 0
    assert (c.identifier, c.noun, list(c.embeddings)) == ("V*", "cat", ["clip", "big"])


def test_bad_levels_are_refused():
    c = concept(0.1, 0.4)
    with pytest.raises(MaskError, match="level 1 lacks neurons of level 0"):
        Concept(c.levels[::-1], 0, c.members, c.base)
    for levels, level, members in (
        (c.levels, 2, c.members),
        (c.levels, 0, ()),
        ((), 0, c.members),
    ):
        with pytest.raises(MaskError, match="expected an existing level and at least one member"):
            Concept(levels, level, members, c.base)


def test_settings_become_plain():
    given = {"a": (1, torch.tensor([2.0])), 3: float("nan"), "p": SHAPES.keys}
    made = Concept(concept().levels, 0, concept().members, concept().base, given)
    assert made.settings["a"] == [1, [2.0]]
    assert made.settings["3"] is None
    assert json.dumps(made.settings)


@pytest.mark.parametrize("densities", [(0,), (1e-4,), (0.05,), (1,), (0, 1e-4, 0.05, 1)])
def test_round_trip(tmp_path, densities):
    c = concept(*densities)
    path = tmp_path / "cat.cones.safetensors"
    assert save(c, path) == path.stat().st_size
    back = load(path)
    assert back.levels == c.levels
    assert list(back.mask) == list(c.mask)
    assert back.level == c.level
    assert back.members[0].same_as(c.members[0])
    assert (back.base, back.settings, back.certificate) == (c.base, c.settings, c.certificate)
    assert dumps(back) == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_one_level_can_be_stored_alone():
    c = concept(0.01, 0.1, 0.4).at(0.1)
    assert loads(dumps(c)).level == c.level
    alone = loads(dumps(c, with_levels=False))
    assert (alone.levels, alone.level) == ((c.mask,), 0)


def test_every_cut_is_refused():
    data = dumps(concept(0.01, 0.1))
    for length in range(len(data)):
        with pytest.raises(CodecError):
            loads(data[:length])
    with pytest.raises(CodecError):
        loads(data + b"\0")


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x2A, 0xFF])
def test_every_flipped_byte_is_refused(flip):
    data = dumps(concept(0.01, 0.1))
    for at in range(len(data)):
        with pytest.raises(CodecError):
            loads(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])


def forged(**changes: object) -> bytes:
    """Write a file with a right digest and a changed description."""
    metadata, tensors = container.unpack(dumps(concept()))
    described = {**json.loads(metadata["concept"]), **changes}
    return container.pack({**metadata, "concept": json.dumps(described)}, tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"codec": "new"},
        {"counts": [[1, 1]]},
        {"counts": [[-1, 1]]},
        {"counts": [[0.5, None]]},
        {"counts": []},
        {"sizes": [[1, 1]]},
        {"sizes": [[-5, 9]]},
        {"sizes": [[1]]},
        {"parameters": []},
        {"parameters": [{"name": "a", "shape": [-2, -2]}, {"name": "b", "shape": [1]}]},
        {"parameters": [{"name": "a", "shape": [2]}, {"name": "a", "shape": [2]}]},
        {"level": 4},
        {"level": "0"},
        {"members": []},
        {"members": [{"identifier": "x"}]},
        {"members": [{"identifier": "x", "noun": "y", "encoders": ["none"]}]},
        {"base": {"model": "x"}},
        {"base": None},
        {"settings": None, "members": 3},
    ],
)
def test_forged_descriptions_are_refused(changes):
    with pytest.raises(CodecError):
        loads(forged(**changes))


def test_other_versions_and_files_are_refused(tmp_path):
    metadata, tensors = container.unpack(dumps(concept()))
    with pytest.raises(CodecError, match=r"'cones', '3'.*update cones"):
        loads(container.pack({**metadata, "format_version": "3"}, tensors))
    path = tmp_path / "x"
    path.write_bytes(b"no")
    with pytest.raises(CodecError, match="no complete safetensors file"):
        load(path)


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "x"
    save(concept(), path)
    before = path.read_bytes()
    bad = Member("V*", "cat", {"clip": torch.ones(1, 4, dtype=torch.float64)})
    with pytest.raises(CodecError, match="float64"):
        save(Concept(concept().levels, 0, (bad,), concept().base), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_base_verdicts():
    base, plain = weights(), BaseCheck.of(weights(), "maker/base")
    assert plain.compare(BaseCheck.of(dict(reversed(base.items())), "copy")) == "same"
    for dtype in (torch.float16, torch.bfloat16):
        cast = BaseCheck.of({n: w.to(dtype) for n, w in base.items()}, "cast")
        assert plain.compare(cast) == cast.compare(plain) == "same"
        assert cast.weights.startswith(str(dtype).removeprefix("torch."))
        loaded = BaseCheck.of({n: w.to(dtype).float() for n, w in base.items()}, "loaded")
        assert loaded.weights == cast.weights
    tuned = BaseCheck.of({n: w + 0.02 * torch.randn_like(w) for n, w in base.items()}, "tuned")
    assert plain.compare(tuned) == "fine-tune"
    assert plain.agreement(tuned) > 0.95
    touched = BaseCheck.of({n: w * 1.001 for n, w in base.items()}, "touched")
    assert plain.compare(touched) == "fine-tune"
    other = BaseCheck.of(weights(1), "other")
    assert plain.compare(other) == "unrelated"
    assert plain.agreement(other) == pytest.approx(0.5, abs=0.1)
    turned = BaseCheck.of({n: w.t() for n, w in base.items()}, "turned")
    assert plain.compare(turned) == "other-layout"
    with pytest.raises(MaskError, match="no weights to check"):
        BaseCheck.of({}, "x")


def test_signs_are_those_of_the_weights():
    one = {"w": torch.arange(8192.0) - 4096.5}
    check = BaseCheck.of(one, "x")
    negative = sum(byte.bit_count() for byte in check.signs) / 4096
    assert negative == pytest.approx(4097 / 8192, abs=2e-3)
    assert BaseCheck.of({"w": -one["w"]}, "x").agreement(check) == 0


def test_wrong_base_is_refused_by_name():
    c = concept()
    assert c.require_base(BaseCheck.of(weights(), "x")) == "same"
    tuned = {n: w + 0.02 for n, w in weights().items()}
    assert require_base(c, BaseCheck.of(tuned, "x")) == "fine-tune"
    with pytest.raises(MaskError, match=r"'some/other' shares .* with 'maker/base'.*load"):
        c.require_base(BaseCheck.of(weights(1), "some/other"))
    with pytest.raises(MaskError, match=r"'some/xl' has other searched weights than 'maker/base'"):
        c.require_base(BaseCheck.of({"w": torch.ones(2)}, "some/xl"))


def test_combine():
    a, b = concept(0.1, 0.3, seed=1).at(0.3), concept(0.2, seed=2, identifier="U*", noun="dog")
    union = combine(a, b)
    assert union.levels == (a.mask | b.mask,)
    assert [m.identifier for m in union.members] == ["V*", "U*"]
    assert union.certificate == {}
    assert union.settings["parts"][0]["mask"] == a.mask.digest
    assert combine(a, b, "intersection").mask == a.mask & b.mask
    assert combine(a, b, "difference").mask == a.mask - b.mask
    assert combine(a, b, "difference").members == a.members
    assert combine(a, a).members == a.members
    back = loads(dumps(union))
    assert [m.same_as(o) for m, o in zip(back.members, union.members, strict=True)] == [True] * 2
    assert back.mask == union.mask


def test_combine_refuses():
    a = concept(0.1)
    clash = concept(0.1, seed=5, noun="dog")
    with pytest.raises(MaskError, match=r"'V\*' names a cat in one and a dog"):
        combine(a, clash)
    assert len(combine(a, clash.renamed("U*")).members) == 2
    with pytest.raises(MaskError, match="how is 'sum'"):
        combine(a, a, "sum")
    foreign = Concept(a.levels, 0, a.members, BaseCheck.of(weights(1), "other"))
    with pytest.raises(MaskError, match="'other'"):
        combine(a, foreign)


def test_the_dump_in_the_format_description_still_loads():
    text = (Path(__file__).parents[1] / "FORMAT.md").read_text()
    dump = text.split("```hexdump\n")[1].split("```")[0]
    lines = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} +)+)\|", dump, flags=re.MULTILINE)
    c = loads(bytes.fromhex("".join(lines)))
    k, v = "mid.attn2.to_k.weight", "mid.attn2.to_v.weight"
    assert [{n: i.tolist() for n, i in m.indices.items()} for m in c.levels] == [
        {k: [3, 4], v: [0, 700]},
        {k: [3, 4, 31], v: [0, 700]},
    ]
    assert c.mask.shapes == {k: (4, 8), v: (32, 32)}
    assert (c.level, c.identifier, c.noun, c.base.model) == (1, "V*", "cat", "maker/base")
    assert c.embeddings["text_encoder"].tolist() == [[1.0, -0.5]]
    shapes = c.mask.shapes
    values = {
        n: torch.arange(float(torch.Size(s).numel())).view(s) - 20 for n, s in shapes.items()
    }
    assert BaseCheck.of(values, "maker/base") == c.base
