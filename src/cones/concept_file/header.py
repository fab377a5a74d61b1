"""The header of a concept file, checked by one schema before anything is built from it.

Types are strict, keys are known and unique, numbers are finite, strings are short and printable
(they reach the terminal), nesting is shallow. What the header asks for is bounded here, what the
positions take by the codec, so a small file cannot take much memory.
"""

import hashlib
import json
import math
import reprlib
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cones.errors import FileError

VERSION = 4
MOST_HEADER = 2 << 20  # bytes
MOST_WEIGHTS = 1 << 40
MOST_DEPTH = 8  # of settings and certificate


def _plain(value: object, depth: int = 0) -> object:
    """Refuse JSON that is deep, or holds strings or numbers that do harm further on."""
    if isinstance(value, str) and not (value.isprintable() and len(value) < 10_000):
        raise ValueError("printable strings below 10,000 letters expected")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("finite numbers expected")
    if isinstance(value, dict | list):
        if depth == MOST_DEPTH:
            raise ValueError(f"at most {MOST_DEPTH} levels of nesting expected")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _plain(item, depth + 1)
    return value


Text = Annotated[str, Field(max_length=1000), AfterValidator(_plain)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,255}$")]
Count = Annotated[int, Field(ge=0, le=MOST_WEIGHTS)]
Levels = Annotated[list[Count], Field(max_length=16)]
Json = Annotated[dict[str, object], AfterValidator(_plain)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Parameter(_Strict):
    """A searched parameter: neurons and bytes of every level, the densest first."""

    name: Name
    shape: Annotated[list[Count], Field(max_length=8)]
    counts: Levels
    bytes: Levels


class Named(_Strict):
    """A word and the text encoders that have a vector for it."""

    identifier: Text
    noun: Text
    encoders: Annotated[list[Name], Field(max_length=8)]


class Base(_Strict):
    """The fingerprint of the base model."""

    model: Text
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signs: Annotated[str, Field(pattern=r"^[0-9a-f]{256}$")]


class Entry(_Strict):
    """What safetensors says of one tensor."""

    dtype: Literal["F32", "F16", "BF16", "U8"]
    shape: Annotated[list[Count], Field(max_length=2)]
    data_offsets: Annotated[list[Count], Field(min_length=2, max_length=2)]


class Header(_Strict):
    """All that a file says of itself."""

    version: Literal[4]
    codec: Literal["gap8-huffman"]
    levels: Annotated[int, Field(ge=1, le=16)]
    parameters: Annotated[list[Parameter], Field(max_length=1024)]
    words: Annotated[list[Named], Field(min_length=1, max_length=64)]
    base: Base
    settings: Json
    certificate: Json
    tensors: dict[Name, Entry]

    @model_validator(mode="after")
    def _agrees(self) -> "Header":
        if len({p.name for p in self.parameters}) < len(self.parameters):
            raise ValueError("every parameter once expected")
        if sum(math.prod(p.shape) for p in self.parameters) > MOST_WEIGHTS:
            raise ValueError(f"at most {MOST_WEIGHTS} weights expected")
        if {len(each) for p in self.parameters for each in (p.counts, p.bytes)} - {self.levels}:
            raise ValueError("a count and bytes for every level expected")
        return self


def read_header(data: bytes) -> Header:
    """Check header and digest of a whole file."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(MOST_HEADER, len(data) - 8):
        raise FileError(
            f"the first of {len(data)} bytes are {data[:8].hex(' ')!r}; expected a whole "
            "safetensors file; check that it is a concept file, or fetch it again"
        )
    tensors = _parsed(data[8 : 8 + length])
    metadata = tensors.pop("__metadata__", None)
    text = metadata.get("cones") if isinstance(metadata, dict) and len(metadata) == 1 else None
    if not isinstance(text, str):
        raise FileError(
            f"other safetensors, the first {short(next(iter(tensors), None))}; expected a "
            f"concept of version {VERSION}; load LoRA and other weights with diffusers"
        )
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise FileError(
            "the digest does not fit the content: the file is damaged or was edited; expected it "
            "as it was written; fetch it again"
        )
    found = _parsed(text.encode("utf-8", "surrogatepass"))
    try:
        return Header.model_validate({**found, "tensors": tensors})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise FileError(
            f"{short(where)} is {short(first['input'])}; expected otherwise: {first['msg']}; "
            "update cones, or ask whoever wrote the file"
        ) from None


def _parsed(text: bytes) -> dict[str, object]:
    """Parse a JSON object that can be read in one way only."""
    try:
        found = json.loads(text, object_pairs_hook=_unique)
        if isinstance(found, dict):
            return found
        why = "no object"
    except (ValueError, RecursionError) as error:
        why = short(str(error))
    raise FileError(
        f"the header is no plain JSON ({why}); expected that of a concept file; fetch it again"
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key twice among {list(found)[:9]}")
    return found


def short(value: object) -> str:
    """Show a hostile value in a few printable letters."""
    return ascii(reprlib.repr(value))[1:-1][:300]
