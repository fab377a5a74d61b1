"""``cones attend`` and ``cones bench attention``: where words look, before and after (Fig. 2)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import bench, comparing, options, pictures, places, screen

Words = Annotated[
    list[str] | None,
    typer.Option("--word", help="Word or words of the prompt; repeat. All words if left out."),
]
Moments = Annotated[
    list[int] | None, typer.Option("--at", help="Record this step only, from 0; repeat.")
]
Layers = Annotated[
    list[str] | None, typer.Option("--layer", help="Only layers whose name holds this; repeat.")
]
Heads = Annotated[list[int] | None, typer.Option("--head", help="Only this head; repeat.")]
Corpus = Annotated[Path, typer.Option(help="Folder of the sprite corpus, with its subjects.")]
Images = Annotated[int, typer.Option(min=1, max=64, help="Pictures of every subject.")]
Docs = Annotated[
    Path | None,
    typer.Option(help="Folder whose results/attention.json, attention.md and .png are written."),
]


@screen.guarded
def attend(
    prompt: options.Prompt,
    concept: options.Concepts,
    output: options.File,
    word: Words = None,
    model: options.Model = None,
    at: Moments = None,
    layer: Layers = None,
    head: Heads = None,
    steps: options.Steps = 50,
    guidance: options.Guidance = 7.5,
    density: options.Density = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Draw for every word where it looks, untouched and with the concept neurons shut.

    One sheet: the picture, then for each word the picture lit by the word's attention, averaged
    over heads, layers and steps. Both rows start from the same noise.

    **Example:**  cones attend -c cat.safetensors "a V* cat in the snow" --word cat -o cat.png
    """
    places.require_file(output, overwrite=overwrite)
    concepts = pictures.load_concepts(concept, density)
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=True)
    pictures.warn_of_fine_tunes(pipeline, concepts)
    drawing = {"seed": seed, "steps": steps, "guidance": guidance, "recorded": at or None}
    with screen.bars() as notify:
        seen = _seen(pipeline, concepts, prompt, drawing, notify)
    words = word or _words(prompt)
    rows = [_maps(pipeline, one, prompt, words, layer, head) for one in seen]
    settings = {"prompt": prompt, **drawing, "words": words, "model": model or "built-in"}
    _write(output, seen, rows, {**settings, "layers": layer, "heads": head})
    if as_json:
        shown = [{w: m.tolist() for w, m in row.items()} for row in rows]
        screen.emit({"sheet": str(output), "untouched": shown[0], "shut": shown[1]})
    else:
        screen.tell(f"look at {output}")


def _seen(pipeline: Any, concepts: Any, prompt: str, drawing: Any, notify: Any) -> Any:
    from cones.attention import before_and_after

    return before_and_after(
        pipeline,
        concepts,
        prompt,
        **drawing,
        on_progress=lambda done, count: notify("pictures", done, count, None),
    )


def _words(prompt: str) -> list[str]:
    return list(dict.fromkeys(prompt.split()))


def _maps(
    pipeline: Any,
    seen: Any,
    prompt: str,
    words: list[str],
    layers: list[str] | None,
    heads: list[int] | None,
) -> dict[str, Any]:
    """Map every word over the layers whose names hold one of ``layers``."""
    from cones.attention import token_positions

    named = seen.recording.layers
    chosen = [name for name in named if any(part in name for part in layers)] if layers else None
    found = {}
    for word in words:
        tokens = token_positions(pipeline.tokenizer, prompt, word)
        found[word] = seen.recording.map(tokens, layers=chosen, heads=heads)[0]
    return found


def _write(output: Path, seen: Any, rows: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    from cones.plot import Row, overlay, picture_sheet, save_picture

    labels = ("untouched model", "concept neurons shut")
    lines = []
    for label, one, maps in zip(labels, seen, rows, strict=True):
        picture = one.images[0]
        lit = [overlay(picture, found.tolist()) for found in maps.values()]
        lines.append(Row(label, [picture, *lit], ["the picture", *maps]))
    save_picture(picture_sheet(lines, title=settings["prompt"]), output, settings)


@screen.guarded
def measure(
    corpus: Corpus,
    photos: bench.Photos = bench.EXAMPLES,
    subject: bench.Subjects = None,
    seeds: bench.Seeds = (0,),
    images: Images = 20,
    work: bench.Work = bench.WORK,
    docs: Docs = None,
    model: options.Model = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Share of a word's attention on the subject's true mask, before and after (Fig. 2).

    Pictures with known masks are composed from a sprite corpus, the one that the built-in model
    was trained with. Uses the searches of **bench search** again where seeds and settings agree.

    **Example:**  cones bench attention --corpus corpus --subject siamese_cat --subject old_jar
    """
    from cones.bench import attention_page as page
    from cones.bench.attention import Looks, attention_figures

    job = comparing.Job(
        "attention", attention_figures, photos, subject, seeds, work, docs, more or []
    )
    comparing.compare(
        job,
        (model, device, dtype),
        {"corpus": lambda: corpus, "looks": lambda: Looks(images)},
        as_json=as_json,
        pages=comparing.Pages(lambda found, docs: page.record(found, docs, corpus), page.markdown),
    )
