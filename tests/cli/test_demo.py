"""``cones demo`` from end to end on a tiny random model."""

import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

import cones
from cones.drawing import read_record
from cones.subject import read_pixels
from fakes import SIZE, search_options

Run = Callable[..., object]
module = import_module("cones.cli.find")  # whose name in the package is that of its command
TINY = search_options(steps=1, score_steps=1, prior_count=1, prior_steps=1, batch=1, draws=2)


@pytest.fixture
def command(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Show two subjects in two places, in one step."""
    for name, colour in (("striped_cat", "orange"), ("zigzag_jar", "teal")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            photo = Image.new("RGB", (SIZE, SIZE), colour)
            photo.save(tmp_path / "photos" / name / f"{number}.png")
    monkeypatch.setattr(module, "SHIPPED", tmp_path / "photos")
    monkeypatch.setattr(module, "PLACES", ("in the snow", "on the grass"))
    monkeypatch.setattr("cones.models.sampling.STEPS", 1)
    return ["demo", "--model", model, *TINY, "-o", str(tmp_path / "my demo")]


def test_a_sheet_and_two_concept_files_are_written(
    run: Run, refused: Run, command: list[str], model: str
) -> None:
    result, out = run(*command), Path(command[-1])
    assert sorted(path.name for path in out.iterdir()) == [
        *("cat.safetensors", "jar.safetensors", "sheet.png")
    ]
    found = {name: cones.load(out / f"{name}.safetensors") for name in ("cat", "jar")}
    assert [found[name].words[0].identifier for name in found] == ["V*", "V2*"]
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width >= 2 * SIZE
        assert sheet.height >= 5 * SIZE
    assert read_record(out / "sheet.png")["prompts"] == [
        "a V* cat in the snow",
        "a V* cat on the grass",
        "a V* cat next to a V2* jar",
    ]
    assert f"{out / 'cat.safetensors'}: {found['cat'].certificate['verdict']}" in result.stdout
    assert f"look at {out / 'sheet.png'}" in result.stdout
    words = shlex.split(result.stdout.partition("next:")[2])
    assert words[:5] == [
        *("cones", "generate", "-c", str(out / "cat.safetensors"), "a V* cat in the snow")
    ]
    assert words[5:7] == ["--model", model]
    refused(*command, match="--overwrite")


def test_what_was_found_stays_after_ctrl_c(
    run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cones, "compare", stop, raising=False)
    out = Path(command[-1])
    said = run(*command, code=130).stderr
    assert f"what was found is in {out}; run the same command to go on" in said
    assert (out / "cat.safetensors").exists()
    assert (out / "cat.safetensors.part").exists()


def test_an_unknown_subject_is_named_with_the_known_ones(run: Run) -> None:
    said = run("demo", "tiger", code=2).stderr
    assert all(name in said for name in ("tiger", *module.SUBJECTS))


@pytest.mark.parametrize("key", module.SUBJECTS)
def test_photos_of_every_subject_ship_with_the_package(key: str) -> None:
    assert len(read_pixels(module.SHIPPED / key, size=SIZE)) == 5
    assert key in get_args(module.Shipped)
