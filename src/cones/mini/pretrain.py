"""Pretrain the built-in model: ``python -m cones.mini.pretrain --corpus DIR``.

Stages run in order and each resumes from its last checkpoint in the work folder: pictures
(composed once), clip, autoencoder, latents (cached), denoiser, decoder, pack. Seeds are fixed;
a stage's step depends on its number alone. ``--stage`` runs one of them. On a GPU, which takes
larger batches at no cost, add for instance ``--pictures 400000 --times-batch 8``; on several,
``accelerate launch -m cones.mini.pretrain ...`` shares every batch among them.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from diffusers.models.attention_processor import AttnProcessor
from rich.progress import track
from torch import Tensor
from transformers import CLIPTokenizer

from cones.mini import autoencoder, clip, denoiser, text, weights_path
from cones.mini.data import Corpus, pictures
from cones.mini.pack import expect_new, pack, unpack
from cones.mini.sprites import SIZE
from cones.mini.training import Recipe, Run, averaged, train

SEED = 0
CHUNK = 1000


def draw_of(step: int, salt: int) -> torch.Generator:
    """Return the generator of one step of one stage in this process."""
    salt += len(STAGES) * PartialState().process_index
    return torch.Generator().manual_seed(SEED + 1_000_003 * salt + step)


@dataclass
class Store:
    """What the stages share: the machine, and pictures, tokenizer, latents, text states on disk.

    Attributes:
        work: The work folder.
        count: Number of composed pictures.
        device: Where the networks are trained.
        times_updates: Factor on every recipe's updates.
        times_batch: Factor on every recipe's batch.
        compiled: Whether the U-Net is compiled: a minute at the start, a sixth faster afterwards.
    """

    work: Path
    count: int
    device: torch.device = torch.device("cpu")
    times_updates: float = 1
    times_batch: int = 1
    compiled: bool = False

    def recipe(self, recipe: Recipe) -> Recipe:
        """Return a stage's recipe as this machine runs it."""
        return recipe.larger(self.times_updates, self.times_batch)

    def share(self, batch: int) -> int:
        """Return this process' part of a batch."""
        return max(1, batch // PartialState().num_processes)

    def compose(self, corpus_folder: Path) -> None:
        """Compose all pictures once, in chunks that are kept when interrupted."""
        self.work.mkdir(parents=True, exist_ok=True)
        paths = {n: self.work / f"pictures-{n:07d}.npz" for n in range(0, self.count, CHUNK)}
        missing = [start for start, path in paths.items() if not path.exists()]
        if not missing:
            return
        corpus = Corpus(corpus_folder)
        for start in track(missing, description="pictures"):
            images, captions = pictures(corpus, range(start, start + CHUNK), SEED)
            part = paths[start].with_suffix(".part.npz")
            np.savez(part, images=images, captions=np.array(captions))
            part.rename(paths[start])

    def open(self) -> None:
        """Load pictures ``(n, 64, 64, 3)`` bytes, captions and their tokens."""
        files = sorted(self.work.glob("pictures-*.npz"))[: self.count // CHUNK]
        parts = [np.load(path) for path in files if ".part" not in path.name]
        self.images = np.concatenate([part["images"] for part in parts])
        self.captions = [str(c) for part in parts for c in part["captions"]]
        self.tokenizer = self._tokenizer()
        self.tokens = text.tokenize(self.tokenizer, [*self.captions, ""])

    def _tokenizer(self) -> CLIPTokenizer:
        """Learn the tokenizer once: every later stage depends on its numbers."""
        folder = self.work / "tokenizer"
        if not folder.exists():
            text.learn_tokenizer(self.captions).save_pretrained(folder)
        return CLIPTokenizer.from_pretrained(folder)

    def pixels(self, index: Tensor, flips: Tensor | None = None) -> Tensor:
        """Return pictures in [-1, 1], ``(n, 3, 64, 64)``, mirrored where ``flips``."""
        found = torch.from_numpy(self.images[index.numpy()]).permute(0, 3, 1, 2)
        found = found.to(self.device).float() / 127.5 - 1
        if flips is not None:
            mirrored = flips.to(self.device)[:, None, None, None]
            found = torch.where(mirrored, found.flip(-1), found)
        return found.contiguous(memory_format=torch.channels_last)


def train_clip(store: Store, minutes: float) -> bool:
    """Stage 1; ``to the left of`` would lie in a mirror, so nothing is mirrored."""
    torch.manual_seed(SEED)
    whole = clip.build(store.tokenizer)
    whole.set_attn_implementation("eager")  # on these short sequences 1.9 x faster than SDPA
    recipe = store.recipe(clip.RECIPE)
    run = Run(whole.to(store.device), recipe, store.work / "clip")
    size = store.share(recipe.batch)

    def loss_of(step: int) -> Tensor:
        index = torch.randint(store.count, (size,), generator=draw_of(step, 1))
        tokens = store.tokens[index]
        longest = int(tokens.argmax(-1).max()) + 1  # the end token has the largest number
        said = tokens[:, :longest].to(store.device)
        return clip.loss(run.module, store.pixels(index), said)

    return train(run, loss_of, label="clip", minutes=minutes)


def train_autoencoder(store: Store, minutes: float) -> bool:
    """Stage 2."""
    torch.manual_seed(SEED)
    recipe = store.recipe(autoencoder.RECIPE)
    run = Run(autoencoder.build().to(store.device), recipe, store.work / "autoencoder")
    size = store.share(recipe.batch)

    def loss_of(step: int) -> Tensor:
        draw = draw_of(step, 2)
        index = torch.randint(store.count, (size,), generator=draw)
        flips = torch.rand(size, generator=draw) < 0.5
        noise = torch.randn(size, autoencoder.CHANNELS, SIZE // 8, SIZE // 8, generator=draw).to(
            store.device
        )
        return autoencoder.loss(run.module, store.pixels(index, flips), noise)

    return train(run, loss_of, label="autoencoder", minutes=minutes)


def finished(store: Store, stage: str, module: torch.nn.Module, recipe) -> torch.nn.Module:
    """Return a stage's module with its averaged weights."""
    found = averaged(module, recipe, store.work / stage)
    return found.requires_grad_(False).to(store.device)


@torch.no_grad()
def cache_latents(store: Store) -> None:
    """Encode every picture once (posterior mean); their spread sets the scaling factor."""
    vae = finished(store, "autoencoder", autoencoder.build(), autoencoder.RECIPE)
    latents = []
    for index in track(torch.arange(store.count).split(250), description="latents"):
        with torch.autocast(store.device.type, torch.bfloat16):
            latents.append(vae.encode(store.pixels(index)).latent_dist.mean.half().cpu())
    found = torch.cat(latents)
    np.save(store.work / "latents.npy", found.numpy())
    if not (store.work / "latents.json").exists():
        spread = {"scaling_factor": 1 / found.float().std().item()}
        (store.work / "latents.json").write_text(json.dumps(spread))


@torch.no_grad()
def cache_states(store: Store) -> None:
    """Encode every caption once, the empty one last."""
    tower = finished(store, "clip", clip.build(store.tokenizer), clip.RECIPE).text_model
    states = [
        tower(tokens.to(store.device)).last_hidden_state.half().cpu()
        for tokens in track(store.tokens.split(500), description="states")
    ]
    np.save(store.work / "states.npy", torch.cat(states).numpy())


CACHES = {"latents": cache_latents, "states": cache_states}


def train_denoiser(store: Store, minutes: float) -> bool:
    """Stage 3, on cached latents and text states."""
    scale = json.loads((store.work / "latents.json").read_text())["scaling_factor"]
    latents = torch.from_numpy(np.load(store.work / "latents.npy"))
    states = torch.from_numpy(np.load(store.work / "states.npy", mmap_mode="c"))
    torch.manual_seed(SEED)
    recipe, schedule = store.recipe(denoiser.RECIPE), denoiser.scheduler()
    unet = denoiser.build().to(store.device, memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # on these small grids 1.5 x faster than SDPA
    run = Run(unet, recipe, store.work / "denoiser")
    size = store.share(recipe.batch)
    model = torch.compile(unet) if store.compiled else unet

    def loss_of(step: int) -> Tensor:
        draw = draw_of(step, 3)
        index = torch.randint(store.count, (size,), generator=draw)
        empty = torch.rand(size, generator=draw) < denoiser.DROPOUT
        said = states[torch.where(empty, store.count, index)].to(store.device).float()
        clean = latents[index].to(store.device).float() * scale
        return denoiser.loss(model, schedule, clean, said, draw)

    return train(run, loss_of, label="denoiser", minutes=minutes)


def train_decoder(store: Store, minutes: float) -> bool:
    """Stage 4: sharpen the decoder on the frozen latents the denoiser was trained on."""
    latents = torch.from_numpy(np.load(store.work / "latents.npy"))
    vae = finished(store, "autoencoder", autoencoder.build(), autoencoder.RECIPE)
    parts = autoencoder.decoder_of(vae)
    recipe = store.recipe(autoencoder.DECODER)
    run = Run(parts.requires_grad_(True), recipe, store.work / "decoder")
    size = store.share(recipe.batch)

    def loss_of(step: int) -> Tensor:
        draw = draw_of(step, 4)
        index = torch.randint(store.count, (size,), generator=draw)
        kept = latents[index].to(store.device).float()
        noise = torch.randn(kept.shape, generator=draw).to(store.device)
        return autoencoder.decoder_loss(vae, store.pixels(index), kept, noise)

    return train(run, loss_of, label="decoder", minutes=minutes)


STAGES = {
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "denoiser": train_denoiser,
    "decoder": train_decoder,
}


def options_of() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="sprite corpus folder")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="checkpoints")
    parser.add_argument("--start", type=Path, help="go on from a packed model, in a new --work")
    parser.add_argument("--out", type=Path, default=None, help="where to pack the model")
    parser.add_argument("--pictures", type=int, default=60_000, help="pictures to compose")
    parser.add_argument("--stage", choices=["pictures", *STAGES, *CACHES, "pack"])
    parser.add_argument("--budget-minutes", type=float, default=float("inf"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--times-updates", type=float, default=1, help="factor on all updates")
    parser.add_argument("--times-batch", type=int, default=1, help="factor on all batches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="compile the U-Net (torch.compile)")
    return parser.parse_args()


def main() -> None:
    """Run the stages that the command line asks for."""
    options = options_of()
    if options.start:
        expect_new(options.work)  # before pictures are composed, which takes a while
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    state = PartialState(cpu=options.device == "cpu")
    store = Store(
        options.work,
        options.pictures,
        state.device if state.num_processes > 1 else torch.device(options.device),
        options.times_updates,
        options.times_batch,
        options.compile,
    )
    with state.main_process_first():
        store.compose(options.corpus)
    if options.stage == "pictures":
        return
    with state.main_process_first():
        store.open()
    if options.start and state.is_main_process:
        unpack(options.start, options.work, store.tokenizer)
    state.wait_for_everyone()
    chosen = [options.stage] if options.stage else [*STAGES, "pack"]
    for stage in chosen:
        for cache, fill in CACHES.items():
            missing = not (store.work / f"{cache}.npy").exists()
            if state.is_main_process and (stage == cache or (stage == "denoiser" and missing)):
                fill(store)
        state.wait_for_everyone()
        if stage in STAGES and not STAGES[stage](store, options.budget_minutes):
            return  # out of time: the same command continues here
        if stage == "pack" and state.is_main_process:
            pack(store.work, store.tokenizer, options.out or weights_path())


if __name__ == "__main__":
    main()
