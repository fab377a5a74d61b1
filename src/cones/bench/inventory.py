"""The key and value weights of Stable Diffusion 1.4, by name and shape, without the model.

64 bias-free linear layers, 43,950,080 weights: ``attn1`` reads the image (24,780,800), ``attn2``
reads text embeddings of width 768 (19,169,280). Benchmarks that need only sizes use this.
"""

import torch

from cones.mask import ConceptMask

TEXT_WIDTH = 768
BLOCKS = {  # transformer blocks and their width, by the part of the U-Net that holds them
    "down_blocks.0": (2, 320),
    "down_blocks.1": (2, 640),
    "down_blocks.2": (2, 1280),
    "mid_block": (1, 1280),
    "up_blocks.1": (3, 1280),
    "up_blocks.2": (3, 640),
    "up_blocks.3": (3, 320),
}


def stable_diffusion_shapes() -> dict[str, tuple[int, int]]:
    """List the 64 key and value weights of Stable Diffusion 1.4 in the order of the model."""
    shapes = {}
    for part, (blocks, width) in BLOCKS.items():
        for block in range(blocks):
            for attention, inputs in (("attn1", width), ("attn2", TEXT_WIDTH)):
                for role in ("to_k", "to_v"):
                    prefix = f"{part}.attentions.{block}.transformer_blocks.0"
                    shapes[f"{prefix}.{attention}.{role}.weight"] = (width, inputs)
    return shapes


def random_mask(*, density: float, seed: int = 0) -> ConceptMask:
    """Draw ``density`` of these weights at random: the hardest case for a codec."""
    generator = torch.Generator().manual_seed(seed)
    return ConceptMask.where(
        {
            name: torch.rand(shape, generator=generator) < density
            for name, shape in stable_diffusion_shapes().items()
        }
    )


def random_weights(dtype: torch.dtype, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Draw weights of these shapes with a standard deviation of 0.03."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.03).to(dtype)
        for name, shape in stable_diffusion_shapes().items()
    }
