"""The options of all commands, so that one word means one thing everywhere."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Photos: TypeAlias = Annotated[
    list[Path], typer.Argument(help="A folder with 1-20 photos of one subject, or the files.")
]
Prompt: TypeAlias = Annotated[str, typer.Argument(help='What to draw: "a V* cat on a beach".')]
Noun: TypeAlias = Annotated[
    str, typer.Option(help="What the subject is, in a word the model knows: cat.")
]
Identifier: TypeAlias = Annotated[str, typer.Option(help="The new word that will mean it.")]
File: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="File to write; refused if it exists.")
]
Folder: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write to; made if it is not there.")
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Diffusers folder or Hub name; left out: the small built-in model."),
]
Concepts: TypeAlias = Annotated[
    list[Path], typer.Option("--concept", "-c", help="Concept file; repeat to join several.")
]
Excite: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="Word that must be seen (Attend-and-Excite); repeat for every subject."),
]
Density: TypeAlias = Annotated[
    float | None, typer.Option(help="Use the stored level nearest below this density.")
]
Target: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Share of the K/V weights to shut; left out: found by a line search."),
]
Rule: TypeAlias = Annotated[
    str | None,
    typer.Option(help="sum, site-sum, consistency, adam, rounds or refine; refine if left out."),
]
Scope: TypeAlias = Annotated[
    str | None, typer.Option(help="Attention to search: both, cross or self; both if left out.")
]
Gradients: TypeAlias = Annotated[
    int | None, typer.Option("--steps", min=1, help="Gradients of the scoring search (K).")
]
Prior: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Folder of other pictures of the noun; left out: the model draws them."),
]
Set: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other field of cones.find.Settings: --set rate=2e-3."),
]
Number: TypeAlias = Annotated[
    int, typer.Option("--num", "-n", min=1, help="Number of pictures (demo: of each scene).")
]
Steps: TypeAlias = Annotated[int, typer.Option(min=1, help="Sampling steps of DPM-Solver.")]
Guidance: TypeAlias = Annotated[float, typer.Option(help="Scale of classifier-free guidance.")]
Strength: TypeAlias = Annotated[
    float, typer.Option(min=0, max=1, help="1 shuts the neurons, less only shrinks them.")
]
Image: TypeAlias = Annotated[
    Path | None, typer.Option(help="Draw over this photo; its centre square is kept.")
]
Inpaint: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Mask as large as --image: white is drawn anew, black stays."),
]
Amount: TypeAlias = Annotated[
    float, typer.Option("--amount", help="How far --image is drawn over: above 0, up to 1.")
]
Negative: TypeAlias = Annotated[str | None, typer.Option(help="What to stay away from.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Same seed, same result.")]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help="cuda, mps or cpu; left out: the best there is.")
]
Dtype: TypeAlias = Annotated[
    str | None, typer.Option(help="float32, float16 or bfloat16; left out: what suits.")
]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
