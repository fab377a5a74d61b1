"""DreamBooth, Textual Inversion, Custom Diffusion, LoRA and SHiRA: what each of them trains.

All else is shared (:mod:`learning`). Deviations from the originals: every one sees the same
prompts, flips and noise in batches of 8, timesteps are stratified, and the identifier starts
where Cones' does. Custom Diffusion shows no photos at random sizes; Textual Inversion keeps the
noun in its prompt. Rates come from a grid over tuning subjects, stored in ``rates.json``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cones.models.words import spoken
from experiments.lab import Lab
from experiments.methods.adapters import MaskFn, adapted, hooked, state_of
from experiments.methods.fits import Task
from experiments.methods.learning import Lesson, start_held, train, trainable
from experiments.methods.learnt import Tuned

RATES_FILE = Path(__file__).parent.parent / "rates.json"
_FOUND: Mapping[str, Any] = json.loads(RATES_FILE.read_text("utf-8"))
RATES: Mapping[str, float] = _FOUND["rates"]
MEASURED: Mapping[str, Any] = _FOUND["measured"]  # rivals whose rate comes from the grid
TARGETS = {"lora": ["to_q", "to_k", "to_v", "to_out.0"], "shira": ["to_k", "to_v"]}
TRAINED: dict[str, dict[str, Any]] = {
    "dreambooth": {"budget": 480, "weights": "all"},
    "textual-inversion": {"budget": 480, "words": True, "prior": False},
    "custom-diffusion": {"budget": 240, "weights": "cross", "words": True},
    "lora": {"budget": 480, "adapter": "lora", "rank": 4},
    "shira": {"budget": 480, "adapter": "shira", "rank": 2},
}
SCORING = 32  # gradients behind SHiRA's choice of positions; the same for every budget


@dataclass(frozen=True)
class Rival:
    """A method that trains: weights, the identifier's vectors, an adapter."""

    name: str
    budget: int
    rate: float
    weights: str = "none"  # of the network: all, cross or none
    words: bool = False  # the identifier's vectors
    prior: bool = True  # preserve it
    adapter: str | None = None  # lora or shira
    rank: int = 4  # of a LoRA; a SHiRA trains as many values as a LoRA of its rank

    def fit(self, lab: Lab, task: Task) -> Tuned:
        """Train; the pipeline is afterwards as before, bit for bit."""
        steps, whole = lab.effort.budget(self.budget), TRAINED[self.name]["budget"]
        lesson = Lesson.of(lab, task, prior=self.prior)
        scoring = min(SCORING, lab.effort.budget(whole) // 4) if self.adapter == "shira" else 0
        mask = snip(lab, lesson, scoring) if scoring else None
        words = {
            word: {name: row.clone().requires_grad_(self.words) for name, row in rows.items()}
            for word, rows in lesson.words.items()
        }

        def loss_of(step: int) -> list[Tensor]:
            with lab.computing(), spoken(lab.pipeline, words if self.words else {}):
                return lesson.at(step, anew=self.words)

        names = self._names(lesson)
        with self._open(lesson, names, mask, task.seed) as (leaves, tuner):
            if self.words:
                leaves |= {f"{w}/{e}": row for w, rows in words.items() for e, row in rows.items()}
            losses = train(
                leaves,
                loss_of,
                steps=max(0, steps - scoring),
                rate=self.rate,
                stage=self.name,
                state=task.state,
                going_on=task.going_on and self.budget < whole,
                progress=lab.progress,
            )
            return Tuned(
                {w: {e: r.detach().cpu() for e, r in rows.items()} for w, rows in words.items()},
                lesson.phrases,
                steps,
                {name: leaves[name].detach().cpu().clone() for name in names},
                state_of(tuner) if tuner else {},
                self.config,
                losses,
            )

    @contextmanager
    def _open(
        self, lesson: Lesson, names: tuple[str, ...], mask: MaskFn | None, seed: int
    ) -> Iterator[tuple[dict[str, Tensor], nn.Module | None]]:
        """Let gradients reach the network's leaves; give these, and peft's view of an adapter."""
        module = lesson.live.module
        with ExitStack() as stack:
            if self.adapter:
                tuner = stack.enter_context(adapted(module, self.config, mask=mask, seed=seed))
                yield {n: p for n, p in tuner.named_parameters() if p.requires_grad}, tuner
                return
            leaves = stack.enter_context(trainable(module, names))
            if self.weights == "cross":
                stack.enter_context(hooked(module, dict.fromkeys(names, start_held)))
            yield {**leaves}, None

    @property
    def config(self) -> dict[str, object]:
        """Give the adapter's configuration; empty without one."""
        if self.adapter is None:
            return {}
        return {"kind": self.adapter, "r": self.rank, "targets": TARGETS[self.adapter]}

    def _names(self, lesson: Lesson) -> tuple[str, ...]:
        if self.weights == "all":
            return tuple(name for name, _ in lesson.live.module.named_parameters())
        return lesson.live.names("cross") if self.weights == "cross" else ()


def rival(name: str, **settings: Any) -> Rival:  # noqa: ANN401 - fields of Rival
    """Give a rival of TRAINED with its own settings, or others."""
    return Rival(name, **{"rate": RATES[name], **TRAINED[name], **settings})


def snip(lab: Lab, lesson: Lesson, steps: int) -> MaskFn:
    """Choose the weights of a layer with the largest ``|theta * dL/dtheta|`` (SHiRA-SNIP)."""
    live = lab.model.weights()
    names = tuple(live)
    total = {name: torch.zeros_like(weight) for name, weight in live.items()}
    with trainable(lesson.live.module, names) as parameters, spoken(lab.pipeline, lesson.words):
        for step in range(steps):
            with torch.enable_grad():
                with lab.computing():
                    loss = torch.stack(lesson.at(step, purpose="search-score")).sum()
                found = torch.autograd.grad(loss, list(parameters.values()))
            for name, gradient in zip(names, found, strict=True):
                total[name] += gradient
    scores = {live[n].data_ptr(): (live[n] * each).abs().cpu() for n, each in total.items()}

    def mask(layer: nn.Linear, r: int, **_: object) -> Tensor:
        score = scores[layer.weight.data_ptr()]
        chosen = score.flatten().topk(r * sum(score.shape)).indices
        return torch.zeros(score.numel()).scatter(0, chosen, 1.0).view_as(score).to(layer.weight)

    return mask
