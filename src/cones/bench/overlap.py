"""Are concept neurons disentangled? What separate searches share, beside what chance explains.

The paper reports that two subjects share 2.42 % of their neurons, and that searching both at once
agrees with joining two searches in 53.27 % (Sec. 3.3, Fig. 4, one layer, one pair). A share means
nothing by itself: here it stands beside random masks of the same density in every layer, beside
chance that keeps each mask's neurons per row or per size of weight, and beside the same subject
searched again with another seed, which is as much as a search agrees with itself.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cones.backbones import backbone_for
from cones.bench.cells import (
    Finder,
    Notify,
    Photos,
    model_key,
    model_shown,
    searched,
    settings_shown,
    subject_folders,
)
from cones.bench.interval import interval
from cones.bench.ledger import digest
from cones.concept_file import load, save
from cones.errors import SearchError, SubjectError
from cones.find import DENSITY, Settings, Step, find
from cones.mask import ConceptMask
from cones.record import machine
from cones.stats import overlap, overlap_within
from cones.together import find_together

SIZES = 10  # groups of weights by absolute value, in every layer
JOINT = ("ring", "all", "none")
CHANCES = ("expected", "within_rows", "within_sizes", "random")
Groups = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Lab:
    """What every search of the benchmark needs."""

    pipeline: Any
    work: Path
    settings: Settings
    finder: Finder
    together: Finder

    def alone(self, photos: Photos, seed: int) -> ConceptMask:
        """Search one subject, or read what was found before."""
        asked = replace(self.settings, seed=seed)
        found = searched(self.pipeline, photos, asked, work=self.work, finder=self.finder)
        return found.mask

    def joint(self, pair: Sequence[Photos], seed: int, density: float) -> ConceptMask:
        """Search two subjects at once from scratch, or read what was found before."""
        asked = replace(self.settings, seed=seed, density=density)
        key = {
            "kind": "joint",
            "model": model_key(self.pipeline),
            "subjects": [[photos.identifier, photos.digest] for photos in pair],
            "settings": asdict(asked),
        }
        name = "+".join(photos.name for photos in pair)
        kept = self.work / "concepts" / f"{name}-{digest(key)}.cones.safetensors"
        if not kept.exists():
            state = self.work / "state" / f"{name}-{seed}"
            size = backbone_for(self.pipeline).resolution
            concept = self.together(
                self.pipeline,
                [photos.subject(size) for photos in pair],
                settings=asked,
                cache_dir=self.work / "prior",
                state_dir=state,
            )
            kept.parent.mkdir(parents=True, exist_ok=True)
            save(concept, kept)
            shutil.rmtree(state, ignore_errors=True)
        return load(kept).mask


def overlap_figures(
    pipeline: Any,
    folder: Path | str,
    *,
    work: Path | str,
    subjects: Sequence[str] | None = None,
    seeds: Sequence[int] = (0, 1),
    settings: Settings | None = None,
    joint: str = "ring",
    finder: Finder = find,
    together: Finder = find_together,
    on_progress: Notify | None = None,
) -> dict[str, Any]:
    """Measure what separate searches share, and what a joint search shares with their union.

    Every subject has a word of its own, V1*, V2*, ..., in the order of the folders, and searches
    of one subject, alone or jointly, mean it by the same word.

    Args:
        pipeline: Text-to-image pipeline.
        folder: Holds subject folders, each with photos and ``subject.json``.
        work: Keeps finished concepts.
        subjects: Names of the folders to use, at least two; None uses all.
        seeds: Of the searches; with one, nothing is said of a search against itself.
        settings: How to search; the density is that of the paper if None. A joint search has the
            density of the union that it is compared with.
        joint: Which pairs are searched jointly: ``ring``, every subject with the next; ``all`` or
            ``none``.
        finder: Does the search of one; :func:`cones.find.find`.
        together: Does the search of two; :func:`cones.together.find_together`.
        on_progress: Called before every search.

    Returns:
        Settings, seeds, words, model, machine, ``rows``, one for each comparison, and the
        summary of :func:`overlap_summary`.

    Raises:
        SubjectError: There is only one subject.
        SearchError: ``joint`` is none of the three.
    """
    if joint not in JOINT:
        raise SearchError(f"found joint {joint!r}; expected one of {', '.join(JOINT)}; choose one")
    chosen = [
        replace(photos, identifier=f"V{k}*")
        for k, photos in enumerate(subject_folders(folder, subjects), 1)
    ]
    if len(chosen) < 2:
        raise SubjectError("found one subject, expected at least two to compare; name more")
    settings = settings or Settings()
    settings = replace(settings, density=settings.density or DENSITY)
    lab = _Lab(pipeline, Path(work), settings, finder, together)
    pairs = [tuple(pair) for pair in combinations(chosen, 2)]
    jointly = _jointly(chosen, pairs, joint)
    notify = _counted(on_progress, len(seeds) * (len(chosen) + len(jointly)))
    alone = {(p, seed): notify(lab.alone, p, seed) for seed in seeds for p in chosen}
    unions = {(pair, s): alone[pair[0], s] | alone[pair[1], s] for pair in jointly for s in seeds}
    both = {
        (pair, seed): notify(lab.joint, pair, seed, union.density)
        for (pair, seed), union in unions.items()
    }
    measure = partial(compared, groups=groups(backbone_for(pipeline).weights(settings.scope)))
    rows = []
    for pair, seed in ((pair, seed) for pair in pairs for seed in seeds):
        found = measure(alone[pair[0], seed], alone[pair[1], seed])
        rows.append({"what": "subjects", "of": _named(pair), "seeds": [seed], **found})
    for (pair, seed), union in unions.items():
        found = measure(union, both[pair, seed])
        rows.append({"what": "joint", "of": _named(pair), "seeds": [seed], **found})
    for what, masks in (("again", alone), ("union_again", unions), ("joint_again", both)):
        for who in dict.fromkeys(key[0] for key in masks):
            for two in combinations(seeds, 2):
                found = measure(*(masks[who, seed] for seed in two))
                rows.append({"what": what, "of": _named(who), "seeds": list(two), **found})
    return {
        "settings": settings_shown(settings, "seed"),
        "words": {photos.name: photos.identifier for photos in chosen},
        "seeds": list(seeds),
        "model": model_shown(pipeline),
        "machine": machine(),
        "summary": overlap_summary(rows),
        "rows": rows,
    }


def _jointly(
    chosen: Sequence[Photos], pairs: Sequence[tuple[Photos, ...]], joint: str
) -> list[tuple[Photos, ...]]:
    """Choose the pairs that are searched jointly, each in the order of the subjects."""
    if joint == "ring":
        around = zip(chosen, [*chosen[1:], chosen[0]], strict=True)
        near = {frozenset(photos.name for photos in two) for two in around}
        return [pair for pair in pairs if frozenset(photos.name for photos in pair) in near]
    return list(pairs) if joint == "all" else []


def _counted(on_progress: Notify | None, count: int) -> Callable[..., Any]:
    """Give a function that calls another and says how many searches have begun."""
    begun = 0

    def call(search: Callable[..., Any], *asked: Any) -> Any:
        nonlocal begun
        begun += 1
        if on_progress:
            on_progress(Step("overlap", begun, count))
        return search(*asked)

    return call


def _named(who: Photos | Sequence[Photos]) -> str:
    return who.name if isinstance(who, Photos) else " + ".join(photos.name for photos in who)


def groups(weights: Mapping[str, Tensor]) -> dict[str, Groups]:
    """Number the weights of every layer by row, and by size (tenths by absolute value)."""
    rows, sizes = {}, {}
    for name, weight in weights.items():
        flat = weight.detach().float().cpu().reshape(-1)
        ranks = flat.abs().argsort(stable=True).argsort()
        sizes[name] = ranks * SIZES // max(len(flat), 1)
        rows[name] = torch.arange(len(flat)) // max(flat.numel() // max(len(weight), 1), 1)
    return {"within_rows": rows, "within_sizes": sizes}


def compared(a: ConceptMask, b: ConceptMask, *, groups: Mapping[str, Groups]) -> dict[str, Any]:
    """Compare two masks with chance.

    Returns:
        What :func:`cones.stats.overlap` says; ``share``, the shared part of the first mask; and
        the Jaccard index by chance: ``chance`` -> ``expected`` (same number in every layer),
        ``within_rows`` and ``within_sizes`` (same number in every row of a layer, or among its
        weights of like size), and ``random``, of two masks drawn as ``expected`` says.
    """
    found = overlap(a, b)
    draw = torch.Generator().manual_seed(0)
    counts = {name: overlap_within(a, b, of)["expected"] for name, of in groups.items()}
    counts["expected"] = found["expected"]
    counts["random"] = len(a.random_like(draw) & b.random_like(draw))
    both = found["first"] + found["second"]
    return {
        **found,
        "share": found["shared"] / max(found["first"], 1),
        "chance": {name: counts[name] / max(both - counts[name], 1) for name in CHANCES},
    }


def overlap_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average every kind of comparison, with intervals over subjects or pairs and their seeds.

    Pairs have subjects in common, so intervals over pairs are somewhat too narrow.

    Returns:
        By kind of comparison: ``jaccard``, ``share`` and the four of ``chance``.
    """
    found: dict[str, Any] = {}
    for what in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == what]
        found[what] = {
            "jaccard": _averaged(mine, lambda row: row["jaccard"]),
            "share": _averaged(mine, lambda row: row["share"]),
            **{name: _averaged(mine, lambda row, n=name: row["chance"][n]) for name in CHANCES},
        }
    return found


def _averaged(
    rows: Sequence[Mapping[str, Any]], figure: Callable[[Mapping], float]
) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["of"], []).append(figure(row))
    return interval(values)
