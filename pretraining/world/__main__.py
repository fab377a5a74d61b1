"""Command: python -m pretraining.world render | compose | sheet | photo."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from pretraining.world import photos, production
from pretraining.world.looks import SUBJECTS, draw_look, photograph
from pretraining.world.scenes import compose as compose_one
from pretraining.world.stores import LookStore

app = typer.Typer(help="The clay world: render looks, compose pictures.", no_args_is_help=True)
Folder = Annotated[Path, typer.Option(help="Folder of the parts; finished ones are kept.")]
Looks = Annotated[Path, typer.Option(help="Folder that `render` wrote.")]
Count = Annotated[int, typer.Option(min=1, help="How many.")]
Processes = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]


@app.command()
def render(folder: Folder, count: Count = 12_000, seed: int = 0, processes: Processes = 2) -> None:
    """Render random looks, one view each, and ten views of every named individual."""
    production.render_looks(folder, count, seed=seed, processes=processes)


@app.command()
def compose(
    folder: Folder,
    looks: Looks,
    count: Count = 50_000,
    start: int = 0,
    seed: int = 0,
    size: int = 128,
    held_out: Annotated[bool, typer.Option(help="Only what training never shows.")] = False,
    processes: Processes = 2,
) -> None:
    """Compose pictures number START to START + COUNT - 1 with captions and labels."""
    settings = {"start": start, "seed": seed, "size": size, "held_out": held_out}
    production.compose_pictures(folder, looks, count, **settings, processes=processes)


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
        options = {"seed": seed, "held_out": held_out}
        tiles = [compose_one(number, store, **options).pixels for number in numbers]
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


@app.command()
def photo(
    subject: Annotated[str, typer.Option(help="A subject's key, or all.")],
    output: Annotated[Path, typer.Option(help="Folder; each subject gets a folder in it.")],
    views: Annotated[int, typer.Option(min=1, help="Photos in each set.")] = 5,
    seed: int = 0,
) -> None:
    """Photograph a subject in different places: photos, more photos, others of its noun."""
    if subject != "all" and subject not in SUBJECTS:
        raise typer.BadParameter(f"no subject {subject!r}; choose all or {', '.join(SUBJECTS)}")
    for key in SUBJECTS if subject == "all" else (subject,):
        photos.write_subject(output / key, key, views, seed=seed)


if __name__ == "__main__":
    app()
