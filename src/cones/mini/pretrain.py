"""Pretrain the built-in model: ``python -m cones.mini.pretrain --corpus DIR``.

Stages run in order and each resumes from its last checkpoint in the work folder: pictures
(composed once), clip, autoencoder, latents (cached), denoiser, decoder, pack. Seeds are fixed;
a stage's step depends on its number alone. ``--stage`` runs one of them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTokenizer

from cones.mini import autoencoder, clip, denoiser, text, weights_path
from cones.mini.data import SIZE, Corpus, pictures
from cones.mini.pack import pack, unpack
from cones.mini.training import Run, averaged, train

SEED = 0
CHUNK = 1000


def draw_of(step: int, salt: int) -> torch.Generator:
    """Return the generator of one step of one stage."""
    return torch.Generator().manual_seed(SEED + 1_000_003 * salt + step)


class Store:
    """What the stages share on disk: pictures, captions, tokenizer, latents, text states."""

    def __init__(self, work: Path, count: int) -> None:
        """Name the work folder and how many pictures it holds."""
        self.work, self.count = work, count
        work.mkdir(parents=True, exist_ok=True)

    def compose(self, corpus_folder: Path) -> None:
        """Compose all pictures once, in chunks that are kept when interrupted."""
        corpus = None
        for start in range(0, self.count, CHUNK):
            path = self.work / f"pictures-{start:07d}.npz"
            if path.exists():
                continue
            corpus = corpus or Corpus(corpus_folder)
            images, captions = pictures(corpus, range(start, start + CHUNK), SEED)
            part = path.with_suffix(".part.npz")
            np.savez(part, images=images, captions=np.array(captions))
            part.rename(path)

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
        found = found.float() / 127.5 - 1
        if flips is not None:
            found = torch.where(flips[:, None, None, None], found.flip(-1), found)
        return found.contiguous(memory_format=torch.channels_last)


def train_clip(store: Store, minutes: float) -> bool:
    """Stage 1; ``to the left of`` would lie in a mirror, so nothing is mirrored."""
    torch.manual_seed(SEED)
    whole = clip.build(store.tokenizer)
    whole.set_attn_implementation("eager")  # on these short sequences 1.9 x faster than SDPA
    run = Run(whole, clip.RECIPE, store.work / "clip")

    def loss_of(step: int) -> Tensor:
        index = torch.randint(store.count, (clip.RECIPE.batch,), generator=draw_of(step, 1))
        tokens = store.tokens[index]
        longest = int(tokens.argmax(-1).max()) + 1  # the end token has the largest number
        return clip.loss(run.module, store.pixels(index), tokens[:, :longest])

    return train(run, loss_of, label="clip", minutes=minutes)


def train_autoencoder(store: Store, minutes: float) -> bool:
    """Stage 2."""
    torch.manual_seed(SEED)
    recipe = autoencoder.RECIPE
    run = Run(autoencoder.build(), recipe, store.work / "autoencoder")

    def loss_of(step: int) -> Tensor:
        draw = draw_of(step, 2)
        index = torch.randint(store.count, (recipe.batch,), generator=draw)
        flips = torch.rand(recipe.batch, generator=draw) < 0.5
        noise = torch.randn(
            recipe.batch, autoencoder.CHANNELS, SIZE // 8, SIZE // 8, generator=draw
        )
        return autoencoder.loss(run.module, store.pixels(index, flips), noise)

    return train(run, loss_of, label="autoencoder", minutes=minutes)


def finished(store: Store, stage: str, module: torch.nn.Module, recipe) -> torch.nn.Module:
    """Return a stage's module with its averaged weights."""
    return averaged(module, recipe, store.work / stage).requires_grad_(False)


@torch.no_grad()
def cache_latents(store: Store) -> None:
    """Encode every picture once (posterior mean); their spread sets the scaling factor."""
    vae = finished(store, "autoencoder", autoencoder.build(), autoencoder.RECIPE)
    latents = []
    for index in torch.arange(store.count).split(250):
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(store.pixels(index)).latent_dist.mean.half())
    found = torch.cat(latents)
    np.save(store.work / "latents.npy", found.numpy())
    if not (store.work / "latents.json").exists():
        spread = {"scaling_factor": 1 / found.float().std().item()}
        (store.work / "latents.json").write_text(json.dumps(spread))


@torch.no_grad()
def cache_states(store: Store) -> None:
    """Encode every caption once, the empty one last."""
    tower = finished(store, "clip", clip.build(store.tokenizer), clip.RECIPE).text_model
    states = [tower(tokens).last_hidden_state.half() for tokens in store.tokens.split(500)]
    np.save(store.work / "states.npy", torch.cat(states).numpy())


CACHES = {"latents": cache_latents, "states": cache_states}


def train_denoiser(store: Store, minutes: float) -> bool:
    """Stage 3, on cached latents and text states."""
    scale = json.loads((store.work / "latents.json").read_text())["scaling_factor"]
    latents = torch.from_numpy(np.load(store.work / "latents.npy"))
    states = torch.from_numpy(np.load(store.work / "states.npy", mmap_mode="c"))
    torch.manual_seed(SEED)
    recipe, schedule = denoiser.RECIPE, denoiser.scheduler()
    unet = denoiser.build()
    unet.set_attn_processor(AttnProcessor())  # on these small grids 1.5 x faster than SDPA
    run = Run(unet, recipe, store.work / "denoiser")

    def loss_of(step: int) -> Tensor:
        draw = draw_of(step, 3)
        index = torch.randint(store.count, (recipe.batch,), generator=draw)
        empty = torch.rand(recipe.batch, generator=draw) < denoiser.DROPOUT
        said = states[torch.where(empty, store.count, index)].float()
        return denoiser.loss(run.module, schedule, latents[index].float() * scale, said, draw)

    return train(run, loss_of, label="denoiser", minutes=minutes)


def train_decoder(store: Store, minutes: float) -> bool:
    """Stage 4: sharpen the decoder on the frozen latents the denoiser was trained on."""
    latents = torch.from_numpy(np.load(store.work / "latents.npy"))
    vae = finished(store, "autoencoder", autoencoder.build(), autoencoder.RECIPE)
    parts = autoencoder.decoder_of(vae)
    run = Run(parts.requires_grad_(True), autoencoder.DECODER, store.work / "decoder")

    def loss_of(step: int) -> Tensor:
        index = torch.randint(store.count, (run.recipe.batch,), generator=draw_of(step, 4))
        return autoencoder.decoder_loss(vae, store.pixels(index), latents[index].float())

    return train(run, loss_of, label="decoder", minutes=minutes)


STAGES = {
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "denoiser": train_denoiser,
    "decoder": train_decoder,
}


def main() -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="sprite corpus folder")
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="checkpoints")
    parser.add_argument("--start", type=Path, help="go on from a packed model, in a new --work")
    parser.add_argument("--out", type=Path, default=None, help="where to pack the model")
    parser.add_argument("--pictures", type=int, default=60_000, help="pictures to compose")
    parser.add_argument("--stage", choices=["pictures", *STAGES, *CACHES, "pack"])
    parser.add_argument("--budget-minutes", type=float, default=float("inf"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    store = Store(options.work, options.pictures)
    if options.start:
        unpack(options.start, options.work)
    store.compose(options.corpus)
    if options.stage == "pictures":
        return
    store.open()
    chosen = [options.stage] if options.stage else [*STAGES, "pack"]
    for stage in chosen:
        for cache, fill in CACHES.items():
            missing = not (store.work / f"{cache}.npy").exists()
            if stage == cache or (stage == "denoiser" and missing):
                fill(store)
        if stage in STAGES and not STAGES[stage](store, options.budget_minutes):
            return  # out of time: the same command continues here
        if stage == "pack":
            pack(store.work, store.tokenizer, options.out or weights_path())


if __name__ == "__main__":
    main()
