"""Assemble the trained parts as a StableDiffusionPipeline and save it in one dtype.

``StableDiffusionPipeline.from_pretrained(folder)`` loads and runs the result as it stands.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from pretraining import autoencoder, denoiser, text
from pretraining.loop import averaged
from pretraining.muon import POOL

CARD = Path(__file__).with_name("card.md")
STORED = torch.float16  # on disk; computing in bfloat16 or float32 is the caller's choice


def finished_autoencoder(work: Path) -> AutoencoderKL:
    """Return the autoencoder with normalised latents, and the later decoder where there is one."""
    vae = autoencoder.build()
    averaged(vae, work / "autoencoder")
    spread = json.loads((work / "latents.json").read_text())
    autoencoder.normalise(vae, torch.tensor(spread["mean"]), torch.tensor(spread["std"]))
    if (work / "decoder.json").exists() and json.loads((work / "decoder.json").read_text())[
        "kept"
    ]:
        averaged(autoencoder.decoder_of(vae), work / "decoder")
    return vae.requires_grad_(False).eval()


def finished_reader(work: Path) -> tuple[text.Reader, CLIPTokenizer]:
    """Return the trained text tower with its heads, and the tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    reader = text.Reader(tokenizer)
    averaged(reader, work / "text")
    text.fill_spare(reader, tokenizer)
    return reader, tokenizer


def averaged_unet(work: Path) -> UNet2DConditionModel:
    """Return the U-Net with the averaged weights of its last checkpoint."""
    return averaged(denoiser.build(), work / "denoiser")


def assemble(work: Path) -> StableDiffusionPipeline:
    """Put the trained parts together."""
    reader, tokenizer = finished_reader(work)
    settings = dict(denoiser.scheduler().config)
    keep = ("beta_start", "beta_end", "beta_schedule", "prediction_type", "steps_offset")
    pipeline = StableDiffusionPipeline(
        vae=finished_autoencoder(work),
        text_encoder=reader.tower,
        tokenizer=tokenizer,
        unet=averaged_unet(work),  # pyright: ignore[reportArgumentType]
        scheduler=DPMSolverMultistepScheduler(**{key: settings[key] for key in keep}),  # pyright: ignore
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    guidance_scale: float = 3.0,
    num_inference_steps: int = 25,
) -> Float[Tensor, "n 3 h w"]:
    """Draw one picture in [-1, 1] for every prompt, on all threads; each depends on its seed."""

    def some(part: range) -> Tensor:
        fresh = pipeline.scheduler.from_config(pipeline.scheduler.config)
        parts = {**pipeline.components, "scheduler": fresh}
        own = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        own.set_progress_bar_config(disable=True)
        device = pipeline.device.type
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, cache_enabled=False):
            return own(
                [prompts[i] for i in part],
                generator=[torch.Generator().manual_seed(seeds[i]) for i in part],
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                output_type="pt",
            ).images.float()  # pyright: ignore

    chunks = [range(k, min(k + 16, len(prompts))) for k in range(0, len(prompts), 16)]
    return torch.cat(list(POOL.map(some, chunks))).mul(2).sub(1).cpu()


def sheet(pixels: Float[Tensor, "n 3 h w"], columns: int) -> Image.Image:
    """Lay pictures in [-1, 1] out row by row."""
    pixels = (127.5 * pixels + 128).clamp(0, 255).byte().permute(0, 2, 3, 1)
    rows = [torch.cat(list(row), 1) for row in pixels.split(columns) if len(row) == columns]
    return Image.fromarray(torch.cat(rows).numpy())


def card_of(work: Path) -> str:
    """Fill the model card from the logs in the work folder, and from a ``remarks.md`` there."""
    lines = ["| stage | updates | samples | minutes |", "| --- | --- | --- | --- |"]
    for stage in ("autoencoder", "text", "examiner", "denoiser", "decoder"):
        path = work / stage / "log.json"
        if path.exists():
            log = json.loads(path.read_text())
            cost = f"{log['step']:,} | {log['samples']:,} | {log['seconds'] / 60:.0f}"
            lines.append(f"| {stage} | {cost} |")
    parts = [json.loads(part.read_text())["made"] for part in (work / "pictures").glob("*.json")]
    remarks = work / "remarks.md"
    return CARD.read_text().format(
        folder="src/cones/models/builtin/weights",
        pictures=f"{sum(part['count'] for part in parts):,}",
        stages="\n".join(lines),
        remarks=remarks.read_text().strip() if remarks.exists() else "",
        spare=text.SPARE,
    )


def write(pipeline: StableDiffusionPipeline, card: str, output: Path) -> int:
    """Save in diffusers layout with a model card; the folder appears once it is whole.

    transformers would open the tower in the dtype of its file and diffusers in float32; the
    tower's configuration says float32, so that all parts come up alike.

    Returns:
        Bytes of all weights.
    """
    fresh = output.with_name(output.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(STORED).save_pretrained(fresh)
    settings = fresh / "text_encoder" / "config.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"dtype": "float32"}, indent=2)
    )
    (fresh / "README.md").write_text(card)
    for path in fresh.rglob("*.*"):
        path.chmod(0o644)  # safetensors leaves its files to their owner alone
    shutil.rmtree(output, ignore_errors=True)
    fresh.replace(output)
    return sum(path.stat().st_size for path in output.rglob("*.safetensors"))
