"""The file around a concept: a safetensors file that is checked as a whole.

Any safetensors reader opens it and nothing in it can run. Two things are added: the same content
always gives the same bytes, and ``digest`` in the metadata is the SHA-256 of the file with these
64 characters written as zeros, so a change of any byte, metadata included, is noticed.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from cones.errors import CodecError

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}
NO_DIGEST = "0" * 64


def pack(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> bytes:
    """Lay out metadata and tensors; ``metadata["digest"]`` is filled in.

    Raises:
        CodecError: A tensor is of a dtype that is not stored.
    """
    header: dict[str, object] = {"__metadata__": {**metadata, "digest": NO_DIGEST}}
    body, offset = [], 0
    order = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))  # keeps data aligned
    for name in order:
        tensor = tensors[name].detach().cpu().contiguous()
        if tensor.dtype not in DTYPES:
            raise CodecError(
                f"{name!r} is {tensor.dtype}, expected one of "
                f"{', '.join(str(d) for d in DTYPES)}; convert it"
            )
        body.append(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        span = [offset, offset + len(body[-1])]
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": span,
        }
        offset = span[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + b"".join(body)
    field = f'"digest":"{NO_DIGEST}"'.encode()
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(field, f'"digest":"{digest}"'.encode(), 1)


def unpack(data: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Check the whole file and return its metadata and tensors.

    Raises:
        CodecError: It is not such a file, or a byte of it has changed.
    """
    try:
        tensors = load_tensors(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        raise CodecError(
            f"{len(data)} bytes are no complete safetensors file ({error}); expected a concept "
            "file; fetch it again"
        ) from error
    digest = metadata.get("digest", "")
    field = f'"digest":"{digest}"'.encode()
    if len(digest) != len(NO_DIGEST) or _digest_without(data, field) != digest:
        raise CodecError(
            "the digest is missing or does not fit the content: the file is damaged, edited or "
            "no concept file; expected it as it was written; fetch it again"
        )
    return metadata, tensors


def write(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, then rename; a failure leaves nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
        part = Path(f.name)
        try:
            f.write(data)
            f.close()
            part.replace(path)
        except BaseException:
            f.close()
            part.unlink(missing_ok=True)
            raise


def _digest_without(data: bytes, field: bytes) -> str:
    """Hash the file with the digest field as it was before hashing."""
    return hashlib.sha256(data.replace(field, f'"digest":"{NO_DIGEST}"'.encode(), 1)).hexdigest()
