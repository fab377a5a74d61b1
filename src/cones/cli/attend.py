"""``cones attend``: where the words of a prompt look, before and after shutting (Fig. 2)."""

from dataclasses import asdict
from typing import Annotated

from typer import Option

from cones.cli import options, outputs

Words = Annotated[list[str] | None, Option("--word", help="Word of the prompt; repeat [all].")]
Layers = Annotated[
    list[str] | None, Option("--layer", help="Part of the names of layers; repeat [all].")
]


def attend(
    *,
    prompt: options.Prompt,
    chosen: options.Chosen,
    output: options.File,
    word: Words = None,
    layer: Layers = None,
    loading: options.Loading,
    sampling: options.Sampling,
    seed: options.Seed = 0,
    saving: outputs.Saving,
) -> None:
    """Draw for every word where it looks, untouched and with the concept neurons shut (Fig. 2).

    **Example:**  cones attend -c cat.safetensors "a V* cat in the snow" --word cat -o cat.png
    """
    from cones.analysis.attention import attend
    from cones.analysis.plots import attention_rows
    from cones.drawing import save_png, sheet

    saving.require_file(output)
    concepts, words = chosen.load(prompt), word or list(dict.fromkeys(prompt.split()))
    drawing = {"seed": seed, "layers": layer or [], **asdict(sampling)}
    looks = attend(loading.pipeline(concepts), concepts, prompt, words, **drawing)
    shown = sheet(attention_rows(looks), ["the picture", *words], title=prompt)
    save_png(shown, output, {"prompt": prompt, **drawing})
    saving.tell(f"look at {output}", {"sheet": str(output)})
