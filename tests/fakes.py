"""Tiny random pipelines with the structure of the real ones: 32 px, two U-Net blocks.

Widths are reduced, names are not. Every call gives a copy of its own, so tests may change it.
Random concepts for them.
"""

import copy
from functools import cache

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from cones.concept import Concept, Word
from cones.fingerprint import Fingerprint
from cones.mask import Mask
from cones.models import Pipeline, model_for
from cones.models.words import encoders, reads, vectors
from experiments.small_transformers import TRANSFORMERS

SIZE = 32
WIDTH = 32
LENGTH = 16
NOUNS = ("cat", "dog", "jar", "teapot", "cup")
_OTHERS = (
    "a",
    "an",
    "photo",
    "of",
    "on",
    "in",
    "the",
    "and",
    "next",
    "to",
    "grass",
    "snow",
    "room",
)
WORDS = (*NOUNS, *_OTHERS, "sks", "ktn", "red", "blue")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def tiny_pipeline(
    seed: int = 0, *, xl: bool = False, prediction: str = "epsilon"
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Build a random Stable Diffusion pipeline of 32 px, or one of XL's structure."""
    built = _built(seed, xl, prediction)
    parts = {name: copy.deepcopy(part) for name, part in built.components.items()}
    if xl:
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def tiny_pixels(count: int = 3, *, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """Draw random pictures, RGB in [0, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tiny_concept(
    pipeline: Pipeline,
    identifier: str = "V*",
    noun: str = "cat",
    *,
    seed: int = 1,
    density: float = 0.3,
    scope: str = "both",
) -> Concept:
    """Draw a random concept of two nested levels, with random vectors for its word."""
    draw = torch.Generator().manual_seed(seed)
    model = model_for(pipeline)
    noise = {name: torch.rand(w.shape, generator=draw) for name, w in model.weights(scope).items()}
    levels = tuple(
        Mask.where({name: x < share for name, x in noise.items()})
        for share in (density / 3, density)
    )
    tables = {n: encoder.get_input_embeddings() for n, (_, encoder) in encoders(pipeline).items()}
    rows = {n: torch.randn(1, table.embedding_dim, generator=draw) for n, table in tables.items()}
    rows |= {n: vectors(pipeline, "sks")[n] for n in rows if reads(getattr(pipeline, n))}
    base = Fingerprint.of(model.weights(), model.name)
    return Concept(levels, (Word(identifier, noun, rows),), base)


def tiny_transformer(family: str) -> Pipeline:
    """Build a random pipeline of 64 px of a family in ``TRANSFORMERS``."""
    return copy.deepcopy(_transformer(family))


@cache
def _transformer(family: str) -> Pipeline:
    return TRANSFORMERS[family]()


def tiny_tokenizer(*, length: int = LENGTH) -> CLIPTokenizer:
    """Build a CLIP tokenizer in which every word of ``WORDS`` is one token."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    entries = [*dict.fromkeys(vocabulary), BOS, EOS]
    vocab = {entry: index for index, entry in enumerate(entries)}
    merges = list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


@cache
def _built(
    seed: int, xl: bool, prediction: str
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        parts = {
            "vae": _vae(),
            "text_encoder": _encoder(tokenizer),
            "tokenizer": tokenizer,
            "unet": _unet(xl),
            "scheduler": _scheduler(prediction),
            "feature_extractor": None,
        }
        if xl:
            second = {"text_encoder_2": _encoder(tokenizer, projected=True)}
            return StableDiffusionXLPipeline(**parts, **second, tokenizer_2=tiny_tokenizer())
        return StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=SIZE,
        scaling_factor=0.5,
    ).eval()


def _encoder(tokenizer: CLIPTokenizer, *, projected: bool = False) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=2,  # what the files of Stable Diffusion say
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _unet(xl: bool) -> UNet2DConditionModel:
    extra = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=2 * WIDTH if xl else WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        **(extra if xl else {}),
    ).eval()


def _scheduler(prediction: str) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        prediction_type=prediction,
    )


def search_options(*, steps: int, **settings: int) -> list[str]:
    """Say on a command line how little is to be searched."""
    more = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return [*more, "--steps", str(steps), "--density", "0.02"]
