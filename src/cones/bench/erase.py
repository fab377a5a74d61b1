"""Can a noun be erased by shutting the weights whose closing raises its loss, and what else goes?

Every noun and seed is searched twice at one density: with nothing but the noun's loss negated, and
with the loss of the other nouns added to keep them. The model draws all pictures that are searched
on; half of them are held out. Losses and pictures of the noun and of the others are then compared
with the untouched model and with random masks of as many neurons in every layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cones.backbones import backbone_for
from cones.bench.cells import Notify, model_key, model_shown, settings_shown
from cones.bench.interval import interval
from cones.bench.ledger import Ledger
from cones.bench.search import PROMPTS
from cones.certificate import closed
from cones.erasing import erase
from cones.errors import SearchError
from cones.find import DENSITY, Settings, Step, drawn_prior
from cones.generate import sample
from cones.intervention import shut
from cones.mask import ConceptMask
from cones.objective import Examples, ImplantingLoss, examples
from cones.record import machine
from cones.subject import pixels_of

NOUNS = ("barrel", "guitar", "sunglasses", "woman")
HOWS = ("erase", "keep")
UNTOUCHED = "untouched"
Namer = Callable[[Float[Tensor, "n 3 h w"]], list[str]]


@dataclass(frozen=True)
class Erasing:
    """What is measured of every noun and seed.

    Attributes:
        densities: Besides that of the settings: sparser masks of the same search.
        samples: Held-out samples of each noun's loss.
        prompts: For the pictures, with ``{}`` in the place of the noun.
        others: Pictures of each other noun; of the noun itself, one a prompt.
        steps: Sampling steps of a picture.
    """

    densities: tuple[float, ...] = (0.001,)
    samples: int = 32
    prompts: tuple[str, ...] = PROMPTS
    others: int = 1
    steps: int = 15


@dataclass(frozen=True)
class _Lab:
    """The model, the pictures of every noun (half searched, half held out), and who names them."""

    pipeline: Any
    settings: Settings
    plan: Erasing
    pictures: Mapping[str, Float[Tensor, "n 3 h w"]]
    namers: Mapping[str, Namer]

    def pairs(self, nouns: Sequence[str], *, held_out: bool) -> Examples:
        """Encode half of the pictures of some nouns."""
        half = {n: part[1::2] if held_out else part[::2] for n, part in self.pictures.items()}
        said = [f"a {noun}" for noun in nouns for _ in half[noun]]
        pixels = torch.cat([half[noun] for noun in nouns])
        return examples(backbone_for(self.pipeline), pixels, said, flip=self.settings.flip)

    def cell(self, noun: str, seed: int) -> dict[str, Any]:
        """Search one noun and measure every side."""
        asked = replace(self.settings, seed=seed)
        others = [each for each in self.pictures if each != noun]
        sides = []
        for how in HOWS:
            kept = self.pairs(others, held_out=False) if how == "keep" else None
            levels = erase(self.pipeline, self.pairs([noun], held_out=False), asked, kept=kept)
            for density in (*self.plan.densities, asked.density):
                mask = min(levels, key=lambda level: abs(level.density - density))
                draw = torch.Generator().manual_seed(seed)
                for random, each in ((False, mask), (True, mask.random_like(draw))):
                    side = {"how": how, "density": density, "random": random}
                    sides.append(side | {"neurons": len(each)} | self.side(noun, each, seed))
        nobody = ConceptMask.empty(levels[0].shapes)
        side = {"how": UNTOUCHED, "density": 0.0, "random": False, "neurons": 0}
        return {
            "noun": noun,
            "seed": seed,
            "sides": [side | self.side(noun, nobody, seed), *sides],
        }

    @cached_property
    def losses(self) -> dict[str, ImplantingLoss]:
        """Give the loss of every noun on the pictures that no search uses."""
        backbone = backbone_for(self.pipeline)
        return {
            noun: ImplantingLoss(backbone, self.pairs([noun], held_out=True))
            for noun in self.pictures
        }

    def side(self, noun: str, mask: ConceptMask, seed: int) -> dict[str, Any]:
        """Measure the noun and, averaged, the others: loss, and share of pictures named right."""
        weights = closed(backbone_for(self.pipeline).weights(self.settings.scope), mask)
        found = {"loss": {}, **self.named(noun, mask, seed)}
        for each, loss in self.losses.items():
            parts = loss.parts(weights, samples=self.plan.samples, seed=seed)
            found["loss"][each] = float(parts.subject.mean())
        others = [each for each in self.pictures if each != noun]
        return {
            "own": {name: by_noun[noun] for name, by_noun in found.items()},
            "others": {
                name: sum(by_noun[each] for each in others) / len(others)
                for name, by_noun in found.items()
            },
        }

    def named(self, noun: str, mask: ConceptMask, seed: int) -> dict[str, dict[str, float]]:
        """Draw with the mask shut and count, by namer and noun, the pictures named right."""
        counts = {
            each: len(self.plan.prompts) if each == noun else self.plan.others
            for each in self.pictures
        }
        wanted = [each for each, count in counts.items() for _ in range(count)]
        said = [
            self.plan.prompts[k % len(self.plan.prompts)].format(each)
            for each, count in counts.items()
            for k in range(count)
        ]
        seeds = [1000 * seed + k for count in counts.values() for k in range(count)]
        with shut(self.pipeline.unet, mask):
            images = sample(self.pipeline, said, seeds=seeds, steps=self.plan.steps)
        pixels = pixels_of([image.convert("RGB") for image in images])
        found = {}
        for name, namer in self.namers.items():
            right = [said == each for said, each in zip(namer(pixels), wanted, strict=True)]
            found[name] = {
                each: sum(r for r, w in zip(right, wanted, strict=True) if w == each) / count
                for each, count in counts.items()
            }
        return found


def erase_figures(
    pipeline: Any,
    *,
    work: Path | str,
    namers: Mapping[str, Namer],
    nouns: Sequence[str] = NOUNS,
    seeds: Sequence[int] = (0, 1),
    settings: Settings | None = None,
    plan: Erasing | None = None,
    notes: Mapping[str, Any] | None = None,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Search every noun with every seed in both ways and measure all sides.

    Args:
        pipeline: Text-to-image pipeline.
        work: Keeps finished cells and the pictures that are searched on.
        namers: By name, who says which noun each picture shows.
        nouns: At least two, which the model knows.
        seeds: Of searches, samples, random masks and pictures.
        settings: How to search; its seed is that of the pictures searched on.
        plan: What is measured.
        notes: What the namers depend on; kept with the figures.
        on_progress: Called before every cell.

    Returns:
        Settings, plan, model, machine, a row per noun and seed with its sides, and the summary of
        :func:`erase_summary`.

    Raises:
        SearchError: There are fewer than two nouns.
    """
    if len(set(nouns)) < 2:
        raise SearchError(f"found nouns {', '.join(nouns)}; expected two or more; name others")
    work, notify, plan = Path(work), on_progress or (lambda step: None), plan or Erasing()
    settings = settings or Settings()
    settings = replace(settings, density=settings.density or DENSITY)
    pictures = {n: drawn_prior(pipeline, n, settings, work / "prior", notify) for n in nouns}
    lab = _Lab(pipeline, settings, plan, pictures, namers)
    ledger, rows = Ledger(work / "erase.jsonl"), []
    common = {"kind": "erase", "model": model_key(pipeline), "nouns": list(nouns)}
    common |= {"settings": asdict(settings), "plan": asdict(plan), "notes": dict(notes or {})}
    cells = [(noun, seed) for seed in seeds for noun in nouns]
    for number, (noun, seed) in enumerate(cells, 1):
        notify(Step("erase", number, len(cells)))
        key = {**common, "namers": sorted(namers), "noun": noun, "seed": seed}
        rows.append(ledger.get(key, lambda n=noun, s=seed: lab.cell(n, s)))
    return {
        "settings": settings_shown(settings),
        "plan": asdict(plan),
        "notes": dict(notes or {}),
        "nouns": list(nouns),
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": erase_summary(rows),
        "rows": rows,
    }


def erase_summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average every side over nouns and seeds.

    Returns:
        A row for each ``how``, ``density`` and ``random``: ``own`` and ``others``, figure -> mean
        with its interval over nouns; ``change``, the same figures less those of the untouched
        model, as ``own``, ``others`` and ``own_minus_others``.
    """
    found = []
    for k, side in enumerate(rows[0]["sides"]):
        figures = list(side["own"])
        entry = {key: side[key] for key in ("how", "density", "random")}
        for who in ("own", "others"):
            entry[who] = {
                name: _over_nouns(rows, lambda row, k=k, w=who, n=name: row["sides"][k][w][n])
                for name in figures
            }
        entry["change"] = {
            who: {
                name: _over_nouns(rows, lambda row, k=k, w=who, n=name: _change(row, k, w, n))
                for name in figures
            }
            for who in ("own", "others", "own_minus_others")
        }
        found.append(entry)
    return found


def _change(row: Mapping[str, Any], k: int, who: str, name: str) -> float:
    """Subtract the untouched model, the first side."""
    if who == "own_minus_others":
        return _change(row, k, "own", name) - _change(row, k, "others", name)
    return row["sides"][k][who][name] - row["sides"][0][who][name]


def _over_nouns(
    rows: Sequence[Mapping[str, Any]], figure: Callable[[Mapping], float]
) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["noun"], []).append(figure(row))
    return interval(values)
