"""A style on disk: a few drawings to search on, and drawings of other things kept for measuring.

``style/00.png`` ..., ``style/subject.json`` with the noun and what the drawings show, and
``style/held_out/teddy_bear.png``, named by what it shows. A held-out drawing is never fitted.
"""

import hashlib
import json
from pathlib import Path

import torch

from cones.bench.cells import Photos, subject_folders
from cones.bench.style_scores import References
from cones.errors import SubjectError
from cones.subject import read_images

HELD_OUT = "held_out"
SIDE = 64  # at which drawings are compared


def held_out_of(style: Photos, photos: Path | str) -> dict[str, Path]:
    """List the held-out drawings of a style by what they show.

    Args:
        style: The style's folder.
        photos: Subject folders that must have photos of each of them.

    Raises:
        SubjectError: There are fewer than two, one shows a thing that a fitted drawing shows, is
            such a drawing, or has no photos.
    """
    found = {
        file.stem.replace("_", " "): file
        for file in sorted((style.folder / HELD_OUT).glob("*.png"))
    }
    if len(found) < 2:
        raise SubjectError(
            f"found {len(found)} drawings in {style.name}/{HELD_OUT}; expected two or more, of "
            "things that the style's other drawings do not show; put them there"
        )
    told = json.loads((style.folder / "subject.json").read_text("utf-8"))
    fitted = read_images(style.folder, size=SIDE)
    for noun, file in found.items():
        same = bool((fitted == read_images(file, size=SIDE)).flatten(1).all(1).any())
        if same or noun in told.get("shows", ()):
            raise SubjectError(
                f"found {noun!r} both held out and among the drawings of {style.name}; expected "
                "things that these do not show; remove it from one of them"
            )
    known = {each.noun for each in subject_folders(photos)}
    if set(found) - known:
        raise SubjectError(
            f"found no photos of {', '.join(sorted(set(found) - known))}; expected subject "
            "folders with all nouns held out; pass them with --photos or remove these drawings"
        )
    return found


def references_of(style: Photos, photos: Path | str, side: int) -> References:
    """Read what pictures of a style are compared with, ``side`` pixels wide."""
    files, folders = held_out_of(style, photos), subject_folders(photos)
    return References(
        {noun: read_images(file, size=side)[0] for noun, file in files.items()},
        read_images(style.folder, size=side),
        {
            noun: torch.cat(
                [read_images(each.folder, size=side) for each in folders if each.noun == noun]
            )
            for noun in files
        },
    )


def digest_of(style: Photos) -> str:
    """Name the held-out drawings by their content."""
    found = hashlib.sha256()
    for file in sorted((style.folder / HELD_OUT).glob("*.png")):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()[:16]
