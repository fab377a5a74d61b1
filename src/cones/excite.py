"""Attend-and-Excite: let no subject of a prompt be passed over (App. C.5).

Source: Chefer et al., "Attend-and-Excite" (2023), Secs. 3 and 4. During the first half of sampling
the latents are moved so that every chosen word holds the attention of some place in the picture.
It changes no weight and works with concept neurons shut. Deviations: the latents of the very first
step are left as drawn, and where the network has no attention at a quarter of the latents' side
(16 x 16 at 512 pixels), that at the finest side is used.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cones.attention import attention, token_positions
from cones.errors import SearchError

SHARPNESS = 100.0  # of the softmax over words, as in the authors' code
BLUR = 0.5  # standard deviation of the 3 x 3 Gaussian, in places


@dataclass(frozen=True)
class Excite:
    """A step callback for diffusers pipelines: ``callback_on_step_end=Excite.of(...)``.

    Attributes:
        tokens: Positions of the words that must be seen.
        last: Position after the last word of the prompt.
        scale: Of a move of the latents; 20 in the paper.
        until: Share of the steps that are accompanied.
        targets: Share of the steps -> attention that every word must have by then, for which up
            to ``most`` moves are made.
        most: Moves at such a step.
    """

    tokens: tuple[int, ...]
    last: int
    scale: float = 20.0
    until: float = 0.5
    targets: tuple[tuple[float, float], ...] = ((0.2, 0.5), (0.4, 0.8))
    most: int = 20

    @classmethod
    def of(cls, pipeline: Any, prompt: str, words: Sequence[str], **settings: Any) -> "Excite":
        """Find the words in a prompt; of several words in one string, the last one's place.

        Raises:
            SearchError: A word is not in the prompt, or there is none.
        """
        if not words:
            raise SearchError("found no word to excite; expected one or more; name some")
        said = pipeline.tokenizer(
            prompt, truncation=True, max_length=pipeline.tokenizer.model_max_length
        ).input_ids
        tokens = [token_positions(pipeline.tokenizer, prompt, word)[-1] for word in words]
        return cls(tuple(tokens), len(said) - 1, **settings)

    def __call__(self, pipeline: Any, step: int, time: Any, given: dict[str, Any]) -> dict:
        """Move the latents of the next step; diffusers calls this at the end of every step."""
        times = pipeline.scheduler.timesteps
        following = step + 1
        if following >= round(self.until * len(times)):
            return given
        latents, states = given["latents"], given["prompt_embeds"]
        states = states[-len(latents) :]  # under guidance the second half sees the prompt
        wanted = {round(share * len(times)): target for share, target in self.targets}
        target = wanted.get(following)
        progress = following / max(round(self.until * len(times)), 1)
        for _ in range(1 if target is None else self.most):
            losses, gradient = self._slope(pipeline, latents, times[following], states)
            if target is not None and float(losses.max()) <= 1 - target:
                break
            size = self.scale * (1 - 0.5 * progress) ** 0.5
            latents = latents - size * gradient
        return {**given, "latents": latents}

    def _slope(
        self, pipeline: Any, latents: Tensor, time: Tensor, states: Tensor
    ) -> tuple[Float[Tensor, " images"], Tensor]:
        """Compute the loss of every picture and its gradient for the latents (Eq. 1)."""
        with torch.enable_grad(), attending(pipeline.unet, latents.shape[-1]) as maps:
            moved = latents.detach().clone().requires_grad_()
            scaled = pipeline.scheduler.scale_model_input(moved, time)
            pipeline.unet(scaled, time, encoder_hidden_states=states.detach())
            losses = neglect(torch.stack(maps).mean(0), self.tokens, self.last)
            (gradient,) = torch.autograd.grad(losses.sum(), moved)
        return losses.detach(), gradient.detach()


@contextmanager
def attending(
    module: nn.Module, side: int
) -> Iterator[list[Float[Tensor, "images places words"]]]:
    """Collect the cross-attention of one forward pass, mean over heads, with its gradients.

    Args:
        module: The U-Net.
        side: Of the latents; maps of a quarter of it are kept, or else the finest.

    Yields:
        A list that holds the maps after the pass, one a layer.
    """
    found: list[Tensor] = []
    kept: list[Tensor] = []
    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if name.endswith("attn2"):
                for handle in _hear(layer, found):
                    hooks.callback(handle.remove)
        hooks.callback(found.clear)
        handle = module.register_forward_hook(lambda *_: kept.extend(_chosen(found, side)))
        hooks.callback(handle.remove)
        yield kept


def _hear(layer: nn.Module, found: list[Tensor]) -> list[Any]:
    queries: list[Tensor] = []

    def took_key(_: nn.Module, __: Any, key: Tensor) -> None:
        found.append(attention(queries.pop(), key, layer.heads, layer.scale).mean(1))

    return [
        layer.to_q.register_forward_hook(lambda _, __, query: queries.append(query)),
        layer.to_k.register_forward_hook(took_key),
    ]


def _chosen(found: list[Tensor], side: int) -> list[Tensor]:
    places = [each.shape[1] for each in found]
    wanted = (side // 4) ** 2
    size = wanted if wanted in places else max(places)
    return [each for each in found if each.shape[1] == size]


def neglect(
    found: Float[Tensor, "images places words"], tokens: Sequence[int], last: int
) -> Float[Tensor, " images"]:
    """Compute how much the most neglected word lacks: ``max_s (1 - max A_s)`` (Eq. 1), in [0, 1].

    Args:
        found: Attention, mean over heads and layers.
        tokens: Positions of the words.
        last: Position after the last word; start and end tokens draw most attention and are
            left out.
    """
    side = int(found.shape[1] ** 0.5)
    words = (SHARPNESS * found[..., 1:last]).softmax(-1)
    chosen = words[..., [token - 1 for token in tokens]].unflatten(1, (side, side))
    smooth = _blurred(chosen.permute(0, 3, 1, 2))
    return (1 - smooth.flatten(2).amax(2)).amax(1)


def _blurred(maps: Float[Tensor, "n words y x"]) -> Float[Tensor, "n words y x"]:
    line = torch.exp(-torch.arange(-1, 2, device=maps.device).float().square() / (2 * BLUR**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(maps, (1, 1, 1, 1), mode="reflect")
    count = maps.shape[1]
    return F.conv2d(padded, kernel.expand(count, 1, 3, 3).to(maps), groups=count)
