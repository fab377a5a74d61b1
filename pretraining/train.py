"""Make the built-in model: ``python -m pretraining.train --work DIR``.

Stages go on from what the work folder holds, so the same command continues after Ctrl-C;
``--stage`` runs one, ``--start`` goes on from a saved model. ``--scale .001`` tries the whole
chain in a minute. On several GPUs start it with ``accelerate launch -m pretraining.train``.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import PartialState
from diffusers import StableDiffusionPipeline
from jinja2 import Template

from experiments.metrics.examiner import WEIGHTS
from pretraining import text
from pretraining.autoencoder import CHANNELS, Autoencoder, latents
from pretraining.denoiser import Decoder, Denoiser, assemble
from pretraining.examiner import Examiner
from pretraining.loop import LOOKS, OUTPUT, PICTURES, RECIPES, SEED, Work, console
from pretraining.muon import WORKERS
from pretraining.world.production import compose_pictures, render_looks

CARD = Path(__file__).with_name("card.md")


def make_world(work: Work) -> None:
    """Render looks, compose pictures."""
    looks, views = work.folder / "looks", 10 if work.scale >= 1 else 1
    shared = {"seed": SEED, "processes": WORKERS}
    render_looks(looks, work.count(LOOKS), named_views=views, **shared)
    compose_pictures(work.folder / "pictures", looks, work.count(PICTURES), **shared)


def card_of(work: Work) -> str:
    """Fill the model card from the logs in the work folder, and from a ``remarks.md`` there."""
    logs = [work.folder / stage / "log.json" for stage in RECIPES]
    told = {path.parent.name: json.loads(path.read_text()) for path in logs if path.exists()}
    remarks = work.folder / "remarks.md"
    said = remarks.read_text().strip() if remarks.exists() else ""
    about = {"pictures": len(work.pictures), "logs": told, "remarks": said}
    return Template(CARD.read_text()).render(about, folder=OUTPUT, spare=len(text.SPARE))


def save_model(work: Work) -> None:
    """Save in diffusers layout, as fp16, with a model card; the folder appears once it is whole.

    transformers would open the tower in the dtype of its file and diffusers in float32; the
    tower's configuration says float32, so that all parts come up alike.
    """
    fresh = work.output.with_name(work.output.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    assemble(work).to(torch.float16).save_pretrained(fresh)
    settings = fresh / "text_encoder" / "config.json"
    told = json.loads(settings.read_text()) | {"dtype": "float32"}
    settings.write_text(json.dumps(told, indent=2))
    (fresh / "README.md").write_text(card_of(work))
    for path in fresh.rglob("*.*"):
        path.chmod(0o644)  # safetensors leaves its files to their owner alone
    shutil.rmtree(work.output, ignore_errors=True)
    fresh.replace(work.output)
    size = sum(path.stat().st_size for path in work.output.rglob("*.safetensors"))
    console.print(f"{work.output}: {size / 1e6:.1f} MB of weights")


def unpack(model: Path, work: Work) -> None:
    """Put a saved model's parts where the stages look for their own checkpoints.

    Only averaged weights are saved, no optimiser's moments, so the U-Net begins with a warm-up.
    Latents of a saved autoencoder have mean 0 and deviation 1 already; ``latents.json`` says so.
    """
    if (work.folder / "denoiser").exists():
        return
    saved = StableDiffusionPipeline.from_pretrained(model)
    saved.tokenizer.save_pretrained(work.folder / "tokenizer")
    tower = saved.text_encoder.state_dict()
    text.Text(work, {f"tower.{name}": weight for name, weight in tower.items()}).save()
    Autoencoder(work, saved.vae.state_dict()).save()
    plain = {"mean": [0.0] * CHANNELS, "std": [1.0] * CHANNELS}
    (work.folder / "latents.json").write_text(json.dumps(plain))
    Denoiser(work, saved.unet.state_dict()).save()


STAGES = {
    "world": make_world,
    "autoencoder": lambda work: Autoencoder(work).train(),
    "latents": latents,
    "text": lambda work: text.Text(work).train(),
    "examiner": lambda work: Examiner(work).train(),
    "denoiser": lambda work: Denoiser(work).train(),
    "decoder": lambda work: Decoder(work).train(),
    "save": save_model,
}
ALONE = ("world", "save")  # stages of the first process


def main(
    work: Annotated[Path, typer.Option(help="Folder of checkpoints and caches.")],
    output: Annotated[Path, typer.Option(help="Where to save the model.")] = OUTPUT,
    judge: Annotated[Path, typer.Option(help="Where to save the examiner.")] = WEIGHTS,
    start: Annotated[Path | None, typer.Option(help="A saved model to go on from.")] = None,
    scale: Annotated[float, typer.Option(help="Factor on pictures and updates.")] = 1.0,
    stage: Annotated[list[str] | None, typer.Option(help="Only these stages.")] = None,
    steps: Annotated[list[str] | None, typer.Option(help="As in denoiser=9000.")] = None,
) -> None:
    """Make the built-in model, from nothing to weights; the same command continues."""
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)  # POOL has a thread a core; OpenMP must not add more
    state = PartialState()
    given = {name: int(number) for name, number in (item.split("=") for item in steps or [])}
    shared = Work(work, scale, given, output, judge)
    if start and state.is_main_process:
        unpack(start, shared)
    state.wait_for_everyone()
    for name in stage or [n for n in STAGES if not (start and n in ("autoencoder", "text"))]:
        console.print(f"stage {name}")
        if name not in ALONE or state.is_main_process:
            STAGES[name](shared)
        state.wait_for_everyone()


if __name__ == "__main__":
    typer.run(main)
