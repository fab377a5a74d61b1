"""The command line from end to end, on a tiny random model with tiny settings."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cones.cli import app
from cones.concept_file import load
from cones.plot import read_settings

TINY = ("--steps", "2", "--set", "refine_steps=2", "--set", "prior_count=2")
TINY += ("--set", "prior_steps=2", "--set", "batch=2", "--set", "held_out=4")


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def model(sd1: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    sd1.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(("red", "orange", "brown")):
        Image.new("RGB", (80, 64), colour).save(folder / f"{number}.jpg")
    return str(folder)


def cones(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def run(*words: object) -> Any:
    result = cones(*words)
    assert result.exit_code == 0, result.output
    return result


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=int)


def refused(*words: object, match: str) -> str:
    """Expect one message without a traceback."""
    result = cones(*words)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.output
    assert match in result.stderr.replace("\n", " ")
    return result.stderr


@pytest.fixture(scope="session")
def found(model: str, photos: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("found") / "cat.safetensors"
    os.environ["XDG_CACHE_HOME"] = str(path.parent / "cache")
    run("find", photos, "--noun", "cat", "--model", model, "-o", path, *TINY)
    return path


def test_find_writes_a_concept_with_a_certificate_and_clears_away(found: Path) -> None:
    concept = load(found)
    assert (concept.identifier, concept.noun) == ("V*", "cat")
    assert len(concept.mask) > 0
    assert {"untouched", "shut", "random"} <= concept.certificate.keys()
    assert sorted(p.name for p in found.parent.iterdir()) == ["cache", "cat.safetensors"]


def test_find_prints_json(model: str, photos: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "cat.safetensors"
    options = ("--density", 0.02, "--scope", "cross", "--json", *TINY)
    result = run("find", photos, "--noun", "cat", "--model", model, "-o", out, *options)
    record = json.loads(result.stdout)
    assert record["density"] == pytest.approx(0.02, rel=0.05)
    assert record["settings"]["scope"] == "cross"
    assert record["bytes"] == out.stat().st_size


def test_an_interrupted_search_is_resumed(
    model: str, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cones import find as module

    whole, torn = tmp_path / "whole.safetensors", tmp_path / "torn.safetensors"
    command = ("find", photos, "--noun", "cat", "--model", model, *TINY)
    run(*command, "-o", whole)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "certify", stop)
        result = cones(*command, "-o", torn)
    assert result.exit_code == 130
    assert "goes on from there" in result.stderr.replace("\n", " ")
    assert not torn.exists()
    assert any((tmp_path / "torn.safetensors.part").rglob("*.safetensors"))
    run(*command, "-o", torn)
    assert load(torn).mask == load(whole).mask
    assert not (tmp_path / "torn.safetensors.part").exists()


def test_generate_writes_pictures_that_say_how_they_were_made(
    found: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = ("a V* cat on the grass", "--model", model, "--steps", 2, "-n", 3, "--seed", 5)
    result = run("generate", "-c", found, *said, "-o", out, "--json")
    record = json.loads(result.stdout)
    assert [Path(p).name for p in record["pictures"]] == ["000.png", "001.png", "002.png"]
    settings = read_settings(out / "001.png")
    assert settings["seed"] == 6
    assert settings["prompt"] == said[0]
    assert settings["concepts"][0]["mask"] == load(found).mask.digest
    assert read_settings(out / "sheet.png")["seeds"] == [5, 6, 7]
    refused("generate", "-c", found, *said, "-o", out, match="--overwrite")


def test_generate_goes_on_where_it_stopped(found: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("generate", "-c", found, "a V* cat", "--model", model, "--steps", 2, "-n", 2)
    run(*command, "-o", out)
    first = (out / "000.png").read_bytes()
    before = pixels(out / "001.png")
    stamp = (out / "000.png").stat().st_mtime_ns
    (out / "sheet.png").unlink()
    (out / "001.png").unlink()
    result = run(*command, "-o", out)
    assert "1 of 2 pictures are there already" in result.stderr
    assert (out / "000.png").stat().st_mtime_ns == stamp
    assert (out / "000.png").read_bytes() == first
    assert (
        abs(pixels(out / "001.png") - before).max() <= 1
    )  # drawn alone now: another batch size rounds otherwise


def test_words_are_excited(found: Path, model: str, tmp_path: Path) -> None:
    said = ("generate", "-c", found, "a V* cat", "--model", model, "--steps", 4, "-n", 1)
    run(*said, "-o", tmp_path / "plain")
    run(*said, "--excite", "V* cat", "-o", tmp_path / "excited")
    assert (pixels(tmp_path / "plain/000.png") != pixels(tmp_path / "excited/000.png")).any()
    refused(*said, "--excite", "dog", "-o", tmp_path / "dog", match="found no 'dog'")


def test_a_fine_tuned_model_is_said(found: Path, model: str, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(model)
    with torch.no_grad():
        for name, weight in pipeline.unet.named_parameters():
            if ".to_k." in name:
                weight.mul_(1.01)
    pipeline.save_pretrained(tmp_path / "tuned")
    said = ("a V* cat", "--steps", 1, "-n", 1)
    result = run(
        "generate", "-c", found, *said, "--model", tmp_path / "tuned", "-o", tmp_path / "a"
    )
    assert "this model is a fine-tune of" in " ".join(result.stderr.split())
    result = run("generate", "-c", found, *said, "--model", model, "-o", tmp_path / "b")
    assert "fine-tune" not in result.stderr


def test_a_missing_identifier_is_said(found: Path, model: str, tmp_path: Path) -> None:
    command = ("generate", "-c", found, "a cat", "--model", model, "--steps", 1, "-n", 1)
    result = run(*command, "-o", tmp_path / "out")
    assert "does not say 'V*'" in result.stderr.replace("\n", " ")


def test_show_describes_and_draws(found: Path, tmp_path: Path) -> None:
    picture = tmp_path / "layers.png"
    assert "V* cat" in run("show", found, "--picture", picture).stdout
    assert read_settings(picture)["neurons"] == len(load(found).mask)
    record = json.loads(run("show", found, found, "--json").stdout)
    assert record["concepts"][0]["neurons"] == len(load(found).mask)
    assert record["overlap"][0]["jaccard"] == 1
    sparse = json.loads(run("show", found, "--density", 0.001, "--json").stdout)
    assert sparse["concepts"][0]["density"] == pytest.approx(0.001, rel=0.2)


def test_attend_lights_the_words(found: Path, model: str, tmp_path: Path) -> None:
    sheet = tmp_path / "new" / "attention.png"
    command = ("attend", "a V* cat on the grass", "-c", found, "--model", model, "--steps", 2)
    options = ("--word", "V* cat", "--word", "grass", "--at", 1, "--layer", "up", "-o", sheet)
    record = json.loads(run(*command, *options, "--json").stdout)
    assert list(record["shut"]) == ["V* cat", "grass"]
    assert record["shut"] != record["untouched"]
    assert 0 < np.min(record["untouched"]["grass"]) < np.max(record["untouched"]["grass"]) < 1
    settings = read_settings(sheet)
    assert (settings["recorded"], settings["layers"]) == ([1], ["up"])
    with Image.open(sheet) as image:
        assert image.width > 3 * 128
    refused(*command, *options, match="--overwrite")
    out = tmp_path / "b.png"
    refused(*command, "--word", "dog", "-o", out, match="found no 'dog' among the first")
    refused(*command, "--layer", "nowhere", "-o", out, match="found layers none")
    assert not out.exists()


def test_refine_searches_within_what_two_searches_found(
    found: Path, model: str, photos: str, tmp_path: Path
) -> None:
    other, both = tmp_path / "pot.safetensors", tmp_path / "both.safetensors"
    words = ("--noun", "pot", "--identifier", "V2*", "--model", model, "--seed", 1)
    run("find", photos, *words, "-o", other, *TINY)
    command = ("refine", found, other, "--photos", photos, "--model", model, "-o", both, *TINY)
    refused(*command, match="found 1 --photos for 2 concept files")
    result = run(*command, "--photos", photos, "--json")
    record = json.loads(result.stdout)
    assert record["words"] == ["V* cat", "V2* pot"]
    assert load(both).mask <= load(found).mask | load(other).mask
    assert "union" in run("show", both).stdout
    assert not (tmp_path / "both.safetensors.part").exists()


def test_combine_joins_what_two_searches_found(
    found: Path, model: str, photos: str, tmp_path: Path
) -> None:
    other, both = tmp_path / "pot.safetensors", tmp_path / "both.safetensors"
    words = ("--noun", "pot", "--identifier", "V2*", "--model", model, "--seed", 1)
    run("find", photos, *words, "-o", other, *TINY)
    run("combine", found, other, "-o", both)
    a, b, joined = load(found), load(other), load(both)
    assert joined.mask == a.mask | b.mask
    assert [m.identifier for m in joined.members] == ["V*", "V2*"]
    run("combine", found, other, "--how", "difference", "-o", both, "--overwrite")
    assert load(both).mask == a.mask - b.mask
    refused("combine", found, other, "--how", "sum", "-o", tmp_path / "x", match="union")
    refused("combine", found, "-o", tmp_path / "x", match="two or more")


def test_an_exported_checkpoint_draws_the_same_without_this_library(
    found: Path, model: str, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    from cones.backbones import load_pipeline
    from cones.generate import generate

    run("export", found, "--to", "diffusers", tmp_path / "checkpoint", "--model", model)
    ours = generate(load_pipeline(model), [load(found)], "a V* cat", steps=2, count=1)[0]
    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "checkpoint")
    plain.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(0)
    theirs = plain("a V* cat", num_inference_steps=2, generator=draw, height=64, width=64)
    assert theirs.images[0].tobytes() == ours.tobytes()
    zeros = dict(plain.unet.named_parameters())
    mask = load(found).mask
    assert all(bool((zeros[n].reshape(-1)[mask.indices[n]] == 0).all()) for n in mask)
    refused("export", found, "--to", "onnx", tmp_path / "b", "--model", model, match="diffusers")
    refused("export", found, tmp_path / "checkpoint", match="--overwrite")


def test_demo_writes_a_sheet_with_controls(model: str, photos: str, tmp_path: Path) -> None:
    command = (
        "demo",
        photos,
        "--noun",
        "cat",
        "--model",
        model,
        "-o",
        tmp_path / "demo",
        "-n",
        1,
        "--steps",
        2,
        "--guidance",
        3,
    )
    result = run(*command, "--json", "--set", "steps=2", *TINY[2:])
    record = json.loads(result.stdout)
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert names == ["concept.safetensors", "demo.json", "sheet.png"]
    assert record["certificate"]["held_out_samples"] == 4
    assert read_settings(tmp_path / "demo" / "sheet.png")["subject"] == "V* cat"
    assert read_settings(tmp_path / "demo" / "sheet.png")["drawing"]["guidance"] == 3
    refused(*command, match="--overwrite")


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("nothing=1", "expected one of"),
        ("batch=many", "of type int"),
        ("batch=0", "at least 1"),
        ("flip=2", "of type bool"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_model_is_loaded(
    setting: str, match: str, photos: str, tmp_path: Path
) -> None:
    command = ("find", photos, "--noun", "cat", "-o", tmp_path / "a", "--model", tmp_path)
    refused(*command, "--set", setting, match=match)


def test_outputs_are_checked_before_any_work(photos: str, tmp_path: Path) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_text("mine")
    command = ("find", photos, "--noun", "cat", "--model", tmp_path, "-o")
    refused(*command, taken, match="--overwrite")
    refused(*command, tmp_path, match="found a folder")
    refused(*command, taken / "a.safetensors", match="cannot write")
    refused(*command, tmp_path / "a", match="model_index.json")
    assert taken.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]


def test_bad_photos_are_refused(model: str, tmp_path: Path) -> None:
    empty, text = tmp_path / "empty", tmp_path / "text"
    for folder in (empty, text):
        folder.mkdir()
    (text / "a.jpg").write_text("not a picture")
    command = ("--noun", "cat", "--model", model, "-o", tmp_path / "a", *TINY)
    refused("find", empty, *command, match="empty")
    refused("find", text, *command, match="a.jpg")
    refused("find", tmp_path / "none", *command, match="none")


def test_damaged_and_foreign_files_are_refused(
    found: Path, model: str, sd1: Any, fresh: Any, generator: Any, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(found.read_bytes()[:-10])
    out = ("a V* cat", "-o", tmp_path / "out", "--model")
    refused("generate", "-c", torn, *out, model, match="torn.safetensors")
    refused("generate", "-c", tmp_path / "none", *out, model, match="no file")
    refused("show", tmp_path / "none", match="no file")
    other = fresh(sd1)
    with torch.no_grad():
        for weight in other.unet.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    other.save_pretrained(tmp_path / "other")
    message = refused("generate", "-c", found, *out, tmp_path / "other", match="other")
    assert "tiny" in message


def test_unknown_devices_and_precisions_are_refused(found: Path, tmp_path: Path) -> None:
    command = ("generate", "-c", found, "a V* cat", "-o", tmp_path / "out")
    refused(*command, "--device", "toaster", match="toaster")
    refused(*command, "--dtype", "int4", match="float32, float16, bfloat16")


def test_a_noun_the_built_in_model_never_saw_is_said(photos: str, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    result = cones("find", photos, "--noun", "volcano", "-o", out, "--device", "toaster")
    assert "never seen 'volcano'" in result.stderr.replace("\n", " ")


def test_a_full_disk_is_one_line(
    found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cones import concept_file

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(concept_file, "save", full)
    refused("combine", found, found, "-o", tmp_path / "a", match="No space left")


def test_bench_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cones.bench import codec

    monkeypatch.setattr(codec, "codec_figures", lambda repeats: {"repeats": repeats})
    out = tmp_path / "codec.json"
    result = run("bench", "codec", "--repeats", 2, "-o", out, "--json")
    assert json.loads(out.read_text()) == json.loads(result.stdout)
    assert json.loads(out.read_text())["machine"]["torch"]
    refused("bench", "codec", "-o", out, match="--overwrite")


def test_bench_search_measures_subjects_beside_controls(
    model: str, photos: str, tmp_path: Path
) -> None:
    folder = tmp_path / "photos" / "cat"
    shutil.copytree(photos, folder)
    (folder / "subject.json").write_text('{"noun": "cat"}')
    options = ("--photos", folder.parent, "--work", tmp_path / "work", "--no-pictures", "--json")
    command = ("bench", "search", *options, "--model", model, "--docs", tmp_path / "docs")
    result = run(*command, "--seed", 0, "--set", "steps=2", *TINY[2:])
    found = json.loads(result.stdout)
    assert [row["subject"] for row in found["rows"]] == ["cat"]
    assert found["summary"]["wins"]["shut_below_random"]["of_subjects"] == 1
    written = json.loads((tmp_path / "docs" / "results" / "search.json").read_text())
    assert written["search"]["rows"] == found["rows"]
    assert (tmp_path / "docs" / "search.md").is_file()


def test_help_is_fast_and_teaches() -> None:
    start = time.process_time()
    command = [sys.executable, "-X", "importtime", "-m", "cones.cli", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.process_time() - start < 2
    assert "torch" not in result.stderr
    assert "diffusers" not in result.stderr
    commands = [
        ("find",),
        ("generate",),
        ("show",),
        ("attend",),
        ("combine",),
        ("refine",),
        ("export",),
        ("demo",),
    ]
    for words in [*commands, ("bench", "codec"), ("bench", "swap"), ("bench", "search")]:
        assert f"cones {' '.join(words)}" in " ".join(run(*words, "--help").stdout.split())
