"""``cones generate``, ``compare``, ``attend`` and ``demo``."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import cones
from cones.drawing import read_record
from cones.files import alone

Run = Callable[..., object]
ONE = ("--num-inference-steps", 1)


@pytest.fixture
def draw(cat: Path, model: str) -> tuple[object, ...]:
    return ("generate", "-c", cat, "a V* cat", "--model", model, *ONE)


def test_pictures_say_how_they_were_made(
    run: Run, refused: Run, draw: tuple[object, ...], cat: Path
) -> None:
    record = json.loads(run(*draw, "-n", 2, "--seed", 5, "-o", "out", "--json").stdout)
    assert record["pictures"] == {"5": "out/0005.png", "6": "out/0006.png"}
    found = read_record(Path("out/0006.png"))
    assert (found["seed"], found["prompt"]) == (6, "a V* cat")
    assert found["concepts"] == [{"words": "a V* cat", "mask": cones.load(cat).mask.digest}]
    with Image.open("out/0006.png") as image:
        assert "Steps: 1" in image.info["parameters"]


def test_only_missing_pictures_are_drawn(run: Run, refused: Run, draw: tuple[object, ...]) -> None:
    run(*draw, "-n", 2, "-o", "out")
    kept = Path("out/0000.png").stat().st_mtime_ns
    drawn = Path("out/0001.png").read_bytes()
    Path("out/0001.png").unlink()
    said = run(*draw, "-n", 3, "-o", "out").stderr
    assert "1 of 3 pictures are there already" in said
    assert Path("out/0000.png").stat().st_mtime_ns == kept
    assert Path("out/0001.png").read_bytes() == drawn
    refused(*draw, "--guidance-scale", 2, "-n", 1, "-o", "out", match="--overwrite")


def test_two_commands_never_draw_into_one_folder(
    run: Run, refused: Run, draw: tuple[object, ...]
) -> None:
    with alone(Path("out/.lock")):  # as another process would hold it
        said = f"in use by the process {os.getpid()}"
        refused(*draw, "-n", 1, "-o", "out", match=said)
        assert not list(Path("out").glob("*.png"))
    run(*draw, "-n", 1, "-o", "out")
    assert [path.name for path in Path("out").iterdir()] == ["0000.png"]


def test_a_picture_that_came_while_others_were_drawn_is_kept(
    refused: Run, draw: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = cones.generate

    def late(*given: object, **options: object) -> object:
        Path("out/0000.png").write_text("mine")
        return generate(*given, **options)

    monkeypatch.setattr(cones, "generate", late, raising=False)
    refused(*draw, "-n", 1, "-o", "out", match="0000.png exists")
    assert Path("out/0000.png").read_text() == "mine"


def test_what_is_missing_is_drawn_in_the_batches_of_an_unbroken_run(
    run: Run, draw: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture's last bits depend on what it is drawn beside."""
    monkeypatch.setattr("cones.cli.pictures.AT_ONCE", 2)
    generate, drawn = cones.generate, []

    def watched(*given: object, seeds: list[int], **options: object) -> object:
        drawn.append(seeds)
        return generate(*given, seeds=seeds, **options)

    monkeypatch.setattr(cones, "generate", watched, raising=False)
    run(*draw, "-n", 5, "--seed", 3, "-o", "out")
    whole = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for name in ("0006.png", "0007.png"):
        Path("out", name).unlink()
    run(*draw, "-n", 5, "--seed", 3, "-o", "out")
    assert drawn == [[3, 4], [5, 6], [7], [5, 6], [7]]
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == whole


def test_ctrl_c_keeps_finished_pictures(
    run: Run, draw: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cones.cli.pictures.AT_ONCE", 1)
    generate, calls = cones.generate, []

    def stopped(*given: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(*given, **options)

    monkeypatch.setattr(cones, "generate", stopped, raising=False)
    said = run(*draw, "-n", 3, "-o", "out", code=130).stderr
    assert "finished pictures are in out; run the same command to go on" in said
    assert [path.name for path in Path("out").iterdir()] == ["0000.png"]


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        ("a V*cat", "V*"),
        ("a (V* cat:1.3)", ":1.3"),
        ("a V* cat <lora:x:1>", "lora"),
        ("a " + "dog," * 9 + "V*", "V*"),
    ],
)
def test_prompts_that_would_lose_the_word_are_refused(
    prompt: str, match: str, refused: Run, cat: Path, model: str
) -> None:
    refused("generate", "-c", cat, prompt, "--model", model, *ONE, "-o", "out", match=match)


def test_a_prompt_without_the_word_is_said(run: Run, cat: Path, model: str) -> None:
    said = run("generate", "-c", cat, "a cat", "--model", model, *ONE, "-n", 1, "-o", "out").stderr
    assert "does not say 'V*'" in said


def test_one_word_for_two_concepts_is_refused_until_one_is_renamed(
    run: Run, refused: Run, cat: Path, dog: Path, model: str
) -> None:
    command = ("generate", "-c", cat, "-c", dog, "--model", model, *ONE, "-n", 1)
    refused(*command, "a V* cat", "-o", "out", match="V*")
    run(*command, "--as", "V*", "--as", "V2*", "a V* cat and a V2* dog", "-o", "out")


def test_amounts_belong_to_concepts(run: Run, draw: tuple[object, ...]) -> None:
    run(*draw, "-n", 1, "-o", "whole")
    run(*draw, "-n", 1, "--amount", 0.5, "-o", "half")
    assert Image.open("whole/0000.png").tobytes() != Image.open("half/0000.png").tobytes()
    assert read_record(Path("half/0000.png"))["strengths"] == [0.5]


def test_a_photo_is_drawn_over(run: Run, draw: tuple[object, ...], photos: str) -> None:
    photo = Path(photos) / "0.png"
    steps = draw[:-2] + ("--num-inference-steps", 4)
    run(*steps, "-n", 1, "--image", photo, "--strength", 0.5, "-o", "out")
    assert read_record(Path("out/0000.png"))["strength"] == 0.5


def test_a_controlnet_is_followed(
    run: Run, refused: Run, draw: tuple[object, ...], photos: str
) -> None:
    from diffusers import ControlNetModel

    from fakes import tiny_pipeline

    net = {"conditioning_embedding_out_channels": (8, 8, 8)}  # as the tiny VAE shrinks by 4
    ControlNetModel.from_unet(tiny_pipeline().unet, **net).save_pretrained("edges")
    along = (*draw, "-n", 1, "-o", "out", "--control-image", Path(photos) / "0.png")
    run(*along, "--controlnet", "edges", "--controlnet-conditioning-scale", 0.5)
    assert read_record(Path("out/0000.png"))["controlnet_conditioning_scale"] == 0.5
    refused(*along, "--overwrite", match="found a control image for a StableDiffusionPipeline")


def test_loras_are_drawn_with_and_told(run: Run, refused: Run, draw: tuple[object, ...]) -> None:
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from fakes import tiny_pipeline

    unet = tiny_pipeline().unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights("style", get_peft_model_state_dict(unet))
    plain, styled = (*draw, "-n", 1, "-o"), ("--lora", "style:2", "--lora", "style")
    run(*plain, "plain")
    run(*plain, "out", *styled)
    assert read_record(Path("out/0000.png"))["lora"] == ["style:2", "style"]
    assert "lora" not in read_record(Path("plain/0000.png"))
    assert Image.open("plain/0000.png").tobytes() != Image.open("out/0000.png").tobytes()
    refused(*plain, "out", match="--overwrite")  # another picture
    assert "1 of 1 pictures are there already" in run(*plain, "out", *styled).stderr
    refused(*plain, "new", "--lora", "none.safetensors", match="found no readable LoRA 'none")


def test_an_unrelated_model_is_refused(refused: Run, cat: Path, tmp_path: Path) -> None:
    from fakes import tiny_pipeline

    tiny_pipeline(seed=1).save_pretrained(tmp_path / "other")
    command = ("generate", "-c", cat, "a V* cat", "--model", tmp_path / "other", "-o", "out")
    refused(*command, match="other")


def test_compare_writes_a_sheet(run: Run, cat: Path, model: str, photos: str) -> None:
    command = ("compare", "-c", cat, "a V* cat", "a V* cat on the grass", "--model", model)
    run(*command, *ONE, "--photos", photos, "-o", "sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.height > 4 * 32


def test_attend_writes_a_sheet(run: Run, refused: Run, cat: Path, model: str) -> None:
    command = ("attend", "-c", cat, "a V* cat on the grass", "--model", model, *ONE)
    run(*command, "--word", "cat", "--word", "grass", "-o", "sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 3 * 100
    refused(*command, "--word", "dog", "-o", "b.png", match="dog")
    assert not Path("b.png").exists()
