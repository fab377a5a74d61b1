"""Size and speed of a concept file at the scale of Stable Diffusion 1.4.

Positions are random, which no codec can press below the entropy given here; masks that were
searched for cluster in some layers and come out smaller. Times are those of one CPU thread.
"""

import math
import tempfile
from pathlib import Path

import torch

from cones.base_check import BaseCheck
from cones.bench.inventory import random_mask, random_weights
from cones.bench.timing import milliseconds
from cones.codecs import CODECS, DEFAULT
from cones.concept import Concept, Member
from cones.concept_file import load, save
from cones.find import DENSITY
from cones.mask import ConceptMask


def codec_figures(*, density: float = DENSITY, repeats: int = 7) -> dict[str, object]:
    """Measure file size, encoding and decoding of one random mask.

    Returns:
        Bytes of the file and of its positions, the entropy in bytes, milliseconds to encode and
        decode positions and to save and load files, and whether the file gave back the mask.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _figures(random_mask(density=density), repeats=repeats)
    finally:
        torch.set_num_threads(threads)


def _figures(mask: ConceptMask, *, repeats: int) -> dict[str, object]:
    base = BaseCheck.of(random_weights(torch.float32), "bench/random")
    member = Member("V*", "cat", {"text_encoder": torch.zeros(1, 768)})
    concept = Concept((mask,), 0, (member,), base, {"density": mask.density})
    pieces = _encoded(mask)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.cones.safetensors"
        figures = {
            "codec": DEFAULT,
            "weights": mask.total,
            "neurons": len(mask),
            "density": mask.density,
            "file_bytes": save(concept, path),
            "position_bytes": sum(len(piece) for piece in pieces.values()),
            "entropy_bytes": round(_entropy_bits(mask) / 8),
            "encode_ms": milliseconds(lambda: _encoded(mask), repeats=repeats),
            "decode_ms": milliseconds(lambda: _decoded(pieces, mask), repeats=repeats),
            "save_ms": milliseconds(lambda: save(concept, path), repeats=repeats),
            "load_ms": milliseconds(lambda: load(path), repeats=repeats),
            "exact": load(path).mask == mask,
        }
    return {**figures, "repeats": repeats, "threads": 1}


def _encoded(mask: ConceptMask) -> dict[str, bytes]:
    codec = CODECS[DEFAULT]
    return {n: codec.encode(mask.indices[n], math.prod(mask.shapes[n])) for n in mask}


def _decoded(pieces: dict[str, bytes], mask: ConceptMask) -> list[torch.Tensor]:
    codec = CODECS[DEFAULT]
    return [
        codec.decode(data, count=len(mask.indices[n]), numel=math.prod(mask.shapes[n]))
        for n, data in pieces.items()
    ]


def _entropy_bits(mask: ConceptMask) -> float:
    """Return the fewest bits for a random subset of this density, to within a few."""
    p = mask.density
    if p in (0, 1):
        return 0.0
    return -mask.total * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
