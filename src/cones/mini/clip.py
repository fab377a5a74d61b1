"""Stage 1: a small CLIP, text and image towers, trained contrastively on captioned pictures.

Its text tower becomes the generator's text encoder; its image tower stays beside it for
evaluation, which must therefore be read together with a judge the generator never saw.
"""

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from cones.mini.text import LENGTH
from cones.mini.training import Recipe

RECIPE = Recipe(steps=4_400, batch=128, rate=1e-3, decay=0.05, average=0.99)
WIDTH = 192


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return the untrained CLIP for a tokenizer's vocabulary."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 128,
    }
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    image = {**tower, "image_size": 64, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=128))


def loss(model: CLIPModel, pixels: Tensor, tokens: Tensor) -> Tensor:
    """Contrast pictures in [-1, 1] with their captions, both ways (InfoNCE)."""
    with torch.autocast(pixels.device.type, torch.bfloat16):
        return model(input_ids=tokens, pixel_values=pixels, return_loss=True).loss.float()
