"""The U-Net on cached latents and text states, the decoder on its guesses, and the pipeline.

The decoder is trained last, alone: half on exact latents, half on what the U-Net makes of them.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from cones.drawing import sheet
from experiments.metrics.examiner import load_examiner
from pretraining import autoencoder, text
from pretraining.loop import NETWORKS, Stage, Work, averaged, console
from pretraining.muon import POOL
from pretraining.world.captions import PLACES, prompt
from pretraining.world.scenes import NOUNS

EMPTY = 0.1  # share of captions replaced by the empty one, for guidance
SEVERAL = 2.0  # pictures of several things are drawn so much more often: they are the hardest
MOST_NOISED = 300  # the time, of 1,000, up to which guesses serve the decoder
SCHEDULE = DDPMScheduler(**NETWORKS["noise"], clip_sample=False)
Latents = Float[Tensor, "n c h w"]


def build() -> UNet2DConditionModel:
    """Return the untrained U-Net."""
    unet = UNet2DConditionModel(**NETWORKS["unet"]).to(memory_format=torch.channels_last)
    unet.set_attn_processor(AttnProcessor())  # on these small grids 1.5 x faster than SDPA
    return unet


def predicted(
    unet: Callable, clean: Latents, states: Tensor, times: Int[Tensor, " n"], draw: torch.Generator
) -> tuple[Latents, Latents, Latents]:
    """Noise latents and predict: return the noised latents, the v of the U-Net, the true v."""
    noise = torch.randn(clean.shape, generator=draw).to(clean.device)
    times = times.to(clean.device)
    noised = SCHEDULE.add_noise(clean, noise, times)
    with torch.autocast(clean.device.type, torch.bfloat16, cache_enabled=False):
        inputs = noised.contiguous(memory_format=torch.channels_last)
        found = unet(inputs, times, states, return_dict=False)[0].float()
    return noised, found, SCHEDULE.get_velocity(clean, noise, times)


def guessed(unet: Callable, clean: Latents, states: Tensor, draw: torch.Generator) -> Latents:
    """Return clean latents as the U-Net guesses them in one step from somewhat noised ones."""
    times = torch.randint(MOST_NOISED, (len(clean),), generator=draw)
    noised, found, _ = predicted(unet, clean, states, times, draw)
    # x0 = sqrt(a) x_t - sqrt(1 - a) v: the velocity of v as sample and x_t as noise
    return SCHEDULE.get_velocity(found, noised, times.to(clean.device))


def spread_times(count: int, draw: torch.Generator) -> Int[Tensor, " count"]:
    """Draw times, one of each n-th part of all: the loss of a step varies less."""
    strata = torch.randperm(count, generator=draw) + torch.rand(count, generator=draw)
    return (strata / count * SCHEDULE.config["num_train_timesteps"]).long()


class Denoiser(Stage[UNet2DConditionModel]):
    """Trains the U-Net; draws every noun twice every so often."""

    def _build(self) -> UNet2DConditionModel:
        return build()

    def _prepare(self) -> Tensor:
        self.latents, self.states = autoencoder.latents(self.work), text.states(self.work)
        several = torch.tensor([len(row["things"]) > 1 for row in self.work.pictures.rows])
        return torch.where(several, SEVERAL, 1.0)

    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        """Predict v from a picture's noised latents and its caption, or the empty one."""
        empty = torch.rand(len(index), generator=draw) < EMPTY
        said = self.states[torch.where(empty, len(self.latents), index)]
        clean, said = (part.to(self.work.device).float() for part in (self.latents[index], said))
        times = spread_times(len(index), draw)
        _, found, true = predicted(self.module, clean, said, times, draw)
        return (found - true).square().mean()

    def _report(self) -> None:
        nouns = [*NOUNS, *NOUNS]
        asked = [prompt(noun, place) for noun, place in zip(nouns, 4 * [*PLACES], strict=False)]
        drawn = drawn_by(assemble(self.work), asked)
        rows = {f"update {self.step}": drawn[: len(NOUNS)], "again": drawn[len(NOUNS) :]}
        sheet(rows, NOUNS).save(self.work.folder / f"drawn-{self.step:06d}.png")
        if (judge := self.work.folder / "examiner.safetensors").exists():
            seen = load_examiner(judge).read(drawn)
            right = sum(s.things[0].noun == noun for s, noun in zip(seen, nouns, strict=True))
            console.print(f"step {self.step}: {right} of {len(nouns)} nouns right")


class Decoder(Stage[nn.ModuleDict]):
    """Trains the decoder, half on exact latents and half on the U-Net's guesses."""

    def _build(self) -> nn.ModuleDict:
        vae = autoencoder.finished(self.work, decoder=False)
        return autoencoder.decoder_of(vae).requires_grad_(True)

    def _prepare(self) -> Tensor:
        self.latents, self.states = autoencoder.latents(self.work), text.states(self.work)
        self.unet = averaged(build(), self.work.folder / "denoiser").to(self.work.device)
        return super()._prepare()

    def loss(self, index: Tensor, draw: torch.Generator) -> Tensor:
        """Reconstruct pictures."""
        pixels, half = self.work.pixels(index), len(index) // 2
        clean, said = (p[index].to(pixels.device).float() for p in (self.latents, self.states))
        rough = guessed(self.unet, clean[half:], said[half:], draw)
        with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
            latents = self.module["post"](torch.cat([clean[:half], rough]))
            found = self.module["decoder"](latents).float()
        return autoencoder.difference(found, pixels, torch.ones_like(pixels[:, :1]))


def assemble(work: Work) -> StableDiffusionPipeline:
    """Put the averaged weights of the last checkpoints together."""
    reader, tokenizer = text.finished(work)
    return StableDiffusionPipeline(
        vae=autoencoder.finished(work),
        text_encoder=reader.tower,
        tokenizer=tokenizer,
        unet=averaged(build(), work.folder / "denoiser").to(work.device),
        scheduler=DPMSolverMultistepScheduler(**NETWORKS["noise"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def drawn_by(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], **options: float
) -> list[Image.Image]:
    """Draw one picture for every prompt, on all threads; number k has the seed k.

    ``options`` are those of the pipeline; guidance is 3 and steps are 25 where they are not given.
    """
    options = {"guidance_scale": 3.0, "num_inference_steps": 25} | options

    def some(part: range) -> list[Image.Image]:
        fresh = pipeline.scheduler.from_config(pipeline.scheduler.config)
        parts = {**pipeline.components, "scheduler": fresh}  # it counts the steps of one drawing
        own = StableDiffusionPipeline(**parts, requires_safety_checker=False)
        own.set_progress_bar_config(disable=True)
        draws = [torch.Generator().manual_seed(k) for k in part]
        with torch.autocast(pipeline.device.type, torch.bfloat16, cache_enabled=False):
            return own([prompts[k] for k in part], generator=draws, **options).images

    parts = [range(k, min(k + 16, len(prompts))) for k in range(0, len(prompts), 16)]
    return [image for images in POOL.map(some, parts) for image in images]
