"""What the search benchmarks have in common: subjects on disk, and one search as one cell."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cones.backbones import backbone_for
from cones.base_check import BaseCheck
from cones.bench.ledger import Ledger, digest
from cones.concept import Concept
from cones.concept_file import load, save
from cones.errors import SubjectError
from cones.find import Settings, Step
from cones.subject import Subject

Notify = Callable[[Step], object]
Finder = Callable[..., Concept]
IDENTIFIER = "V*"


@dataclass(frozen=True)
class Photos:
    """A subject's folder: its name, its noun, where it is, and the word that will mean it."""

    name: str
    noun: str
    folder: Path
    identifier: str = IDENTIFIER

    def subject(self, size: int) -> Subject:
        """Read the photos."""
        return Subject.from_folder(
            self.folder, noun=self.noun, identifier=self.identifier, size=size
        )

    @cached_property
    def digest(self) -> str:
        """Name the folder's content."""
        found = hashlib.sha256(self.noun.encode())
        for file in sorted(self.folder.iterdir()):
            if file.is_file():
                found.update(file.name.encode() + file.read_bytes())
        return found.hexdigest()[:16]


def subject_folders(root: Path | str, names: Sequence[str] | None = None) -> list[Photos]:
    """List the folders of ``root`` that hold a ``subject.json`` with a noun.

    Args:
        root: Holds the folders.
        names: Of the folders to use; None uses all.

    Raises:
        SubjectError: There is none, one names no noun, or a name is not among them.
    """
    root, found = Path(root), []
    for file in sorted(root.glob("*/subject.json")):
        try:
            noun = json.loads(file.read_text("utf-8"))["noun"]
        except (ValueError, KeyError, TypeError) as error:
            raise SubjectError(
                f"{file.parent.name}/subject.json names no noun ({type(error).__name__}); "
                'expected {"noun": "cat"}; add it'
            ) from error
        found.append(Photos(file.parent.name, str(noun), file.parent))
    if not found:
        raise SubjectError(
            f"found no subjects in {str(root)!r}; expected folders with photos and a "
            "subject.json; pass for example examples/photos"
        )
    unknown = set(names or ()) - {photos.name for photos in found}
    if unknown:
        raise SubjectError(
            f"found no subject {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(photos.name for photos in found)}; choose among these"
        )
    return [photos for photos in found if not names or photos.name in names]


def settings_shown(settings: Settings, *left_out: str) -> dict[str, Any]:
    """Give the settings that all cells have in common."""
    return {name: value for name, value in asdict(settings).items() if name not in left_out}


def _base(pipeline: Any) -> BaseCheck:
    backbone = backbone_for(pipeline)
    return BaseCheck.of(backbone.weights("both"), backbone.model_id)


def model_key(pipeline: Any) -> str:
    """Name the model by its searched weights."""
    base = _base(pipeline)
    return f"{base.layout} {base.weights}"


def model_shown(pipeline: Any) -> str:
    """Name the model for people, with the beginning of the hash of its searched weights."""
    base = _base(pipeline)
    return f"{base.model} {base.weights.rpartition(':')[2][:12]}"


def cell_key(kind: str, model: str, photos: Photos, settings: Settings) -> dict[str, Any]:
    """Gather all that a cell's figures depend on."""
    key = {
        "kind": kind,
        "model": model,
        "subject": photos.name,
        "photos": photos.digest,
        "settings": asdict(settings),
    }
    return key if photos.identifier == IDENTIFIER else key | {"identifier": photos.identifier}


def measured(
    kind: str,
    pipeline: Any,
    cells: Sequence[tuple[Photos, Settings]],
    measure: Callable[[Photos, Settings], Mapping[str, Any]],
    work: Path,
    on_progress: Notify | None = None,
    more: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Give the row of every cell, measuring only those that ``work`` does not remember.

    Args:
        kind: Of the benchmark; names its ledger in ``work``.
        pipeline: The model, whose weights are part of every cell's key.
        cells: A subject and its settings each.
        measure: Gives the row of a cell.
        work: Keeps the rows.
        on_progress: Called before every cell.
        more: What the figures depend on beyond model, photos and settings.
    """
    notify = on_progress or (lambda step: None)
    ledger, model = Ledger(work / f"{kind}.jsonl"), model_key(pipeline)
    rows = []
    for number, (photos, asked) in enumerate(cells, 1):
        notify(Step(kind, number, len(cells)))
        key = {**cell_key(kind, model, photos, asked), **(more or {})}
        rows.append(ledger.get(key, lambda p=photos, s=asked: measure(p, s)))
    return rows


def searched(
    pipeline: Any, photos: Photos, settings: Settings, *, work: Path, finder: Finder
) -> Concept:
    """Search one subject, or read the concept that ``work`` keeps of the same search.

    The search itself is resumed too when it was interrupted; its state is deleted at its end.
    """
    key = cell_key("concept", model_key(pipeline), photos, settings)
    kept = work / "concepts" / f"{photos.name}-{digest(key)}.cones.safetensors"
    if not kept.exists():
        subject = photos.subject(backbone_for(pipeline).resolution)
        state = work / "state" / f"{photos.name}-{settings.rule}-{settings.seed}"
        concept = finder(
            pipeline, subject, settings=settings, cache_dir=work / "prior", state_dir=state
        )
        kept.parent.mkdir(parents=True, exist_ok=True)
        save(concept, kept)
        shutil.rmtree(state, ignore_errors=True)
    return load(kept)


def search_cell(
    pipeline: Any, photos: Photos, settings: Settings, *, work: Path, finder: Finder
) -> tuple[dict[str, Any], Concept]:
    """Search one subject and give its row: the certificate's figures and the time it took."""
    concept = searched(pipeline, photos, settings, work=work, finder=finder)
    certificate: Mapping[str, Any] = concept.certificate
    row = {
        "subject": photos.name,
        "noun": photos.noun,
        "rule": settings.rule,
        "seed": settings.seed,
        "density": concept.mask.density,
        "neurons": len(concept.mask),
        "seconds": {"find": certificate.get("seconds")},
        **{side: dict(certificate[side]) for side in ("untouched", "shut", "random")},
    }
    return row, concept
