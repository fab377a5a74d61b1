"""The whole job on the built-in model: photos in, concepts out, the subjects in new places.

The sheet shows photos, then the same prompts and noise drawn three times: by the untouched model,
with a random mask of the same density in every layer, and with the concept. Only if the last row
alone looks like the photos has anything been shown. Under it stand both subjects together.
"""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from cones.concept import Concept
from cones.drawing import compare, generate, save_png, sheet
from cones.errors import SubjectError
from cones.models import Pipeline, builtin, model_for
from cones.search.find import find
from cones.search.resume import Progress, silent
from cones.search.settings import Settings
from cones.subject import Subject

SUBJECTS = {"striped_cat": "cat", "zigzag_jar": "jar", "dotted_cup": "cup"}
PLACES = ("in the snow", "in a desert", "on the grass", "on a road", "in a room", "at night")
SHEET = "sheet.png"


def subjects(pipeline: Pipeline, key: str) -> list[Subject]:
    """Read a subject that ships with the package, and another to draw beside it.

    Raises:
        SubjectError: There is no such subject.
    """
    if key not in SUBJECTS:
        raise SubjectError(
            f"found the subject {key!r}; expected one of {', '.join(SUBJECTS)}; choose one, or "
            "use 'cones find' with photos of your own"
        )
    other = next(name for name in SUBJECTS if name != key)
    size, folder = model_for(pipeline).size, Path(builtin.__file__).parent / "photos"
    return [
        Subject.from_folder(folder / name, noun=SUBJECTS[name], identifier=word, size=size)
        for name, word in ((key, "V*"), (other, "V2*"))
    ]


def demo(
    pipeline: Pipeline,
    shown: Sequence[Subject],
    folder: Path,
    *,
    settings: Settings,
    num_inference_steps: int | None = None,
    progress: Progress = silent,
) -> dict[Path, Concept]:
    """Find subjects, draw one beside both controls, and all together; return them by file.

    Args:
        pipeline: Text-to-image pipeline; as before afterwards, bit for bit.
        shown: Subjects, each with a noun and an identifier of its own.
        folder: For ``sheet.png`` and a concept file a subject. What an interrupted search has
            done is kept there, and goes on.
        settings: How to search; the seed is also that of the pictures.
        num_inference_steps: Of drawing.
        progress: Told what is done.
    """
    found = {}
    for subject in shown:
        path = folder / f"{subject.noun.replace(' ', '_')}.safetensors"
        work = path.with_name(f"{path.name}.part")
        found[path] = find(pipeline, subject, settings=settings, work=work, progress=progress)
        found[path].save(path)
    concepts, first = list(found.values()), settings.seed
    drawing = {"num_inference_steps": num_inference_steps, "progress": progress}
    prompts = [f"{shown[0].prompt} {place}" for place in PLACES]
    compared = compare(pipeline, concepts[:1], prompts, seeds=[first], **drawing)
    said = " next to ".join(subject.prompt for subject in shown)
    seeds = range(first, first + len(PLACES))
    together = generate(pipeline, concepts, said, seeds=seeds, **drawing)
    page = _stacked(compared.sheet(pictures(shown[0].pixels)), sheet({said: together}))
    save_png(page, folder / SHEET, {"prompts": [*prompts, said], **settings.recorded()})
    return found


def pictures(pixels: Float[Tensor, "n 3 h w"]) -> list[Image.Image]:
    """Turn RGB in [0, 1] into pictures."""
    rows = (255 * pixels).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in rows]


def _stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    width, height = max(above.width, below.width), above.height + below.height
    page = Image.new("RGB", (width, height), "white")
    page.paste(above, (0, 0))
    page.paste(below, (0, above.height))
    return page
