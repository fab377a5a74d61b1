"""``cones bench erase``: shut what a noun needs, and see what else goes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cones.cli import bench, evaluate, options, places, screen, search
from cones.errors import ConesError

Nouns = Annotated[
    list[str] | None, typer.Option("--noun", help="Noun to erase; repeat, two at least.")
]
Corpus = Annotated[
    Path | None, typer.Option(help="Sprite corpus, to fit the examiner as a second namer.")
]
Fitted = Annotated[int, typer.Option(min=1, help="Pictures of each kind to fit the examiner on.")]


@screen.guarded
def erase(
    noun: Nouns = None,
    seeds: bench.Seeds = (0, 1),
    corpus: Corpus = None,
    fitted: Fitted = 300,
    work: bench.Work = bench.WORK,
    docs: bench.Docs = None,
    model: options.Model = None,
    clip: evaluate.Clip = None,
    more: options.Set = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Whether shutting the weights a noun needs erases it, and what other nouns lose.

    A CLIP, and with --corpus an independent examiner, say which noun a picture shows.

    **Example:**  cones bench erase --noun barrel --noun guitar --seed 0
    """
    from cones.bench.erase import NOUNS, erase_figures
    from cones.bench.erase_page import markdown, record

    settings = search.settings_of({}, more or [])
    nouns = _known(noun or list(NOUNS))
    for folder in (work, *([docs] if docs is not None else [])):
        places.require_folder(folder)
    namers, notes = _namers(model, clip, corpus, fitted)
    pipeline = places.pipeline(model, device=device, dtype=dtype, half=False)
    hint = f"finished nouns are kept in {work}; the same command goes on from there"
    with screen.resumable(hint), screen.bars() as notify:
        found = erase_figures(
            pipeline,
            work=work,
            namers=namers,
            nouns=nouns,
            seeds=seeds,
            settings=settings,
            notes=notes,
            on_progress=lambda s: notify(s.stage, s.step - 1, s.steps, None),
        )
    if docs is not None:
        record(found, docs)
    if as_json:
        screen.emit(found)
    else:
        screen.tell(markdown(found))


def _known(nouns: list[str]) -> list[str]:
    """Refuse nouns that nobody could name."""
    from cones.mini.world import NOUNS

    unknown = [noun for noun in nouns if noun not in NOUNS]
    if unknown:
        raise ConesError(
            f"found --noun {unknown[0]!r}; expected some of {', '.join(NOUNS)}, which the namers "
            "choose among; choose one of these"
        )
    return nouns


def _namers(
    model: str | None, clip: Path | None, corpus: Path | None, fitted: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Give who names pictures, and what is to be known about them."""
    from cones.encoders import load_clip
    from cones.mini import weights_path
    from cones.mini.quality import zero_shot
    from cones.mini.world import NOUNS

    if model is not None and clip is None:
        raise ConesError(
            f"found --model {model} without --clip; expected a folder with the CLIP that names "
            "its pictures; add --clip"
        )
    loaded, words = load_clip(clip or weights_path() / "clip"), list(NOUNS)
    namers: dict[str, Any] = {
        "CLIP": lambda pixels: [words[i] for i in zero_shot(loaded, pixels).tolist()]
    }
    notes = {"clip": f"CLIP chooses among {len(words)} nouns without having been fitted."}
    if corpus is not None:
        examiner, right = _examiner(corpus, fitted)
        namers["examiner"] = lambda pixels: [
            names[0] for names in examiner.nouns.name(examiner.judge.images(pixels))
        ]
        notes["examiner"] = (
            f"The examiner never saw the generator; fitted on {3 * fitted} composed pictures, it "
            f"names {right['share']:.0%} of {right['count']} fresh ones right."
        )
    return namers, notes


def _examiner(corpus: Path, fitted: int) -> tuple[Any, dict[str, Any]]:
    """Fit the examiner, and examine it with fresh pictures of single things."""
    from cones.metrics import load_judge
    from cones.mini.data import Corpus as Sprites
    from cones.mini.examiner import Examiner

    judge = load_judge()
    examiner = Examiner(judge, Sprites(corpus), fitted=fitted, held_out=100)
    fresh = examiner.fresh[1]
    return examiner, examiner.examine(judge.images(fresh.pixels), fresh.shown)["nouns"]
