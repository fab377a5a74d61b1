"""What the comparisons of ``cones bench`` have in common: check, measure with a bar, keep, show.

A comparison goes over subjects and seeds, remembers every finished cell in a work folder, and ends
as a page of the docs. What is compared is a function of :mod:`cones.bench`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cones.cli import places, screen
from cones.cli import search as find


@dataclass(frozen=True)
class Pages:
    """How the figures of a comparison are kept in a folder of docs, and shown."""

    record: Callable[[Mapping[str, Any], Path], None]
    markdown: Callable[[Mapping[str, Any]], str]


def _pages(part: str) -> Pages:
    """Give those of the search's page, of which a comparison is a part."""
    from cones.bench.tables import markdown, record

    return Pages(
        lambda found, docs: record(part, found, docs), lambda found: markdown({part: found})
    )


@dataclass(frozen=True)
class Job:
    """A comparison over subjects: what is measured, on what, and where it is kept.

    Without ``seeds`` the only seed is that of the search's settings.
    """

    name: str
    measure: Callable[..., dict[str, Any]]
    photos: Path
    subjects: list[str] | None
    seeds: Sequence[int] | None
    work: Path
    docs: Path | None
    more: list[str]


def compare(
    job: Job,
    machine: tuple[str | None, str | None, str | None],
    extra: dict[str, Callable[[], Any]],
    *,
    as_json: bool,
    pages: Pages | None = None,
) -> None:
    """Check, measure with a bar, keep and show."""
    settings = find.settings_of({}, job.more)
    places.require_folder(job.work)
    if job.docs is not None:
        places.require_folder(job.docs)
    given = {name: make() for name, make in extra.items()}
    if job.seeds is not None:
        given["seeds"] = job.seeds
    model, device, dtype = machine
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    hint = f"finished cells are kept in {job.work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        found = job.measure(
            pipeline,
            job.photos,
            work=job.work,
            subjects=job.subjects,
            settings=settings,
            on_progress=lambda s: notify(s.stage, s.step - 1, s.steps, None),
            **given,
        )
    pages = pages or _pages(job.name)
    if job.docs is not None:
        pages.record(found, job.docs)
    if as_json:
        screen.emit(found)
    else:
        screen.tell(pages.markdown(found))


def scorer(model: str | None) -> Any:
    """Give the independent judge, and the built-in model's CLIP where that model draws."""
    from cones.bench.search import Judged
    from cones.encoders import load_clip
    from cones.metrics import load_judge
    from cones.mini import weights_path

    return Judged(load_judge(), load_clip(weights_path() / "clip") if model is None else None)
