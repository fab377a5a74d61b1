"""Files made to harm are refused by one FileError that says where."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cones.concept_file import MOST_BYTES, load, loads
from cones.errors import FileError
from forging import (
    deflated,
    described,
    forged,
    good,
    nested,
    packed,
    parts,
    put,
    rewritten,
    sealed,
)

pytestmark = pytest.mark.usefixtures("unchecked")  # the reader itself must refuse


def test_a_forged_file_that_changes_nothing_is_read() -> None:
    assert loads(described(lambda _: None)).prompt == "a V* cat"


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "version": (put("version", 3), "version' is 3; expected otherwise: Input should be 4; update"),
    "version true": (put("version", True), "version' is True"),
    "codec": (put("codec", "zip"), "codec' is 'zip'; expected otherwise: .*gap8-huffman'; update"),
    "codec list": (put("codec", ["x"]), "codec"),
    "shape bool": (put("parameters.0.shape", [True, 32]), "parameters.0.shape.0"),
    "shape float": (put("parameters.0.shape", [4.0, 8]), "parameters.0.shape.0"),
    "shape negative": (put("parameters.0.shape", [-4, -8]), "parameters.0.shape.0"),
    "shape 2^62": (put("parameters.0.shape", [1 << 62]), "parameters.0.shape.0"),
    "shape 2^40 x 2^40": (put("parameters.0.shape", [1 << 40] * 2), "weights expected"),
    "shape of 200,000": (put("parameters.0.shape", [1] * 200_000), "parameters.0.shape"),
    "count": (put("parameters.0.counts.0", 33), "holds 3 positions, .*expected 33"),
    "count of one level": (put("parameters.0.counts", [3]), "for every level expected"),
    "bytes": (put("parameters.0.bytes.1", 1), "DEFLATE stream"),
    "name twice": (put("parameters.0.name", "mid.to_v.weight"), "every parameter once"),
    "name with escape": (put("parameters.0.name", "\x1b[31m"), "parameters.0.name"),
    "20,000 parameters": (put("parameters", [{"name": "w"}] * 20_000), "parameters"),
    "levels none": (put("levels", 0), "levels"),
    "levels many": (put("levels", 17), "levels"),
    "levels more": (put("levels", 3), "for every level expected"),
    "no words": (put("words", []), "words"),
    "word twice": (put("words", [{"identifier": "V*", "noun": "x", "encoders": []}] * 2), "tens"),
    "identifier list": (put("words.0.identifier", ["V*"]), "words.0.identifier"),
    "identifier empty": (put("words.0.identifier", ""), "the identifier is"),
    "identifier spaced": (put("words.0.identifier", "a cat"), "identifier is 'a cat'.*no space"),
    "noun number": (put("words.0.noun", 5), "words.0.noun"),
    "noun surrogate": (put("words.0.noun", "\ud800"), "words.0.noun"),
    "noun escape": (put("words.0.noun", "\x1b]0;pwned\x07cat"), "words.0.*printable"),
    "encoder path": (put("words.0.encoders", ["../../x"]), "words.0.encoders.0"),
    "encoder unknown": (put("words.0.encoders", ["other"]), "those that the header names"),
    "model dict": (put("base.model", {"a": 1}), "base.model"),
    "model escape": (put("base.model", "\x1b[2J"), "base.model.*printable"),
    "weights": (put("base.weights", "0" * 63), "base.weights"),
    "signs": (put("base.signs", "00"), "base.signs"),
    "settings list": (put("settings", [1, 2]), "settings"),
    "settings deep": (put("settings", nested(600)), "at most 8 levels|JSON"),
    "settings huge": (put("settings.x", 1e999), "finite numbers expected"),
    "settings escape": (put("settings.x", "\x9b31m"), "settings.*printable"),
    "settings key": (put("settings", {"\x1b": 1}), "settings.*printable"),
    "certificate null": (put("certificate", None), "certificate"),
    "extra": (put("extra", 1), "extra"),
    "NaN": (lambda: rewritten('"cross"', "NaN"), "finite numbers expected"),
    "1e999": (lambda: rewritten('"cross"', "1e999"), "finite numbers expected"),
    "key twice": (lambda: rewritten('"codec"', '"version":3,"codec"'), "a key twice"),
    "5,000 digits": (lambda: rewritten('"levels": 2', f'"levels": {"1" * 5000}'), "no plain JSON"),
    "nested 100,000": (
        lambda: rewritten('"cross"', "[" * 100_000 + "]" * 100_000),
        "no plain JSON",
    ),
    "description list": (lambda: forged(*(parts(good())[0], "[]", parts(good())[2])), "no object"),
    "empty shape 2^41": (lambda: packed([1 << 41], (0, deflated(b""))), "shape.0"),
    "bomb": (
        lambda: packed([1 << 26], (1 << 26, deflated(bytes(1 << 26)))),
        "longer than",
    ),
    "hidden bomb": (
        lambda: packed([1 << 36], (0, deflated(b"\xff" * (1 << 26)))),
        "longer than",
    ),
    "bomb in a level": (
        lambda: packed([64], (64, deflated(bytes(64), 2)), (64, deflated(bytes(1 << 26)))),
        "longer than 64 bytes",
    ),
    "out of range": (lambda: packed([300], (1, deflated(b"\xff\xfe"))), "up to .509.*below 300"),
    "a level not in the next": (
        lambda: packed([9], (2, deflated(b"\1\1")), (1, deflated(b"\2"))),
        "up to .2., .*expected 1 below 2",
    ),
    "end within a gap": (lambda: packed([600], (1, deflated(b"\1\xff"))), "cut: True"),
    "rest of positions": (lambda: packed([9], (0, b"\1\0\0")), "stored block|cut"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_directed_files_are_refused(case: str) -> None:
    make, reason = REFUSED[case]
    data = make()
    with pytest.raises(FileError, match=reason) as caught:
        loads(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_long_value_is_cut_in_the_message() -> None:
    long = {f"{k}": [["x" * 99] * 9] * 9 for k in range(9)}
    with pytest.raises(FileError, match="'version' is .*; expected .*; update") as caught:
        loads(described(lambda told: told.update(version=long)))
    assert len(str(caught.value)) < 600


def test_tensors_that_lie_are_refused() -> None:
    tensors, description, body = parts(good())
    for name, field, value in (
        ("cones.word.0.text_encoder", "dtype", "F64"),
        ("cones.word.0.text_encoder", "shape", [2]),
        ("cones.word.0.text_encoder", "shape", [1 << 40, 2]),
        ("cones.positions", "data_offsets", [0, 8]),
        ("cones.positions", "shape", [1, tensors["cones.positions"]["shape"][0], 1]),
        ("cones.sha256", "shape", [31]),
        ("cones.sha256", "dtype", "I8"),
    ):
        changed = copy.deepcopy(tensors)
        changed[name][field] = value
        with pytest.raises(FileError):
            loads(forged(changed, description, body))
    not_finite = body.replace(torch.tensor(1.0).numpy().tobytes(), b"\0\0\xc0\x7f", 1)
    with pytest.raises(FileError, match="not finite"):
        loads(forged(tensors, description, not_finite))
    text = json.dumps({"__metadata__": {"cones": json.dumps(description)}, **tensors})
    twice = text[:-1] + ',"cones.sha256":' + json.dumps(tensors["cones.sha256"]) + "}"
    with pytest.raises(FileError, match="a key twice"):
        loads(sealed(twice, body))
    with pytest.raises(FileError):
        loads(sealed(text, body + b"junk"))


def test_other_files_are_told_from_damaged_ones(tmp_path: Path) -> None:
    lora = save({"unet.lora_A.weight": torch.ones(2, 2)}, {"format": "pt"})
    with pytest.raises(FileError, match="other safetensors.*'unet.lora_A.weight'.*diffusers"):
        loads(lora)
    with pytest.raises(FileError, match="other safetensors"):
        loads(save({"w": torch.ones(2)}))
    for junk in (b"", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\3\4" + bytes(50), bytes(16)):
        with pytest.raises(FileError):
            loads(junk)
    (tmp_path / "cut.safetensors").write_bytes(good()[:-1])
    with pytest.raises(FileError, match=r"cut.safetensors': the digest does not fit"):
        load(tmp_path / "cut.safetensors")
    for absent in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileError, match="is no file; expected a concept file; check the path"):
            load(absent)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(FileError, match="more than 64 MiB"):
        load(tmp_path / "sparse")
