"""The demo from end to end on a tiny random model."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import cones
from cones import Settings, Subject, demo
from cones.cli import app
from cones.drawing import read_record
from cones.errors import SubjectError
from fakes import SIZE, tiny_pipeline, tiny_pixels

QUICK = Settings(
    steps=1, score_steps=1, prior_count=1, prior_steps=1, batch=1, draws=2, density=0.02
)


def test_a_sheet_and_two_concept_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PLACES", ("in the snow", "on the grass"))
    pipeline = tiny_pipeline()
    cat = Subject(tiny_pixels(2), "cat")
    jar = Subject(tiny_pixels(2, seed=1), "jar", "V2*")
    before = {n: w.clone() for n, w in pipeline.unet.state_dict().items()}
    found = demo.demo(pipeline, [cat, jar], tmp_path, settings=QUICK, num_inference_steps=1)
    assert list(found) == [tmp_path / "cat.safetensors", tmp_path / "jar.safetensors"]
    assert [cones.load(path).identifier for path in found] == ["V*", "V2*"]
    with Image.open(tmp_path / demo.SHEET) as sheet:
        assert sheet.width >= len(demo.PLACES) * SIZE
        assert sheet.height >= 5 * SIZE
    prompts = read_record(tmp_path / demo.SHEET)["prompts"]
    assert prompts[0] == f"a V* cat {demo.PLACES[0]}"
    assert prompts[-1] == "a V* cat next to a V2* jar"
    assert all(torch.equal(w, before[n]) for n, w in pipeline.unet.state_dict().items())


def test_an_unknown_subject_is_named_with_the_known_ones() -> None:
    with pytest.raises(SubjectError, match="'tiger'; expected one of striped_cat, zigzag_jar"):
        demo.subjects(tiny_pipeline(), "tiger")


def test_pixels_become_pictures() -> None:
    pixels = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 5)
    found = demo.pictures(pixels)
    assert [picture.size for picture in found] == [(5, 4), (5, 4)]
    assert found[0].getpixel((0, 0)) == (0, 128, 255)


class Judged:
    """A concept of which only the verdict matters."""

    def __init__(self, verdict: str) -> None:
        self.certificate = {"verdict": verdict}


def test_the_command_says_what_to_look_at_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")

    def shown(pipeline: object, key: str) -> list[Subject]:
        return [Subject(tiny_pixels(2), "cat"), Subject(tiny_pixels(2, seed=1), "jar", "V2*")]

    def made(pipeline: object, shown: object, folder: Path, **_: object) -> dict[Path, Judged]:
        (folder / "cat.safetensors.part").mkdir(parents=True)
        (folder / demo.SHEET).touch()
        return {folder / "cat.safetensors": Judged("gained")}

    monkeypatch.setattr(demo, "subjects", shown)
    monkeypatch.setattr(demo, "demo", made)
    out = tmp_path / "my demo"
    command = ["demo", "--model", str(tmp_path / "model"), "-o", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert f"{out / 'cat.safetensors'}: gained" in result.stdout
    assert f"look at {out / demo.SHEET}" in result.stdout
    assert f"-c '{out / 'cat.safetensors'}' 'a V* cat on a beach'" in result.stdout
    assert f"--model {tmp_path / 'model'}" in result.stdout
    assert not list(out.glob("*.part"))
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize("key", demo.SUBJECTS)
def test_photos_of_every_subject_ship_with_the_package(key: str) -> None:
    shown, other = demo.subjects(tiny_pipeline(), key)
    assert (len(shown), shown.noun, shown.identifier) == (5, demo.SUBJECTS[key], "V*")
    assert other.identifier == "V2*"
    assert other.noun != shown.noun
