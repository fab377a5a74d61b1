"""What has to be stored (Table 2), here and for Stable Diffusion 1.4.

For Stable Diffusion 1.4 neurons are drawn at random at the paper's densities: random positions are
the hardest to pack, and the size of a file depends on nothing else.
"""

import pandas as pd
import torch

from cones import Concept, Mask, Word
from cones.concept_file import dumps
from cones.fingerprint import Fingerprint
from cones.search.settings import JOINT_DENSITIES
from experiments.lab import Lab
from experiments.methods import Shut, learn
from experiments.studies.shared import RIVALS, claim
from experiments.study import Case, Options, Results, Row, Study
from experiments.subjects import groups
from experiments.tables import rows_of

OURS = ("cones", "cones-collaborative", "cones-joint")
LARGE = "Stable Diffusion 1.4 (random neurons)"
PAPER = {1: 1.43e6, 2: 3.41e6, 3: 4.96e6, 4: 7.75e6}  # bytes, by number of subjects
PAPER_RIVALS = {"dreambooth": 3.3e9, "custom-diffusion": 72e6}
TEXT = 768  # width of the text states of Stable Diffusion 1.4
BLOCKS = {  # its blocks with attention: width, and how many
    "down_blocks.0": (320, 2),
    "down_blocks.1": (640, 2),
    "down_blocks.2": (1280, 2),
    "mid_block": (1280, 1),
    "up_blocks.1": (1280, 3),
    "up_blocks.2": (640, 3),
    "up_blocks.3": (320, 3),
}


def cases(options: Options) -> list[Case]:
    """Take all groups of every size for each method, and the large model."""
    found = []
    for size in (1, 2) if options.quick else PAPER:
        methods = ("cones", *RIVALS) if size == 1 else OURS
        for group in groups(options.subjects, size):
            case = {"subjects": list(group), "size": size}
            found += [{**case, "method": method} for method in methods]
        found.append({"subjects": [], "size": size, "method": LARGE})
    return found


def measure(case: Case, lab: Lab) -> list[Row]:
    """Read the size of what was learnt."""
    if case["method"] == LARGE:
        return [large(case["size"])]
    found = learn(lab, case["method"], lab.chosen(case["subjects"]))
    density = found.mask.density if isinstance(found, Shut) else None
    return [{"bytes": found.bytes, "density": density}]


def large(size: int) -> Row:
    """Write a file of Stable Diffusion 1.4's shapes for a number of subjects."""
    density, draw = JOINT_DENSITIES[size - 1], torch.Generator().manual_seed(size)
    shapes = large_shapes()
    counts = {name: round(density * w * d) for name, (w, d) in shapes.items()}
    mask = Mask(shapes, {name: torch.arange(count) for name, count in counts.items()})
    words = tuple(
        Word(f"V{k + 1}*", "thing", {"text_encoder": torch.randn(1, TEXT, generator=draw)})
        for k in range(size)
    )
    base = Fingerprint("stable-diffusion-v1-4", "0" * 64, bytes(128))
    concept = Concept((mask.random_like(draw),), words, base)
    return {"bytes": len(dumps(concept)), "density": concept.density}


def large_shapes() -> dict[str, tuple[int, int]]:
    """Give the shapes of all key and value projections of Stable Diffusion 1.4."""
    return {
        f"{block}.attentions.{k}.transformer_blocks.0.{kind}.{part}.weight": (width, inputs)
        for block, (width, count) in BLOCKS.items()
        for k in range(count)
        for kind, inputs in (("attn1", width), ("attn2", TEXT))
        for part in ("to_k", "to_v")
    }


def results(table: pd.DataFrame, options: Options) -> Results:
    """Average by method and number of subjects."""
    rows, claims = [], []
    for size, part in table.groupby("size"):
        for row in rows_of(part, "method", ("bytes", "density"), first="bytes"):
            ours = row["method"] in (*OURS, LARGE)
            own = PAPER[int(size)] if ours else PAPER_RIVALS.get(row["method"])
            rows.append({"size": int(size), **row, "paper": own})
    of = {(row["method"], row["size"]): row["bytes"] for row in rows}
    if (LARGE, 1) in of:
        here = f"A file of ours has {of[LARGE, 1] / 1e6:.2f} MB at the same density."
        paper = "A subject takes 1.43 MB on Stable Diffusion 1.4."
        claims.append(claim(paper, here, of[LARGE, 1] <= PAPER[1]))
    if {("cones", 1), ("custom-diffusion", 1)} <= of.keys():
        share = of["cones", 1] / of["custom-diffusion", 1]
        paper = "Cones stores at most 10 % of what Custom Diffusion does."
        claims.append(claim(paper, f"{share:.1%} on this model.", share <= 0.1))
    return {"rows": rows, "claims": claims}


STUDY = Study("storage", "What has to be stored?", cases, measure, results, judged=False, least=2)
