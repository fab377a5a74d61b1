"""Concept files as a careful forger writes them: anything, with a true digest at the end."""

import hashlib
import json
import zlib
from collections.abc import Callable

import torch
from safetensors.torch import save

from cones.concept import Concept, Word
from cones.concept_file import dumps
from cones.fingerprint import Fingerprint
from cones.mask import Mask


def good() -> bytes:
    shapes = {"mid.to_k.weight": (4, 8), "mid.to_v.weight": (32, 32)}
    sparse = Mask(shapes, {n: torch.arange(2) * 11 for n in shapes})
    dense = Mask(shapes, {n: torch.arange(3) * 11 for n in shapes})
    word = Word("V*", "cat", {"text_encoder": torch.tensor([[1.0, -0.5]])})
    base = Fingerprint("maker/base", "1" * 64, bytes(128))
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


def packed(shape: list[int], *levels: tuple[int, bytes]) -> bytes:
    """Forge a file of one parameter with chosen counts and streams, the densest level first."""
    _, description, _ = parts(good())
    counts, pieces = zip(*levels, strict=True)
    parameter = {"name": "w", "shape": shape, "counts": counts, "bytes": [*map(len, pieces)]}
    description |= {"parameters": [parameter], "levels": len(levels)}
    description["words"][0]["encoders"] = []
    streams = {"cones.positions": b"".join(pieces), "cones.sha256": bytes(32)}
    tensors = {n: torch.tensor(list(s), dtype=torch.uint8) for n, s in streams.items()}
    data = save(tensors, {"cones": json.dumps(description)})[:-32]
    return data + hashlib.sha256(data).digest()


def deflated(data: bytes, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    press = zlib.compressobj(9, wbits=-15, strategy=strategy)
    return press.compress(data) + press.flush()


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
