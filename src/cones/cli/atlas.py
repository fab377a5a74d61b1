"""``cones atlas``: one page that shows where concepts lie and what they share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import files, options, pictures, places, screen

Heads = Annotated[
    int | None,
    typer.Option(min=1, help="Attention heads of every layer; left out: known for common models."),
]
Samples = Annotated[
    list[str] | None,
    typer.Option("--samples", help="Also draw this prompt, with the model; repeat for several."),
]


@screen.guarded
def atlas(
    concept: files.Files,
    output: options.File = Path("atlas.html"),
    samples: Samples = None,
    heads: Heads = None,
    density: options.Density = None,
    model: options.Model = None,
    steps: options.Steps = 50,
    guidance: options.Guidance = 7.5,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Make one web page of concepts: certificates, layers, heads, who holds which, overlaps.

    The page works without a network. With --samples it also shows pictures untouched and shut,
    from the same noise, and where every word looks.

    **Example:**  cones atlas cat.safetensors -o cat.html
    """
    from cones.atlas import Entry, gathered, page
    from cones.record import write_text

    places.require_file(output, overwrite=overwrite)
    concepts = pictures.load_concepts(concept, density)
    entries = [
        Entry(found, path.name, path.stat().st_size)
        for found, path in zip(concepts, concept, strict=True)
    ]
    data = gathered(entries, heads=heads)
    if samples:
        drawing = {"seed": seed, "steps": steps, "guidance": guidance}
        data["samples"] = _drawn(concepts, samples, drawing, (model, device, dtype))
    write_text(output, page(data))
    if as_json:
        screen.emit({"page": str(output), "bytes": output.stat().st_size})
    else:
        screen.tell(f"look at {output} ({output.stat().st_size / 1000:.0f} kB) in a browser")


def _drawn(
    concepts: list[Any],
    prompts: list[str],
    drawing: dict[str, Any],
    machine: tuple[str | None, str | None, str | None],
) -> list[dict[str, Any]]:
    """Check the prompts, load the model and draw."""
    from cones.atlas.samples import drawn, named

    for prompt in prompts:
        named(concepts, prompt)
    model, device, dtype = machine
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=True)
    pictures.warn_of_fine_tunes(pipeline, concepts)
    found = []
    with screen.bars() as notify:
        for number, prompt in enumerate(prompts):
            found.append(
                drawn(
                    pipeline,
                    concepts,
                    prompt,
                    **drawing,
                    on_progress=lambda done, _, n=number: notify(
                        "pictures", 2 * n + done, 2 * len(prompts), None
                    ),
                )
            )
    return found
