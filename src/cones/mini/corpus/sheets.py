"""Contact sheets of a corpus: to be looked at before anything is trained on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cones.mini.corpus.parts import Parts
from cones.record import appearing

CELL, COLUMNS, MOST = 98, 16, 192
GROUND = (225, 225, 225)


def contact_sheet(
    parts: Parts, rows: Sequence[dict[str, Any]], file: Path, *, seed: int = 0, most: int = MOST
) -> int:
    """Lay out pictures on grey, at most ``most`` of them drawn from a seed; give how many."""
    drawn = np.random.default_rng(seed).permutation(len(rows))[:most]
    lines = -(-len(drawn) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, lines * CELL), GROUND)
    for place, number in enumerate(sorted(drawn.tolist())):
        picture = parts.picture(rows[number]["file"]).convert("RGBA")
        picture.thumbnail((CELL - 2, CELL - 2))
        sheet.paste(picture, (place % COLUMNS * CELL, place // COLUMNS * CELL), picture)
    with appearing(file) as unfinished:
        sheet.save(unfinished, format="PNG")
    return len(drawn)
