"""Command: python -m pretraining.world render | compose | sheet | photo."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from pretraining.world.looks import draw_look, photograph
from pretraining.world.production import Count, compose_pictures, render_looks, write_photos
from pretraining.world.scenes import compose
from pretraining.world.stores import LookStore

app = typer.Typer(help="The clay world: render looks, compose pictures.", no_args_is_help=True)
app.command("render")(render_looks)
app.command("compose")(compose_pictures)
app.command("photo")(write_photos)


@app.command()
def sheet(
    output: Annotated[Path, typer.Option(help="The PNG to write.")],
    looks: Annotated[Path | None, typer.Option(help="Looks to compose; none: looks.")] = None,
    count: Count = 64,
    start: int = 0,
    seed: int = 0,
    columns: int = 8,
    held_out: bool = False,
) -> None:
    """Write a contact sheet of composed pictures, or of looks if no folder of looks is given."""
    store, numbers = looks and LookStore.open(looks), range(start, start + count)
    if store:
        tiles = [compose(n, store, seed=seed, held_out=held_out).pixels for n in numbers]
    else:
        tiles = [_tile(number, seed) for number in numbers]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k : k + columns], 1) for k in range(0, len(tiles), columns)]
    Image.fromarray(np.concatenate(rows)).save(output)


def _tile(number: int, seed: int) -> np.ndarray:
    """Show one look on grey."""
    view = photograph(draw_look(number, seed=seed), np.random.default_rng((seed, 1, number)))
    tile, sprite = Image.new("RGB", (112, 112), (128, 150, 136)), Image.fromarray(view.rgba)
    tile.paste(sprite, ((112 - sprite.width) // 2, 108 - sprite.height), sprite)
    return np.asarray(tile)


if __name__ == "__main__":
    app()
