"""Stable Diffusion 1.x, 2.x and XL: a U-Net whose attention has separate K and V projections.

The network is never wrapped or copied. Predictions call it with the searched weights put in the
place of its own, so nothing has to be undone after a search; all else is held constant.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import ClassVar

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from cones.errors import ModelError
from cones.models import builtin
from cones.models.noise import NoiseSchedule, Schedule
from cones.models.projections import projections
from cones.models.protocol import Arguments, Condition, Latents, Model, Part, Pipeline, Times
from cones.models.words import encoders

_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler", "encode_prompt")
_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+$")
_RECOMPUTE = "_gradient_checkpointing_func"  # diffusers' name
_SMALL = 1024  # cells of a picture up to which plain attention is faster on a CPU


class UNetModel:
    """One diffusers pipeline as functions of its K/V weights; see the protocol ``Model``.

    Its network is set to evaluation mode. A ModelError says what a pipeline lacks, before that.
    """

    network: ClassVar[str] = "unet"  # as pipelines of this kind call it
    schedules: ClassVar[type[Schedule]] = NoiseSchedule  # how they were trained
    expected: ClassVar[str] = (  # what they have, for the error
        "a U-Net that text alone conditions, a VAE, a tokenizer and a text encoder; load Stable "
        "Diffusion 1.x, 2.x or XL, not a model for inpainting, upscaling, video or unCLIP"
    )

    def __init__(self, pipeline: Pipeline) -> None:
        """Check that the pipeline is of the kind known here, and whole."""
        lacking = [f"no {part}" for part in _PARTS if getattr(pipeline, part, None) is None]
        lacking += [] if self.knows(pipeline) else [f"no plain {self.network}"]
        if lacking := lacking or self._misfits(pipeline):
            raise ModelError(
                f"found a {type(pipeline).__name__} with {', '.join(lacking)}; expected "
                f"{self.expected}"
            )
        encoders(pipeline)  # refuses a tokenizer without vocabulary
        schedule = self.schedule = self.schedules.of(pipeline.scheduler)
        self.pipeline, self.module = pipeline, plain(getattr(pipeline, self.network)).eval()
        self.name = _name(str(pipeline.config.get("_name_or_path") or "unnamed"))
        self.latent_shape = self._shape()
        self.size = self.latent_shape[2] * pipeline.vae_scale_factor
        self.timesteps, self.snr_weights = schedule.timesteps, schedule.weights
        self.noised, self.target = schedule.noised, schedule.target

    @classmethod
    def knows(cls, pipeline: Pipeline) -> bool:
        """Tell whether ``pipeline`` has a U-Net of the classic kind."""
        return isinstance(plain(getattr(pipeline, "unet", None)), UNet2DConditionModel)

    @staticmethod
    def _misfits(pipeline: Pipeline) -> list[str]:
        """Name what could only fail later, in the middle of a search."""
        config = plain(pipeline.unet).config
        fitting = {
            "in_channels": (pipeline.vae.config.latent_channels,),
            "class_embed_type": (None, "timestep"),
            "addition_embed_type": (None, "text_time"),
            "encoder_hid_dim_type": (None, "ip_image_proj"),
        }
        return [f"{n} {config[n]!r}" for n in fitting if config[n] not in fitting[n]]

    def _shape(self) -> tuple[int, int, int]:
        """Give the shape of one picture's latents."""
        config = self.module.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (config.in_channels, height, width)

    def names(self, scope: str = "both") -> tuple[str, ...]:
        """Name the key and value projections; see :func:`projections`."""
        return tuple(projections(self.module, scope))

    def weights(self, scope: str = "both") -> dict[str, Tensor]:
        """Give the live weights of the projections, detached (writing changes the model)."""
        live = projections(self.module, scope)
        return {name: self.module.get_parameter(at).data for name, at in live.items()}

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "n 3 h w"]) -> Latents:
        """Encode pictures in [0, 1] as scaled latents in float32, one picture at a time."""
        vae = self.pipeline.vae
        with ExitStack() as stack:
            if vae.config.get("force_upcast") and vae.dtype == torch.float16:  # it overflows
                stack.callback(vae.to, vae.dtype)
                vae.to(torch.float32)
            found = [_mean(vae, picture) for picture in pixels.mul(2).sub(1).split(1)]
        return torch.cat(found).to(home_of(self.module))

    def embedded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode prompts as arguments of the network, batch first; gradients flow to the encoders.

        XL adds ``text_embeds`` and ``time_ids`` (full size, no crop).
        """
        home, unique = home_of(self.module), list(dict.fromkeys(prompts))
        where = torch.tensor([unique.index(prompt) for prompt in prompts], device=home)
        return {name: each.to(home)[where] for name, each in self._encoded(unique).items()}

    condition = torch.no_grad()(embedded)  # as a search asks

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        """Encode prompts, each as it comes."""
        if self.module.config.encoder_hid_dim_type is not None:
            raise ModelError(
                "found an IP-Adapter in the pipeline; expected prompts to be the only condition; "
                "call pipeline.unload_ip_adapter() for the search, then load it again"
            )
        encoded = self.pipeline.encode_prompt(
            prompts,
            device=home_of(self.pipeline.text_encoder),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        found = {"encoder_hidden_states": encoded[0]}
        if self.module.config.addition_embed_type == "text_time":
            sides = [self.size, self.size]
            found["text_embeds"] = encoded[2]
            found["time_ids"] = torch.tensor([[*sides, 0, 0, *sides]]).repeat(len(prompts), 1)
        return found

    def predict(
        self,
        weights: Mapping[str, Tensor],
        noised: Latents,
        timesteps: Times,
        condition: Condition,
    ) -> Latents:
        """Predict with ``weights`` in the place of the module's own, which stays untouched.

        Gradients flow to ``weights`` only, also under gradient checkpointing. The result is in
        float32.
        """
        module, live = self.module, projections(self.module, "both")
        if hasattr(module, "_hf_hook"):  # offloaded: it has to be there before its weights change
            module._hf_hook.pre_forward(module)
        home = home_of(module)
        parameters = {name: value.detach() for name, value in module.named_parameters()}
        for name, value in weights.items():
            parameters[live[name]] = value.to(parameters[live[name]])
        added = {name: value.to(home, module.dtype) for name, value in condition.items()}
        options = self._arguments(noised.to(home, module.dtype), timesteps.to(home), added)
        options = {**options, "return_dict": False}
        with _recomputing(module, parameters):
            predicted = functional_call(module, parameters, (), options)[0]
        return self._latents(predicted)[:, : noised.shape[1]].float()  # no predicted variance

    def _arguments(self, noised: Latents, timesteps: Times, added: dict[str, Tensor]) -> Arguments:
        """Say how the network is called."""
        states = added.pop("encoder_hidden_states")
        found = {"sample": noised, "timestep": timesteps, "encoder_hidden_states": states}
        return {**found, "added_cond_kwargs": added or None}

    def _latents(self, predicted: Tensor) -> Latents:
        """Bring what the network says into the shape of latents."""
        return predicted

    @contextmanager
    def without_encoders(self) -> Iterator[None]:
        """Move the VAE and the text encoders to the CPU while the context is open."""
        parts = [self.pipeline.vae, *(encoder for _, encoder in encoders(self.pipeline).values())]
        with ExitStack() as stack:
            for part in parts:
                if not hasattr(part, "_hf_hook"):
                    stack.callback(part.to, part.device)
                    part.to("cpu")
            yield


def precision_of(model: Model, asked: str) -> str:
    """Say what ``auto`` means: bfloat16 on a CPU that has it, else the ``pipeline``'s own."""
    if asked != "auto":
        return asked
    first, offloaded = next(model.module.parameters()), hasattr(model.module, "_hf_hook")
    plain = first.device.type == "cpu" and first.dtype == torch.float32 and not offloaded
    return "bfloat16" if plain and torch.cpu._is_avx512_bf16_supported() else "pipeline"


@contextmanager
def computing(model: Model, precision: str) -> Iterator[None]:
    """Let the network multiply in bfloat16 meanwhile, or as the ``pipeline`` does.

    Weights, gradients and sums stay as they are: this is autocast. On a CPU that has it a search
    takes 18 % less time, on the same machine to the same bits.
    """
    if precision != "bfloat16":
        yield
        return
    device = home_of(model.module).type
    small = device == "cpu" and math.prod(model.latent_shape[1:]) <= _SMALL
    attention = sdpa_kernel(SDPBackend.MATH) if small else nullcontext()
    with attention, torch.autocast(device, torch.bfloat16, cache_enabled=False):
        yield


def plain(network: Part) -> Part:
    """Take off the wrapper of ``torch.compile``."""
    return getattr(network, "_orig_mod", network)


def _name(path: str) -> str:
    path = path.replace("\\", "/").rstrip("/")
    if path.endswith("cones/models/builtin/weights"):
        return builtin.NAME
    if cached := _SNAPSHOT.search(path):
        return "/".join(cached.groups())
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or ":" in path
    return path.rsplit("/", 1)[-1] if looks_local else path


def home_of(part: Part) -> torch.device:
    """Say where a part runs, which under offloading is not where it lies."""
    home = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
    return part.device if home is None else torch.device(home)


@contextmanager
def _recomputing(module: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Let gradient checkpointing recompute with ``parameters``, not with the module's own."""
    names = {id(part): f"{name}." for name, part in module.named_modules()}

    def checkpointed(part: nn.Module, *inputs: object) -> object:
        start = names[id(part)]
        own = {n.removeprefix(start): p for n, p in parameters.items() if n.startswith(start)}
        return checkpoint(functional_call, part, own, inputs, use_reentrant=False)

    all_parts: list[Part] = list(module.modules())
    parts = [part for part in all_parts if getattr(part, "gradient_checkpointing", False)]
    with ExitStack() as stack:
        for part in parts:
            stack.callback(setattr, part, _RECOMPUTE, getattr(part, _RECOMPUTE))
            setattr(part, _RECOMPUTE, checkpointed)
        yield


def _mean(vae: Part, picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 c y x"]:
    """Encode one picture in [-1, 1], scaled as the U-Net was trained on it."""
    encoded, config = vae.encode(picture.to(home_of(vae), vae.dtype)), vae.config
    posterior = getattr(encoded, "latent_dist", None)
    latents = (encoded[0] if posterior is None else posterior.mode()).float()
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, deviation = (
            torch.tensor(config[name]).view(1, -1, 1, 1).to(latents)
            for name in ("latents_mean", "latents_std")
        )
        latents = (latents - mean) / deviation
    scale = config.get("scaling_factor")
    return (latents - (config.get("shift_factor") or 0.0)) * (1.0 if scale is None else scale)
