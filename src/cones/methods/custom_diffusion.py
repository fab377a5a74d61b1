"""Custom Diffusion: train the cross-attention's key and value projections and the identifier.

Source: Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion" (2023), Sec. 3 and
its appendix; defaults of Cones, Appendix B.3. Two details decide whether it works: no gradient
passes through the keys and values of the start token, and photos are shown at random sizes with
words that say so, the loss counting where they lie. Deviations: the sizes are drawn once, for a
pool of pictures, because latents are encoded once; timesteps are stratified over the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from cones.backbones import Backbone, backbone_for
from cones.backbones.spoken import spoken
from cones.find import Notify
from cones.methods.files import require, size_of, write
from cones.methods.loop import Task, descend, joint_loss, leaves_of, said
from cones.methods.textual_inversion import Words
from cones.methods.tuned import Tuned
from cones.objective import Examples, ImplantingLoss, JointLoss

FILE = "pytorch_custom_diffusion_weights.safetensors"  # diffusers' name
SMALLER = 2 / 3  # share of pictures that are shrunk; the others are enlarged
SMALL_BELOW = 0.6  # of the side: what is smaller is said to be far away
FAR, NEAR = ("far away", "very small"), ("zoomed in", "close up")


@dataclass(frozen=True, eq=False)
class CrossAttention(Tuned):
    """Key and value projections and words, stored as diffusers stores them."""

    def save(self, folder: Path) -> int:
        """Write the weights under diffusers' names and the words beside them; give the bytes.

        For ``unet.load_attn_procs(folder, weight_name=FILE, _pipeline=pipeline)``, which wants an
        empty entry for every self-attention layer and does nothing without ``_pipeline``.
        """
        renamed = {_stored(name): value for name, value in self.weights.items()}
        renamed |= {
            name.partition(".attn2.")[0] + ".attn1.processor": torch.zeros(0)
            for name in self.weights
        }
        write(folder / FILE, renamed, {"identifiers": list(self.identifiers)})
        Words(self.identifiers, words=self.words).save(folder)
        return size_of(folder)

    @classmethod
    def load(cls, folder: Path) -> "CrossAttention":
        """Read what :meth:`save` wrote."""
        path = require(folder / FILE)
        weights = {_live(n): value for n, value in load_file(path.file).items() if len(value)}
        return cls(tuple(path.settings["identifiers"]), weights, Words.load(folder).words)


def _stored(name: str) -> str:
    return name.replace(".attn2.to_", ".attn2.processor.to_").replace(
        ".weight", "_custom_diffusion.weight"
    )


def _live(name: str) -> str:
    return name.replace(".processor.", ".").replace("_custom_diffusion", "")


@contextmanager
def start_token_held(backbone: Backbone) -> Iterator[None]:
    """Let no gradient through the keys and values of the first token until the block ends."""

    def held(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)

    with ExitStack() as stack:
        for name in backbone.sites("cross"):
            layer = backbone.module.get_submodule(name.removesuffix(".weight"))
            stack.callback(layer.register_forward_hook(held).remove)
        yield


def resized(
    pixels: Float[Tensor, "3 s s"], share: float, draw: torch.Generator, *, grid: int
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "1 g g"]]:
    """Show a picture at another size.

    Args:
        pixels: RGB in [0, 1].
        share: Of the side: below 1 it is pasted somewhere on mid-grey, above 1 it is cropped.
        draw: Where.
        grid: Side of the latents.

    Returns:
        The picture, and where the loss counts: the pasted part without the cells on its edge.
    """
    side = pixels.shape[-1]
    new = max(round(side * share), side // grid * 3)
    scaled = F.interpolate(
        pixels[None], size=(new, new), mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)
    room = abs(side - new)
    top, left = (int(torch.randint(room + 1, (), generator=draw)) for _ in range(2))
    if new >= side:
        return scaled[:, top : top + side, left : left + side], torch.ones(1, grid, grid)
    page = torch.full_like(pixels, 0.5)
    page[:, top : top + new, left : left + new] = scaled
    cell = side / grid
    mask = torch.zeros(1, grid, grid)
    rows = slice(int(top / cell) + 1, max(int((top + new) / cell) - 1, int(top / cell) + 2))
    columns = slice(int(left / cell) + 1, max(int((left + new) / cell) - 1, int(left / cell) + 2))
    mask[:, rows, columns] = 1
    return page, mask


@dataclass(frozen=True)
class CustomDiffusion:
    """The method and its settings.

    Attributes:
        steps: Updates.
        rate: Learning rate.
        batch: Photos in an update, and as many prior pictures.
        pool: Pictures at random sizes made of the photos of a subject.
        sizes: False shows them at their own size: of a small model, to which a thing at another
            size is another thing, the loss of the photos falls only then.
    """

    steps: int = 600
    rate: float = 4e-5
    batch: int = 4
    pool: int = 64
    sizes: bool = True

    def fit(
        self,
        pipeline: Any,
        tasks: Sequence[Task],
        *,
        seed: int = 0,
        on_progress: Notify | None = None,
    ) -> CrossAttention:
        """Learn the subjects together; the pipeline's weights are not changed."""
        backbone = backbone_for(pipeline)
        losses = joint_loss(pipeline, tasks, batch=self.batch).losses
        shown = [
            self._pool(backbone, task, loss, seed)
            for task, loss in zip(tasks, losses, strict=True)
        ]
        names = backbone.sites("cross")
        live = backbone.weights("cross")
        leaves = leaves_of({name: live[name] for name in names})
        words: dict[str, Mapping[str, Tensor]] = {
            task.subject.identifier: {
                kind: row[:1].float().clone().requires_grad_()
                for kind, row in backbone.register(task.subject.identifier).items()
            }
            for task in tasks
        }

        def loss_of(step: int) -> Tensor:
            with spoken(pipeline, words), start_token_held(backbone):
                joint = JointLoss(tuple(said(loss, backbone, texts) for loss, texts in shown))
                return joint.at(step, seed=seed)(leaves)

        rows = [row for each in words.values() for row in each.values()]
        descend(
            [*leaves.values(), *rows],
            loss_of,
            steps=self.steps,
            rate=self.rate,
            label="custom diffusion",
            notify=on_progress,
        )
        return CrossAttention(
            tuple(words),
            {name: leaf.detach() for name, leaf in leaves.items()},
            {word: {k: row.detach() for k, row in each.items()} for word, each in words.items()},
        )

    def _pool(
        self, backbone: Backbone, task: Task, loss: ImplantingLoss, seed: int
    ) -> tuple[ImplantingLoss, list[str]]:
        """Show the photos at random sizes, mirrored half of the time, with words that say so."""
        draw = torch.Generator().manual_seed(seed)
        images, masks, prompts = [], [], []
        for number in range(self.pool):
            photo = task.subject.images[number % len(task.subject.images)]
            if torch.rand((), generator=draw) < 0.5:
                photo = photo.flip(-1)
            smaller = bool(torch.rand((), generator=draw) < SMALLER)
            low, high = (1 / 3, 1.0) if smaller else (1.2, 1.4)
            share = low + (high - low) * float(torch.rand((), generator=draw))
            share = share if self.sizes else 1.0
            which = int(torch.randint(2, (), generator=draw))
            prefix = FAR[which] if share < SMALL_BELOW else NEAR[which] if share > 1 else ""
            image, mask = resized(photo, share, draw, grid=backbone.latent_shape[-1])
            images.append(image)
            masks.append(mask)
            thing = f"{task.subject.identifier} {task.subject.noun}"
            prompts.append(f"a {prefix} {thing}" if prefix else task.subject.prompt)
        latents = backbone.latents(torch.stack(images))
        pool = Examples(latents, backbone.condition(prompts), torch.stack(masks).to(latents))
        return replace(loss, subject=pool), prompts
