"""Whatever a file holds: a concept, or one FileError, in little time and memory."""

import copy
import gc
import hashlib
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from cones.concept import Concept, Word
from cones.concept_file import MOST_BYTES, dumps, load, loads
from cones.errors import FileError
from cones.fingerprint import Fingerprint
from cones.mask import Mask

pytestmark = pytest.mark.usefixtures("unchecked")  # the reader itself must refuse
HOSTILE = [
    None, True, 0, -1, 1, 7, 2**31, 2**40, 2**62, 2**70, 0.5, "", "x", "../../x", "V*", "\x1b[31m",
    "\ud800", [], {}, [[]], [1], ["x"], {"x": 1}, "a cat", "3", 3, 1.0, "x" * 20_000,
]  # fmt: skip


def good() -> bytes:
    shapes = {"mid.to_k.weight": (4, 8), "mid.to_v.weight": (32, 32)}
    sparse = Mask(shapes, {n: torch.arange(2) * 11 for n in shapes})
    dense = Mask(shapes, {n: torch.arange(3) * 11 for n in shapes})
    word = Word("V*", "cat", {"text_encoder": torch.tensor([[1.0, -0.5]])})
    base = Fingerprint("maker/base", "0" * 64, "float16:" + "1" * 64, bytes(128))
    return dumps(
        Concept((sparse, dense), (word,), base, {"scope": "cross"}, {"gain": {"mean": 1}})
    )


def parts(data: bytes) -> tuple[dict, dict, bytes]:
    """Take a file apart: tensors, description, body."""
    length = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + length])
    return tensors, json.loads(tensors.pop("__metadata__")["cones"]), data[8 + length :]


def sealed(text: str, body: bytes) -> bytes:
    """Put a header before a body, with a true digest at the end: a careful forger."""
    raw = text.encode("utf-8", "surrogatepass")
    raw += b" " * (-len(raw) % 8)
    data = len(raw).to_bytes(8, "little") + raw + body[:-32]
    return data + hashlib.sha256(data).digest()


def forged(tensors: dict, description: dict | str, body: bytes) -> bytes:
    text = description if isinstance(description, str) else json.dumps(description)
    return sealed(json.dumps({"__metadata__": {"cones": text}, **tensors}), body)


def described(change: Callable[[dict], object]) -> bytes:
    """Forge a file whose description was changed."""
    tensors, description, body = parts(good())
    change(description)
    return forged(tensors, description, body)


def rewritten(old: str, new: str) -> bytes:
    """Forge a file whose description was changed as text."""
    tensors, description, body = parts(good())
    text = json.dumps(description)
    assert old in text
    return forged(tensors, text.replace(old, new, 1), body)


def packed(shape: list[int], stream: bytes, count: int, levels: list[int], labels: bytes) -> bytes:
    """Forge a file of one parameter with chosen streams."""
    _, description, _ = parts(good())
    parameter = {"name": "w", "shape": shape, "count": count, "bytes": len(stream)}
    description |= {"parameters": [parameter], "levels": levels}
    description["words"][0]["encoders"] = []
    streams = {"cones.positions": stream, "cones.labels": labels, "cones.sha256": bytes(32)}
    tensors = {n: torch.tensor(list(s), dtype=torch.uint8) for n, s in streams.items()}
    data = save(tensors, {"cones": json.dumps(description)})[:-32]
    return data + hashlib.sha256(data).digest()


def deflated(data: bytes, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    press = zlib.compressobj(9, wbits=-15, strategy=strategy)
    return press.compress(data) + press.flush()


def test_a_forged_file_that_changes_nothing_is_read() -> None:
    assert loads(described(lambda _: None)).prompt == "a V* cat"


def put(path: str, value: object) -> Callable[[], bytes]:
    """Forge a file with one field of the description replaced."""

    def change(description: dict) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in way:
            description = description[step]
        description[last] = value

    return lambda: described(change)


def nested(depth: int) -> dict:
    """Build a dictionary that many levels deep."""
    found: dict = {}
    for _ in range(depth):
        found = {"in": found}
    return found


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "version": (put("version", 4), "version' is 4; expected otherwise: Input should be 3; update"),
    "version true": (put("version", True), "version' is True"),
    "codec": (put("codec", "zip"), "written by 'zip'"),
    "codec list": (put("codec", ["x"]), "codec"),
    "shape bool": (put("parameters.0.shape", [True, 32]), "parameters.0.shape.0"),
    "shape float": (put("parameters.0.shape", [4.0, 8]), "parameters.0.shape.0"),
    "shape negative": (put("parameters.0.shape", [-4, -8]), "parameters.0.shape.0"),
    "shape 2^62": (put("parameters.0.shape", [1 << 62]), "parameters.0.shape.0"),
    "shape 2^40 x 2^40": (put("parameters.0.shape", [1 << 40] * 2), "weights expected"),
    "shape of 200,000": (put("parameters.0.shape", [1] * 200_000), "parameters.0.shape"),
    "count": (put("parameters.0.count", 33), "a count that shape and bytes can hold"),
    "bytes": (put("parameters.0.bytes", 1), "DEFLATE stream"),
    "name twice": (put("parameters.0.name", "mid.to_v.weight"), "every parameter once"),
    "name with escape": (put("parameters.0.name", "\x1b[31m"), "parameters.0.name"),
    "20,000 parameters": (put("parameters", [{"name": "w"}] * 20_000), "parameters"),
    "levels empty": (put("levels", []), "levels"),
    "levels fall": (put("levels", [6, 4]), "levels"),
    "levels many": (put("levels", [6] * 17), "levels"),
    "levels dense": (put("levels", [1 << 30, 1 << 30]), "positions a byte expected"),
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
    "weights": (put("base.weights", "float64:" + "0" * 64), "base.weights"),
    "signs": (put("base.signs", "00"), "base.signs"),
    "settings list": (put("settings", [1, 2]), "settings"),
    "settings deep": (put("settings", nested(600)), "at most 8 levels|JSON"),
    "settings huge": (put("settings.x", 1e999), "Infinity is no number"),
    "settings escape": (put("settings.x", "\x9b31m"), "settings.*printable"),
    "settings key": (put("settings", {"\x1b": 1}), "settings.*printable"),
    "certificate null": (put("certificate", None), "certificate"),
    "extra": (put("extra", 1), "extra"),
    "NaN": (lambda: rewritten('"cross"', "NaN"), "NaN is no number"),
    "1e999": (lambda: rewritten('"cross"', "1e999"), "finite numbers expected"),
    "key twice": (lambda: rewritten('"codec"', '"version":3,"codec"'), "a key twice"),
    "5,000 digits": (lambda: rewritten('"count": 3', f'"count": {"1" * 5000}'), "no plain JSON"),
    "nested 100,000": (
        lambda: rewritten('"cross"', "[" * 100_000 + "]" * 100_000),
        "no plain JSON",
    ),
    "description list": (lambda: forged(*(parts(good())[0], "[]", parts(good())[2])), "no object"),
    "empty shape 2^41": (lambda: packed([1 << 41], deflated(b""), 0, [0], b""), "shape.0"),
    "bomb": (
        lambda: packed([1 << 26], deflated(bytes(1 << 26)), 1 << 26, [1 << 26], b""),
        "can hold expected",
    ),
    "hidden bomb": (
        lambda: packed([1 << 36], deflated(b"\xff" * (1 << 26)), 0, [0], b""),
        "longer than",
    ),
    "bomb of labels": (
        lambda: packed([64], deflated(bytes(64), 2), 64, [64, 64], deflated(bytes(1 << 26))),
        "longer than 8 bytes",
    ),
    "out of range": (
        lambda: packed([300], deflated(b"\xff\xfe"), 1, [1], b""),
        "expected rising int64 positions",
    ),
    "end within a gap": (lambda: packed([600], deflated(b"\1\xff"), 1, [1], b""), "ends within"),
    "rest of positions": (lambda: packed([9], b"\1\0\0", 0, [0], b""), "stored block|cut"),
    "labels of another count": (
        lambda: packed([9], deflated(b"\1\1"), 2, [1, 2], deflated(b"\3")),
        "levels of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_directed_files_are_refused(case: str) -> None:
    make, reason = REFUSED[case]
    data = make()
    with pytest.raises(FileError, match=reason) as caught:
        loads(data)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_tensors_that_lie_are_refused() -> None:
    tensors, description, body = parts(good())
    for name, field, value in (
        ("cones.word.0.text_encoder", "dtype", "F64"),
        ("cones.word.0.text_encoder", "shape", [2]),
        ("cones.word.0.text_encoder", "shape", [1 << 40, 2]),
        ("cones.positions", "data_offsets", [0, 8]),
        ("cones.positions", "shape", [1, tensors["cones.positions"]["shape"][0], 1]),
        ("cones.labels", "dtype", "BF16"),
        ("cones.sha256", "shape", [31]),
    ):
        changed = copy.deepcopy(tensors)
        changed[name][field] = value
        with pytest.raises(FileError):
            loads(forged(changed, description, body))
    not_finite = body.replace(torch.tensor(1.0).numpy().tobytes(), b"\0\0\xc0\x7f", 1)
    with pytest.raises(FileError, match="not finite"):
        loads(forged(tensors, description, not_finite))
    text = json.dumps({"__metadata__": {"cones": json.dumps(description)}, **tensors})
    twice = text[:-1] + ',"cones.labels":' + json.dumps(tensors["cones.labels"]) + "}"
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


def peak(work: Callable[[], object]) -> int:
    """Give the bytes by which the resident memory grew at most."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of before

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) << 10

    before = status("VmRSS")
    work()
    return status("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_memory_follows_the_size_of_the_file() -> None:
    shape = [1 << 39]
    empty = packed(shape, deflated(b""), 0, [0, 0], deflated(b""))
    assert peak(lambda: loads(empty) | loads(empty)) < 20 << 20
    assert len(loads(empty).mask.shapes["w"]) == 1
    dense = deflated(bytes(7_000_000), zlib.Z_HUFFMAN_ONLY)
    assert len(dense) < 1 << 20
    large = packed(shape, dense, 7_000_000, [7_000_000], b"")
    assert peak(lambda: loads(large)) < 200 << 20
    many = packed(shape, dense, 7_000_000, [7_000_000] * 16, deflated(bytes(1 << 22), 2))
    with pytest.raises(FileError, match="positions a byte"):
        loads(many)


def mutated(node: object, chance: random.Random) -> object:
    """Change one place of a JSON value."""
    inside = list(node) if isinstance(node, dict) else []
    if isinstance(node, list):
        inside = list(range(len(node)))
    if not inside or chance.random() < 0.2:
        return copy.deepcopy(chance.choice([*HOSTILE, nested(chance.choice([2, 7, 300]))]))
    assert isinstance(node, dict | list)
    key, action = chance.choice(inside), chance.random()
    if action < 0.1:
        del node[key]
    elif action < 0.2 and isinstance(node, dict):
        node[str(chance.choice(HOSTILE))] = node[key]
    else:
        node[key] = mutated(node[key], chance)
    return node


def mutant(seed: int) -> bytes:
    """Change description, tensors or body of a good file and seal it again."""
    chance = random.Random(seed)
    tensors, description, body = parts(good())
    kind = chance.choice(["description", "tensors", "body", "header"])
    for _ in range(chance.choice([1, 1, 2, 5])):
        if kind == "description":
            description = mutated(description, chance)
        elif kind == "tensors":
            tensors = mutated(tensors, chance)
        else:
            place = chance.randrange(len(body))
            body = (
                body[:place]
                + bytes([chance.randrange(256)])
                + body[place + chance.choice([0, 1, 9]) :]
            )
    if kind == "header":
        raw = bytearray(good()[8 : -len(body)])
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return sealed(raw.decode("latin-1"), body)
    return forged(tensors if isinstance(tensors, dict) else {}, description, body)


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**63))
def test_any_mutant_is_a_concept_or_refused(seed: int) -> None:
    try:
        found = loads(mutant(seed))
    except FileError as error:
        said = str(error)
    else:
        said = str(found).replace("\n", "")
        again = loads(dumps(found))
        assert again.levels == found.levels
        assert len((found | found).mask) == len(found.mask)
    assert said.isprintable()
