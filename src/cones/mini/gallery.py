"""Pictures for the model card: ``python -m cones.mini.gallery --corpus DIR --out docs``.

What the built-in model was trained on, with the captions as it read them, and how the losses of
its stages fell.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from cones.mini import weights_path
from cones.mini.data import Corpus
from cones.mini.pack import EVERY, LOGS
from cones.plot import Row, curves_picture, picture_sheet, save_picture

COLUMNS = 10


def training_sheet(corpus: Corpus, count: int, seed: int) -> Image.Image:
    """Show the first training pictures with their captions."""
    pairs = [corpus.picture(number, seed) for number in range(count)]
    rows = []
    for start in range(0, count, COLUMNS):
        part = pairs[start : start + COLUMNS]
        images = [Image.fromarray(image) for image, _ in part]
        rows.append(Row(f"{start} to {start + len(part) - 1}", images, [said for _, said in part]))
    return picture_sheet(rows, side=96, title=f"training pictures of seed {seed}")


def main() -> None:
    """Parse the command line and write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="sprite corpus folder")
    parser.add_argument("--model", type=Path, default=None, help="default: the built-in model")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    page = training_sheet(Corpus(options.corpus), options.count, seed=0)
    save_picture(page, options.out / "model_pictures.png", {"seed": 0, "count": options.count})
    logs = json.loads(((options.model or weights_path()) / LOGS).read_text())
    losses = {stage: log["losses"] for stage, log in logs.items()}
    curves_picture(losses, options.out / "model_losses.png", every=EVERY)


if __name__ == "__main__":
    main()
