"""Compose photos of other things of every noun, to tell a subject from its like.

A picture of a cat is easily taken for *the* cat when no other cat is there to choose. This writes
one folder per look of the corpus (photo-like ones), in the layout of subjects, for
``cones evaluate --looks``.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from cones.mini.arrange import stand
from cones.mini.data import HELD_OUT, Corpus
from cones.mini.world import NOUNS
from cones.record import appearing, write_json

SEED = 11


def compose(corpus: Corpus, out: Path, *, photos: int = 5, most: int = 40) -> int:
    """Write the looks of every noun and give their number.

    Args:
        corpus: Composes.
        out: Gets a folder for each look.
        photos: Pictures of a look.
        most: Looks of a noun.
    """
    count = 0
    for noun in NOUNS:
        looks = corpus.sprites[noun].get(False, {})
        for number, views in enumerate(list(looks.values())[:most]):
            rng = np.random.default_rng((SEED, HELD_OUT, count))
            folder = out / f"{noun.replace(' ', '_')}-{number:02d}"
            for k in range(photos):
                background = corpus.background(rng)
                canvas = background.image.copy()
                stand(canvas, [views[rng.integers(len(views))]], background, rng)
                with appearing(folder / f"{k:02d}.png") as file:
                    Image.fromarray(np.asarray(canvas)).save(file, format="PNG")
            write_json(folder / "subject.json", {"noun": noun, "look": views[0].thing.name})
            count += 1
    return count


def main() -> None:
    """Parse the command line and compose."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="sprite corpus folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the looks")
    options = parser.parse_args()
    compose(Corpus(options.corpus), options.out)


if __name__ == "__main__":
    main()
