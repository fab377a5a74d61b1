"""Tiny, randomly initialised pipelines with the block structure of the real ones.

Widths are reduced, names and counts are not: at the SD 1.x structure there are 64 K/V weights.
Session fixtures are shared, so tests that change a pipeline take ``fresh`` copies.
"""

import copy
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from cones.mini.world import NOUNS, PLACES

WORDS = ("a", "photo", "of", "cat", "dog", "pot", "on", "the", "grass", "sks", "ktn", "wooden")
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def pytest_configure(config: pytest.Config) -> None:
    """Use one thread, as test machines are shared."""
    torch.set_num_threads(1)


def make_tokenizer(*, length: int = 16) -> Any:
    """Build a CLIP tokenizer in which every word of ``WORDS`` is one token."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    entries = [*dict.fromkeys(vocabulary), BOS, EOS]
    pairs = [tuple(merge.split()) for merge in dict.fromkeys(merges)]
    vocab = {entry: index for index, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=length)


def make_encoder(tokenizer: Any, *, width: int = 32, projected: bool = False, eos: int = 2) -> Any:
    """Build a one-layer CLIP text model; ``eos=2`` is what old configurations say."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(config).eval()


def make_vae() -> Any:
    """Build an autoencoder that shrinks pictures eight times."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=64,
    ).eval()


def make_unet(**changes: Any) -> Any:
    """Build a U-Net with the blocks of Stable Diffusion 1.x."""
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16, 16),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "layers_per_block": 2,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


def make_scheduler(prediction: str = "epsilon", **changes: Any) -> Any:
    """Build the sampler of Stable Diffusion, with the training noise in its configuration."""
    from diffusers import DPMSolverMultistepScheduler

    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    settings |= {"steps_offset": 1, "prediction_type": prediction}
    return DPMSolverMultistepScheduler(**(settings | changes))


def make_sd(prediction: str = "epsilon", **unet: Any) -> Any:
    """Build a Stable Diffusion 1.x or 2.x pipeline."""
    from diffusers import StableDiffusionPipeline

    tokenizer = make_tokenizer()
    return StableDiffusionPipeline(
        vae=make_vae(),
        text_encoder=make_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=make_unet(**unet),
        scheduler=make_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_xl() -> Any:
    """Build a Stable Diffusion XL pipeline: two text encoders, pooled text, picture sizes."""
    from diffusers import StableDiffusionXLPipeline

    first, second = make_tokenizer(), make_tokenizer()
    unet = make_unet(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
        cross_attention_dim=64,
    )
    return StableDiffusionXLPipeline(
        vae=make_vae(),
        text_encoder=make_encoder(first),
        text_encoder_2=make_encoder(second, projected=True),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=make_scheduler(),
        add_watermarker=False,
    )


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="session")
def sd1() -> Any:
    """Give a Stable Diffusion 1.x pipeline (do not change it)."""
    return _seeded(make_sd)


@pytest.fixture(scope="session")
def sd2() -> Any:
    """Give a Stable Diffusion 2.x pipeline, which predicts v (do not change it)."""
    return _seeded(lambda: make_sd("v_prediction", use_linear_projection=True))


@pytest.fixture(scope="session")
def sdxl() -> Any:
    """Give a Stable Diffusion XL pipeline (do not change it)."""
    return _seeded(make_xl)


@pytest.fixture(autouse=True)
def no_new_words(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that gives a word to a pipeline that the others use too."""
    yield
    for name in {"sd1", "sd2", "sdxl"} & set(request.fixturenames):
        words = set(request.getfixturevalue(name).tokenizer.get_added_vocab()) - {BOS, EOS}
        assert not words, f"{words} were given to the shared pipeline {name}; take a fresh copy"


@pytest.fixture
def fresh() -> Callable[[Any], Any]:
    """Give a function that copies a pipeline, for tests that change one."""

    def copied(pipeline: Any) -> Any:
        parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
        if "safety_checker" in parts:
            parts["requires_safety_checker"] = False
        return type(pipeline)(**parts)

    return copied


@pytest.fixture
def generator() -> torch.Generator:
    """Give a generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


def _add(archive: tarfile.TarFile, name: str, image: Image.Image) -> None:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    entry = tarfile.TarInfo(name)
    entry.size = stream.tell()
    stream.seek(0)
    archive.addfile(entry, stream)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory) -> Path:
    """Build a corpus of coloured discs: one photo-like look a noun, one background a place."""
    folder = tmp_path_factory.mktemp("corpus")
    sprites, places = [], []
    with tarfile.open(folder / "s.tar", "w") as archive:
        for number, noun in enumerate([*NOUNS, "zeppelin"]):
            for split in ("train", "subject"):
                image = Image.new("RGBA", (40, 60))
                ImageDraw.Draw(image).ellipse((2, 2, 38, 58), (10 * number, 99, 200, 255))
                name = f"{split}{number}.png"
                _add(archive, name, image)
                row = {"shard": "s.tar", "file": name, "class": noun, "name": noun}
                row |= {
                    "colour": "red" if number % 2 else None,
                    "style": "photo",
                    "model": name,
                    "split": split,
                    "size_cm": [10.0, 20.0, 15.0 + 10 * number],
                    "drop_on_top_cm": None,
                }
                sprites.append(row)
    with tarfile.open(folder / "b.tar", "w") as archive:
        for label in [*PLACES, "moon base"]:
            _add(archive, f"{label}.png", Image.new("RGB", (128, 128), (120, 180, 90)))
            row = {"shard": "b.tar", "file": f"{label}.png", "label": label, "split": "train"}
            row["kind"] = "hdr" if len(places) % 2 else "procedural"
            places.append(row | {"ground_from": 0.6, "ground_to": 0.95})
    for name, rows in (("sprites", sprites), ("backgrounds", places)):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder
