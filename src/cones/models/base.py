"""What the rest of the library may ask of a diffusion model: one class, a subclass for a family.

The network is never wrapped or copied. Predictions call it with the searched weights put in the
place of its own, so nothing has to be undone after a search; all else is held constant.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from cones.errors import ModelError
from cones.models import builtin
from cones.models.noise import FlowSchedule, Schedule
from cones.models.projections import projections
from cones.models.types import Arguments, Condition, Latents, Part, Pipeline, Times
from cones.models.types import Progress as Progress  # all names are had from here
from cones.models.words import encoders

_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler", "encode_prompt")
_SNAPSHOT = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+$")
_RECOMPUTE = "_gradient_checkpointing_func"  # diffusers' name


class Model:
    """One diffusers pipeline as functions of its K/V weights.

    A family says which pipelines it knows, how prompts are encoded and how the network is called;
    what it leaves out is that of a transformer taught by flow matching. The network is set to
    evaluation mode. A ModelError says what a pipeline lacks, before that.

    Attributes:
        pipeline: All parts.
        module: The network whose weights are searched.
        name: Of the model on the hub, or its folder's last part.
        size: Side of the model's pictures, in pixels.
        latent_shape: Channels, height and width of one picture's latents.
    """

    network: ClassVar[str] = "transformer"  # as pipelines of this kind call it
    kinds: ClassVar[tuple[str, ...]] = ()  # names of the pipelines
    schedules: ClassVar[type[Schedule]] = FlowSchedule  # how they were trained
    expected: ClassVar[str] = "a whole pipeline of its family; load it with all its parts"

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
        """Tell whether ``pipeline`` draws with this network, from text or over a picture."""
        whole = getattr(pipeline, "transformer", None) is not None
        return whole and type(pipeline).__name__ in cls.kinds

    @staticmethod
    def _misfits(pipeline: Pipeline) -> list[str]:
        """Name what could only fail later, in the middle of a search."""
        return []

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

    def _prompts(self, prompts: list[str]) -> tuple[Part, ...]:
        """Let the pipeline encode prompts with the settings that it draws with."""
        encode = self.pipeline.encode_prompt
        known = inspect.signature(encode).parameters
        drawing = inspect.signature(type(self.pipeline).__call__).parameters
        given: dict[str, Part] = {"prompt": prompts, "device": home_of(self.pipeline.text_encoder)}
        given |= {f"prompt_{k}": None for k in (2, 3)} | {"do_classifier_free_guidance": False}
        given["num_images_per_prompt"] = 1
        names = ("max_sequence_length", "complex_human_instruction")
        given |= {name: drawing[name].default for name in names if name in drawing}
        return encode(**{name: value for name, value in given.items() if name in known})

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        """Encode prompts, each as it comes."""
        states, mask, *_ = self._prompts(prompts)
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

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
        parameters = self._held()
        for name, value in weights.items():
            parameters[live[name]] = value.to(parameters[live[name]])
        added = {name: value.to(home, module.dtype) for name, value in condition.items()}
        options = self._arguments(noised.to(home, module.dtype), timesteps.to(home), added)
        with _recomputing(module, parameters):
            found = functional_call(module, parameters, (), {**options, "return_dict": False})[0]
        return self._latents(found)[:, : noised.shape[1]].float()  # no predicted variance

    def _held(self) -> dict[str, Tensor]:  # where no others are told
        return {name: value.detach() for name, value in self.module.named_parameters()}

    def _arguments(self, noised: Latents, timesteps: Times, added: dict[str, Tensor]) -> Arguments:
        """Say how the network is called."""
        return {"hidden_states": noised, "timestep": self._told(timesteps), **added}

    def _told(self, timesteps: Times) -> Tensor:
        """Give timesteps as the network was taught them: 1,000 times the share of noise."""
        schedule = self.schedule
        if isinstance(schedule, FlowSchedule):
            return schedule.sigmas(timesteps) * schedule.steps
        return timesteps

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
