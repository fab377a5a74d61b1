"""What is saved is read back, small, whole or not at all."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from cones.concept import Concept, Word
from cones.concept_file import decode, dumps, encode, load, loads
from cones.errors import FileError
from cones.fingerprint import Fingerprint
from cones.mask import Mask

BASE = Fingerprint("maker/base", "1" * 64, bytes(range(128)))
SHAPES = {"mid.attn2.to_k.weight": (4, 8), "mid.attn2.to_v.weight": (32, 32), "bias": ()}


def index(*places: int) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.int64)


def example() -> Concept:
    """Build the concept whose dump is in FORMAT.md."""
    names = list(SHAPES)[:2]
    shapes = {name: SHAPES[name] for name in names}
    sparse = Mask(shapes, dict(zip(names, (index(3, 4), index(0, 700)), strict=True)))
    dense = sparse | Mask(shapes, {names[0]: index(31), names[1]: index()})
    word = Word("V*", "cat", {"text_encoder": torch.tensor([[1.0, -0.5]])})
    base = replace(BASE, signs=bytes(128))
    return Concept((sparse, dense), (word,), base, {"scope": "cross"}, {})


def equal(a: Concept, b: Concept) -> bool:
    """Compare all that a concept holds."""
    same = len(a.levels) == len(b.levels) and len(a.words) == len(b.words)
    masks = zip(a.levels, b.levels, strict=True)
    words = zip(a.words, b.words, strict=True)
    return (
        same
        and all(x == y and x.shapes == y.shapes for x, y in masks)
        and all((x.identifier, x.noun) == (y.identifier, y.noun) for x, y in words)
        and all(x.embeddings.keys() == y.embeddings.keys() for x, y in words)
        and all(
            torch.equal(rows, y.embeddings[n])
            for x, y in words
            for n, rows in x.embeddings.items()
        )
        and (a.base, a.settings, a.certificate) == (b.base, b.settings, b.certificate)
    )


@st.composite
def concepts(draw: st.DrawFn) -> Concept:
    """Draw a concept of one to seven levels, one or two words."""
    labels, many = {}, draw(st.integers(1, 7))
    for name, shape in SHAPES.items():
        numel = torch.Size(shape).numel()
        size = draw(st.sampled_from((0, 1, numel // 2, numel)))
        places = draw(st.sets(st.integers(0, numel - 1), max_size=size))
        labels[name] = {place: draw(st.integers(0, many - 1)) for place in sorted(places)}
    levels = tuple(
        Mask(
            SHAPES,
            {
                n: index(*(p for p, k in marks.items() if k <= level))
                for n, marks in labels.items()
            },
        )
        for level in range(many)
    )
    dtype = draw(st.sampled_from((torch.float32, torch.float16, torch.bfloat16)))
    rows = torch.arange(6).view(2, 3).to(dtype)
    words = (Word("V*", "cat", {"text_encoder": rows}), Word("<dög>", "Hund", {}))
    plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
    entries = draw(st.dictionaries(st.sampled_from(("a", "ü", "")), values))
    return Concept(levels, words[: draw(st.integers(1, 2))], BASE, entries, {"kept": entries})


@settings(deadline=None, max_examples=60)
@given(concepts())
def test_round_trip(concept: Concept) -> None:
    data = dumps(concept)
    again = loads(data)
    assert equal(again, concept)
    assert dumps(again) == data


def test_words_that_share_one_vector_are_written() -> None:
    cat = replace(example(), words=example().words[:1])
    both = cat | cat.renamed("V2*")
    assert equal(loads(dumps(both)), both)


def test_dtypes_of_embeddings_are_kept() -> None:
    concept = example()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rows = {"text_encoder": torch.tensor([[1.0, -0.5]], dtype=dtype)}
        found = loads(dumps(replace(concept, words=(Word("V*", "cat", rows),))))
        assert found.words[0].embeddings["text_encoder"].dtype == dtype


@pytest.mark.parametrize(
    "places", [[], [0], [254], [255], [256], [0, 255, 511], [510, 766, 999], list(range(1000))]
)
def test_the_codec_gives_back_positions(places: list[int]) -> None:
    data = encode(index(*places))
    found = decode(data, count=len(places), numel=1000)
    assert found.tolist() == places
    for wrong in ({"count": len(places) + 1, "numel": 1000}, {"count": 999, "numel": 1000}):
        with pytest.raises(FileError):
            decode(data, **wrong)
    with pytest.raises(FileError, match="followed by something"):
        decode(data + b"\0", count=len(places), numel=1000)
    for cut in range(len(data)):
        with pytest.raises(FileError):
            decode(data[:cut], count=len(places), numel=1000)


def sd14() -> Mask:
    """Draw a mask of 1.32 % over the K/V shapes of Stable Diffusion 1.4."""
    names = "unet.down_blocks.{}.attentions.{}.transformer_blocks.0.attn{}.to_{}.weight"
    shapes = {
        names.format(width, k, layer, kind): (width, 768 if layer == 2 else width)
        for width, blocks in ((320, 5), (640, 5), (1280, 6))
        for k in range(blocks)
        for layer in (1, 2)
        for kind in "kv"
    }
    assert sum(a * b for a, b in shapes.values()) == 43_950_080
    counts = {name: range(round(a * b * 0.0132)) for name, (a, b) in shapes.items()}
    full = Mask(shapes, {name: index(*count) for name, count in counts.items()})
    return full.random_like(torch.Generator().manual_seed(0))


def test_the_size_of_stable_diffusion() -> None:
    dense, g = sd14(), torch.Generator().manual_seed(1)
    lots = {n: torch.rand(len(index), generator=g) for n, index in dense.indices.items()}
    levels = [
        Mask(dense.shapes, {n: index[lots[n] < share] for n, index in dense.indices.items()})
        for share in (0.25, 0.5, 1)
    ]
    word = Word("V*", "cat", {"text_encoder": torch.randn(1, 768, generator=g)})
    concept = Concept(tuple(levels), (word,), BASE)
    data = dumps(concept)
    assert len(data) <= 700_000
    assert equal(loads(data), concept)
    assert len(dumps(replace(concept, levels=(dense,)))) <= 580_000


def test_every_cut_and_every_flipped_byte_is_refused() -> None:
    data = dumps(example())
    for k in range(len(data)):
        with pytest.raises(FileError):
            loads(data[:k])
        for flip in (1, 255):
            with pytest.raises(FileError):
                loads(data[:k] + bytes([data[k] ^ flip]) + data[k + 1 :])
    with pytest.raises(FileError):
        loads(data + b"\0")


def test_files_are_safetensors_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cat.safetensors"
    size = example().save(path)
    assert size == path.stat().st_size == example().save(str(path))
    assert equal(load(path), example())
    with safe_open(path, "pt") as file:
        assert file.get_tensor("cones.word.0.text_encoder").tolist() == [[1.0, -0.5]]
    nested: dict[str, object] = {}
    for _ in range(9):
        nested = {"in": nested}
    with pytest.raises(FileError, match="cannot be written: 'certificate'.*at most 8 levels"):
        replace(example(), certificate=nested).save(path)
    assert equal(load(str(path)), example())
    assert [file.name for file in path.parent.iterdir()] == ["cat.safetensors"]


def test_the_dump_in_format_md_is_a_real_file() -> None:
    text = (Path(__file__).parents[2] / "FORMAT.md").read_text()
    dump = re.search(r"```hexdump\n(.*?)```", text, re.DOTALL)
    assert dump
    data = bytes.fromhex("".join(line[10:58] for line in dump[1].splitlines()))
    assert equal(loads(data), example())
    assert dumps(example()) == data
