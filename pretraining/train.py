"""Make the built-in model: ``python -m pretraining.train --work DIR``.

Stages, in order: world, autoencoder, latents, text, examiner, denoiser, decoder, save. Each goes
on from what the work folder holds, so the same command continues after Ctrl-C; ``--stage`` runs
one. ``--scale .001`` tries the whole chain in a minute. On several GPUs start it with
``accelerate launch -m pretraining.train``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import PartialState
from torch import Tensor
from transformers import CLIPTokenizer

from cones.files import replace_when_done
from experiments.metrics.examiner import WEIGHTS, load_examiner
from pretraining import autoencoder, denoiser, examiner, save, text
from pretraining.loop import Run, averaged, placed, train
from pretraining.muon import WORKERS
from pretraining.start import SKIPPED, unpack
from pretraining.work import LOOKS, PICTURES, SEED, Work, console, in_turn
from pretraining.world.captions import PLACES, prompt
from pretraining.world.production import compose_pictures, render_looks
from pretraining.world.scenes import NOUNS

OUTPUT = Path("src/cones/models/builtin/weights")


def make_world(work: Work) -> None:
    """Render looks, compose pictures."""
    looks, processes = work.folder / "looks", WORKERS
    views = 10 if work.scale >= 1 else 1  # of every named individual
    render_looks(looks, work.count(LOOKS), seed=SEED, processes=processes, named_views=views)
    count = work.count(PICTURES)
    compose_pictures(work.folder / "pictures", looks, count, seed=SEED, processes=processes)


def train_autoencoder(work: Work) -> None:
    """Train the autoencoder on whole pictures and their mirror images."""
    torch.manual_seed(SEED)
    recipe = work.recipe("autoencoder", autoencoder.RECIPE)
    run = Run(placed(autoencoder.build(), work.device), recipe, work.folder / "autoencoder")

    def loss_of(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(work.pictures), (work.share(recipe),), generator=draw)
        pixels, weight = work.pixels(index), work.weights(index)
        if torch.rand((), generator=draw) < 0.5:
            pixels, weight = pixels.flip(-1), weight.flip(-1)
        noise = torch.randn(len(index), autoencoder.CHANNELS, 8, 8, generator=draw)
        return autoencoder.loss(run.module, pixels, weight, noise.to(work.device))  # pyright: ignore

    train(run, loss_of, label="autoencoder")


def cache_latents(work: Work) -> None:
    """Encode every picture once (posterior mean), with mean 0 and deviation 1 a channel."""
    told, path = work.folder / "latents.json", work.folder / "latents.npy"
    if path.exists():
        return
    vae = placed(averaged(autoencoder.build(), work.folder / "autoencoder"), work.device)

    def encode(index: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(work.device.type, torch.bfloat16):
            return vae.encode(work.pixels(index)).latent_dist.mean.float().cpu()  # pyright: ignore

    parts = in_turn(encode, torch.arange(len(work.pictures)).split(50), "latents")
    latents = torch.cat(parts)
    if not told.exists():
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        told.write_text(json.dumps({"mean": mean.tolist(), "std": std.tolist()}))
    spread = {
        key: torch.tensor(v)[:, None, None] for key, v in json.loads(told.read_text()).items()
    }
    with replace_when_done(path) as whole:
        np.save(whole, ((latents - spread["mean"]) / spread["std"]).half())


def tokenizer_of(work: Work) -> CLIPTokenizer:
    """Learn the tokenizer once: every later stage depends on its numbers."""
    folder = work.folder / "tokenizer"
    if not folder.exists():
        captions = [row["caption"] for row in work.pictures.rows]
        text.learn_tokenizer(captions).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def train_text(work: Work) -> None:
    """Train the text tower on captions and labels."""
    rows, tokenizer = work.pictures.rows, tokenizer_of(work)
    tokens = text.tokenize(tokenizer, [row["caption"] for row in rows])
    asked = text.questions(rows)
    named = torch.tensor([i for i, row in enumerate(rows) if row["things"][0]["name"]])
    torch.manual_seed(SEED)
    recipe = work.recipe("text", text.RECIPE)
    run = Run(placed(text.Reader(tokenizer), work.device), recipe, work.folder / "text")

    def loss_of(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(rows), (work.share(recipe),), generator=draw)
        some = round(text.NAMED_SHARE * len(index))
        index[:some] = named[torch.randint(len(named), (some,), generator=draw)]
        part = (asked[0][index], asked[1][index], asked[2][index])
        return text.loss(run.module, tokens[index].to(work.device), part, draw)

    train(run, loss_of, label="text")
    reader, _ = save.finished_reader(work.folder)
    last = slice(-1000, None)
    shares = text.told(reader, tokens[last], (asked[0][last], asked[1][last], asked[2][last]))
    (work.folder / "text.json").write_text(json.dumps(shares))
    console.print(shares)


def cache_states(work: Work) -> None:
    """Encode every caption once, the empty one last."""
    path = work.folder / "states.npy"
    if path.exists():
        return
    reader, tokenizer = save.finished_reader(work.folder)
    reader.to(work.device)
    captions = [*(row["caption"] for row in work.pictures.rows), ""]

    def read(tokens: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(work.device.type, torch.bfloat16):
            return reader(tokens.to(work.device)).half().cpu()

    parts = in_turn(read, text.tokenize(tokenizer, captions).split(100), "states")
    with replace_when_done(path) as whole:
        np.save(whole, torch.cat(parts).numpy())


def train_denoiser(work: Work) -> None:
    """Train the U-Net on cached latents and text states."""
    cache_states(work)
    latents = torch.from_numpy(np.load(work.folder / "latents.npy"))
    states = torch.from_numpy(np.load(work.folder / "states.npy"))
    torch.manual_seed(SEED)
    recipe, schedule = work.recipe("denoiser", denoiser.RECIPE), denoiser.scheduler()
    run = Run(placed(denoiser.build(), work.device), recipe, work.folder / "denoiser")
    several = torch.tensor([len(row["things"]) > 1 for row in work.pictures.rows])
    often = torch.where(several, denoiser.SEVERAL, 1.0)

    def loss_of(draw: torch.Generator) -> Tensor:
        index = often.multinomial(work.share(recipe), replacement=True, generator=draw)
        empty = torch.rand(len(index), generator=draw) < denoiser.EMPTY
        said = states[torch.where(empty, len(latents), index)].to(work.device).float()
        clean = latents[index].to(work.device).float()
        return denoiser.loss(run.module, schedule, clean, said, draw)

    def report(step: int) -> None:
        nouns = [*NOUNS, *NOUNS]
        prompts = [prompt(noun, place) for noun, place in zip(nouns, 4 * [*PLACES], strict=False)]
        run.save()
        pictures = save.draw(save.assemble(work.folder), prompts, range(len(prompts)))
        save.sheet(pictures, 8).save(work.folder / f"drawn-{step:06d}.png")
        if (work.folder / "examiner.safetensors").exists():
            judge = load_examiner(work.folder / "examiner.safetensors")
            named = [seen.things[0].noun for seen in judge.see(pictures)]
            right = sum(a == b for a, b in zip(named, nouns, strict=True))
            console.print(f"step {step}: {right} of {len(nouns)} nouns right")

    every = max(1, recipe.steps // 5)
    train(run, loss_of, label="denoiser", every=every, report=report)


def train_decoder(work: Work) -> None:
    """Train the decoder alone, half on the U-Net's guesses; keep it if exact latents stay good."""
    cache_states(work)
    clean = torch.from_numpy(np.load(work.folder / "latents.npy"))
    states = torch.from_numpy(np.load(work.folder / "states.npy", mmap_mode="c"))
    unet = placed(save.averaged_unet(work.folder), work.device)
    (work.folder / "decoder.json").unlink(missing_ok=True)
    vae, schedule = (
        placed(save.finished_autoencoder(work.folder), work.device),
        denoiser.scheduler(),
    )
    test = torch.arange(min(200, len(clean)))
    exact = clean[test].to(work.device).float()
    before = autoencoder.error(vae, work.pixels(test), exact)
    recipe = work.recipe("decoder", autoencoder.DECODER)
    parts = autoencoder.decoder_of(vae).requires_grad_(True)
    run = Run(parts, recipe, work.folder / "decoder")

    def loss_of(draw: torch.Generator) -> Tensor:
        index = torch.randint(len(clean), (work.share(recipe),), generator=draw)
        latents, said = (part[index].to(work.device).float() for part in (clean, states))
        half = len(index) // 2
        rough = denoiser.guessed(unet, schedule, latents[half:], said[half:], draw)  # pyright: ignore
        latents = torch.cat([latents[:half], rough])
        return autoencoder.decoder_loss(vae, work.pixels(index), latents)

    train(run, loss_of, label="decoder")
    averaged(parts, work.folder / "decoder")
    after = autoencoder.error(vae, work.pixels(test), exact)
    told = {"before": before, "after": after, "kept": after <= 1.02 * before}
    (work.folder / "decoder.json").write_text(json.dumps(told))
    console.print(told)


def save_model(work: Work) -> None:
    """Save the pipeline and the examiner."""
    size = save.write(save.assemble(work.folder), save.card_of(work.folder), work.output)
    console.print(f"{work.output}: {size / 1e6:.1f} MB of weights")


def train_examiner(work: Work) -> None:
    """Train the examiner on pictures, half of them through the autoencoder; measure and write."""
    vae = placed(save.finished_autoencoder(work.folder), work.device)
    path, count = (
        work.folder / "through.npy",
        min(len(work.pictures), work.count(examiner.THROUGH)),
    )
    if not path.exists():
        parts = [work.pixels(index) for index in torch.arange(count).split(500)]
        shown = [(127.5 * examiner.through(vae, part) + 127.5).byte() for part in parts]
        np.save(path, torch.cat(shown).cpu().numpy())
    shown = np.load(path)
    torch.manual_seed(SEED)
    recipe = work.recipe("examiner", examiner.RECIPE)
    run = Run(placed(examiner.build(), work.device), recipe, work.folder / "examiner")

    def loss_of(draw: torch.Generator) -> Tensor:
        half = max(1, work.share(recipe) // 2)
        index = torch.randint(len(work.pictures), (half,), generator=draw)
        again = torch.randint(count, (half,), generator=draw)
        back = torch.from_numpy(shown[again.numpy()]).to(work.device).float() / 127.5 - 1
        rows = [work.pictures.rows[i] for i in [*index.tolist(), *again.tolist()]]
        pixels = torch.cat([work.pixels(index), back])
        return examiner.loss(run.module, pixels, rows, draw)  # pyright: ignore

    train(run, loss_of, label="examiner")
    module = averaged(examiner.build(), work.folder / "examiner")
    pixels, rows = examiner.unseen(work.folder / "looks", work.count(600), seed=SEED)
    shares = examiner.measured(module, vae.cpu(), pixels, rows)
    console.print(shares)
    examiner.write(module, work.folder / "examiner.safetensors", shares)  # for reports
    examiner.write(module, work.judge, shares)


STAGES: dict[str, Callable[[Work], None]] = {
    "world": make_world,
    "autoencoder": train_autoencoder,
    "latents": cache_latents,
    "text": train_text,
    "examiner": train_examiner,
    "denoiser": train_denoiser,
    "decoder": train_decoder,
    "save": save_model,
}
ALONE = ("world", "latents", "save")  # stages of the first process


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
    shared = Work(work, scale, given, output, judge, state.device)
    if start and state.is_main_process:
        unpack(start, work)
    state.wait_for_everyone()
    for name in stage or [name for name in STAGES if not (start and name in SKIPPED)]:
        console.print(f"stage {name}")
        if name not in ALONE or state.is_main_process:
            STAGES[name](shared)
        state.wait_for_everyone()


if __name__ == "__main__":
    typer.run(main)
