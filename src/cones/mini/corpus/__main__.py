"""Build a sprite corpus from openly licensed packages: ``python -m cones.mini.corpus DIR``.

Fetches the packages through npm and apt (about 180 MB), draws the emoji, path-traces the 3D models
and our own solids, crops the panoramas, and packs what the training reads. Needs the extra
``corpus``. What is interrupted goes on; the same seed gives the same corpus.
"""

import argparse
import shutil
from pathlib import Path

from rich.progress import track

from cones.errors import ConesError
from cones.mini.corpus.build import Build
from cones.mini.corpus.packages import PACKAGES, fetch
from cones.mini.corpus.parts import Parts, attribution, pack
from cones.mini.corpus.sheets import contact_sheet
from cones.mini.corpus.subjects import write_subjects
from cones.mini.world import NOUNS
from cones.record import write_text

README = """# Sprite corpus

Made by `python -m cones.mini.corpus` from seed {seed}: {sprites:,} cut-out pictures of {nouns}
nouns and {backgrounds} backgrounds, from openly licensed packages. Every creator and licence is in
ATTRIBUTION.csv; no share-alike or GPL art is among them. The split `subject` and the photos under
`subjects/` show {subjects} models that training never sees.

`sprites.jsonl` and `backgrounds.jsonl` have one row per picture: its shard (tar) and file, what it
shows, its source, creator and licence; size in centimetres and view of 3D models; horizon and
ground of backgrounds, in shares of the height. `cones.mini.data.Corpus` reads this folder.
"""


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m cones.mini.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the corpus goes")
    parser.add_argument("--packages", type=Path, help="keeps the packages; default: DIR/.packages")
    parser.add_argument("--seed", type=int, default=0, help="of views, lights and solids")
    parser.add_argument(
        "--noun", action="append", help="only this noun; repeat. All that are known if left out"
    )
    parser.add_argument(
        "--built-in", action="store_true", help="only the nouns of the built-in model"
    )
    options = parser.parse_args()
    chosen = {*(options.noun or ()), *(NOUNS if options.built_in else ())}
    try:
        build(options.folder, options.packages, options.seed, frozenset(chosen))
    except ConesError as error:
        parser.exit(1, f"error: {error}\n")


def build(folder: Path, packages: Path | None, seed: int, nouns: frozenset[str]) -> None:
    """Fetch, make, pack; what was made before is kept in ``.parts`` until all is packed.

    Args:
        folder: The corpus.
        packages: Keeps the packages.
        seed: Of all draws.
        nouns: Only these; none means all that are known.

    Raises:
        ConesError: A package cannot be fetched, or a library is missing.
    """
    kept = packages or folder / ".packages"
    folders = {
        name: fetch(package, kept)
        for name, package in track(PACKAGES.items(), description="packages")
    }
    parts = folder / ".parts"
    sprites, backgrounds = Parts(parts / "sprites"), Parts(parts / "backgrounds")
    made = Build(folders, sprites, backgrounds, seed, nouns)
    for what, jobs in made.stages():
        for job in track(jobs, description=what):
            job()
    rows = pack(sprites, folder, "sprites")
    places = pack(backgrounds, folder, "backgrounds")
    subjects = write_subjects(sprites, backgrounds, folder, seed=seed)
    attribution([*rows, *places], folder / "ATTRIBUTION.csv")
    contact_sheet(backgrounds, places, folder / "sheet_backgrounds.png")
    for split, name in (("train", "sheet_train.png"), ("subject", "sheet_subjects.png")):
        shown = [row for row in rows if row["split"] == split]
        if shown:
            contact_sheet(sprites, shown, folder / name)
    counts = {"sprites": len(rows), "backgrounds": len(places), "subjects": len(subjects)}
    counts["nouns"] = len({row["class"] for row in rows})
    write_text(folder / "README.md", README.format(seed=seed, **counts))
    shutil.rmtree(parts)


if __name__ == "__main__":
    main()
