"""Contracts of every codec: round trip, refusal of every cut and flip, size near the entropy."""

import math
import zlib

import pytest
import torch
from safetensors import safe_open

from cones.codecs import CODECS, DEFAULT, Codec, container, packed
from cones.errors import CodecError


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


def draw(numel: int, density: float) -> torch.Tensor:
    """Draw sorted positions."""
    g = torch.Generator().manual_seed(0)
    return (torch.rand(numel, generator=g) < density).nonzero().squeeze(1)


def test_they_are_codecs(codec):
    assert isinstance(codec, Codec)
    assert DEFAULT in CODECS


@pytest.mark.parametrize("numel", [0, 1, 255, 256, 320 * 768])
@pytest.mark.parametrize("density", [0, 1e-4, 0.05, 1])
def test_round_trip(codec, numel, density):
    indices = draw(numel, density)
    back = codec.decode(codec.encode(indices, numel), count=len(indices), numel=numel)
    assert back.dtype == torch.int64
    assert back.equal(indices)


@pytest.mark.parametrize(
    "positions", [[0], [254], [255], [256], [509], [510], [511], [9999], [0, 255, 511, 512, 9999]]
)
def test_gaps_around_the_skip(codec, positions):
    indices = torch.tensor(positions)
    back = codec.decode(codec.encode(indices, 10_000), count=len(positions), numel=10_000)
    assert back.tolist() == positions


def test_every_cut_and_flip_is_refused(codec):
    data = codec.encode(draw(500, 0.1), 500)
    count = len(draw(500, 0.1))
    for length in range(len(data)):
        with pytest.raises(CodecError):
            codec.decode(data[:length], count=count, numel=500)
    for at in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            with pytest.raises(CodecError):
                codec.decode(damaged, count=count, numel=500)
    with pytest.raises(CodecError):
        codec.decode(data + b"\0", count=count, numel=500)


@pytest.mark.parametrize(
    ("count", "numel"), [(49, 500), (51, 500), (50, 400), (-1, 500), (501, 500)]
)
def test_other_counts_are_refused(codec, count, numel):
    data = codec.encode(torch.arange(50) * 10, 500)
    with pytest.raises(CodecError, match=rf"do not hold {count} positions below {numel}"):
        codec.decode(data, count=count, numel=numel)


def test_bad_positions_are_refused(codec):
    for positions in ([3, 1], [2, 2], [10]):
        with pytest.raises(CodecError, match=r"strictly increasing in \[0, 10\)"):
            codec.encode(torch.tensor(positions), 10)


def test_size_is_near_the_entropy():
    numel, p = 1_000_000, 0.0132
    size = len(packed.encode(draw(numel, p), numel))
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) * numel / 8
    assert size < 1.05 * entropy


def forged(gaps: bytes, count: int, numel: int, tail: bytes = b"") -> bytes:
    """Make bytes whose checksum is right and whose content is not."""
    press = zlib.compressobj(wbits=-15)
    body = press.compress(gaps) + press.flush() + tail
    return packed._crc(body, count, numel) + body


@pytest.mark.parametrize(
    ("gaps", "tail", "match"),
    [
        (b"\x01", b"", "hold 1 positions"),
        (b"\x01\x01\xff", b"", "hold 2 positions"),
        (b"\x01\xfe", b"", "the last at 256"),
        (b"\x00" * 100_000, b"", "longer than 3 bytes"),
        (b"\x01\x01", b"x", "followed by something"),
    ],
)
def test_forged_content_is_refused(gaps, tail, match):
    with pytest.raises(CodecError, match=match):
        packed.decode(forged(gaps, 2, 256, tail), count=2, numel=256)


def test_stream_without_an_end_is_refused():
    press = zlib.compressobj(wbits=-15)
    body = press.compress(b"\x01\x01") + press.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(CodecError, match="stream is cut"):
        packed.decode(packed._crc(body, 2, 256) + body, count=2, numel=256)


def test_no_deflate_stream_is_refused():
    with pytest.raises(CodecError, match="no DEFLATE stream"):
        packed.decode(packed._crc(b"\xff\xff", 1, 9) + b"\xff\xff", count=1, numel=9)


def test_container_is_a_safetensors_file(tmp_path):
    tensors = {
        "a": torch.arange(3, dtype=torch.uint8),
        "b": torch.tensor([[1.5, float("nan")]]),
        "c": torch.ones(2, 0, dtype=torch.bfloat16),
        "d": torch.ones(3, dtype=torch.float16)[::2],
    }
    data = container.pack({"format": "x", "é": '"digest":"'}, tensors)
    assert data == container.pack({"format": "x", "é": '"digest":"'}, tensors)
    metadata, back = container.unpack(data)
    assert metadata["é"] == '"digest":"'
    for name, tensor in tensors.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, equal_nan=True)
    container.write(tmp_path / "x.safetensors", data)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert sorted(opened.keys()) == list("abcd")
        assert opened.metadata() == metadata


def test_container_refuses_other_dtypes_and_files():
    with pytest.raises(CodecError, match=r"'a' is torch.int64"):
        container.pack({}, {"a": torch.ones(1, dtype=torch.int64)})
    with pytest.raises(CodecError, match="no complete safetensors file"):
        container.unpack(b"hello")
    text = b'{"__metadata__":{"format":"pt"}} '
    with pytest.raises(CodecError, match="digest is missing"):
        container.unpack(len(text).to_bytes(8, "little") + text)


def test_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"."):
        container.write(tmp_path / "folder", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
