"""Fetch the openly licensed packages by their ordinary clients, npm and apt.

Versions and digests are pinned, so that the same pictures come out on every machine. Nothing of
a package is run: archives are only unpacked.
"""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cones.errors import SubjectError


@dataclass(frozen=True)
class Package:
    """One package: its client (``npm`` or ``apt``), name, version, archive and its SHA-256."""

    client: str
    name: str
    version: str
    archive: str
    digest: str


def _icons(name: str, version: str, digest: str) -> Package:
    archive = f"iconify-json-{name}-{version}.tgz"
    return Package("npm", f"@iconify-json/{name}", version, archive, digest)


PACKAGES: Mapping[str, Package] = {
    "furniture": Package(
        "apt",
        "sweethome3d-furniture",
        "1.8-1",
        "sweethome3d-furniture_1.8-1_all.deb",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
    ),
    "panoramas": Package(
        "npm",
        "@pmndrs/assets",
        "1.7.0",
        "pmndrs-assets-1.7.0.tgz",
        "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    ),
    "fluent3d": Package(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "noto": _icons(
        "noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"
    ),
    "noto-v1": _icons(
        "noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
    ),
    "twemoji": _icons(
        "twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "emojione": _icons(
        "emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
    ),
    "fxemoji": _icons(
        "fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
}


def fetch(
    package: Package,
    folder: Path,
    *,
    run: Callable[[Sequence[str], Path], None] | None = None,
) -> Path:
    """Download and unpack a package, unless that is done, and give the folder of its files.

    Args:
        package: Which.
        folder: Keeps archives and what is unpacked.
        run: Runs a client's command in a folder; replaced by tests.

    Raises:
        SubjectError: The client is missing or fails, or the archive is not the pinned one.
    """
    unpacked = folder / package.archive.rsplit(".", 1)[0]
    if unpacked.is_dir():
        return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / package.archive
    run = run or _run
    if not archive.is_file():
        commands = {
            "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            "apt": ["apt-get", "download", f"{package.name}={package.version}"],
        }
        run(commands[package.client], folder)
    _require(archive, package)
    unfinished = unpacked.with_name(f".{unpacked.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    if package.client == "apt":
        run(["dpkg-deb", "-x", archive.name, unfinished.name], folder)
    else:
        with tarfile.open(archive) as opened:
            opened.extractall(unfinished, filter="data")
    unfinished.rename(unpacked)
    return unpacked


def _require(archive: Path, package: Package) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest() if archive.is_file() else "no file"
    if found != package.digest:
        raise SubjectError(
            f"found {found[:16]} at {archive}; expected {package.name} {package.version} with "
            f"SHA-256 {package.digest[:16]}...; delete it and run again"
        )


def _run(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise SubjectError(
            f"found no {command[0]}; expected it to run `{' '.join(command)}`; install it, or put "
            f"the archive into {folder}"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SubjectError(
            f"`{' '.join(command)}` failed: {done.stderr.strip()[-300:]}; expected an archive in "
            f"{folder}; check the network, or put it there yourself"
        )
