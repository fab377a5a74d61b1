"""``cones show``, ``combine``, ``atlas`` and ``export``."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import cones

Run = Callable[..., object]


def test_show_prints_words_and_certificate(run: Run, cat: Path, jar: Path) -> None:
    said = run("show", cat).stdout
    assert "a V* cat" in said
    assert f"({cat.stat().st_size / 1000:.0f} kB)" in said
    record = json.loads(run("show", cat, jar, "--json").stdout)
    assert [found["words"] for found in record["concepts"]] == [["V* cat"], ["V2* jar"]]
    assert record["concepts"][0]["bytes"] == cat.stat().st_size
    assert record["overlap"][0]["shared"] == len(cones.load(cat).mask & cones.load(jar).mask)
    assert "jar.safetensors: {'shared': " in run("show", cat, jar).stdout


def test_a_stored_density_is_taken_and_another_refused(run: Run, refused: Run, cat: Path) -> None:
    sparse, dense = cones.load(cat).densities
    record = json.loads(run("show", cat, "--density", sparse, "--json").stdout)
    assert record["concepts"][0]["density"] == sparse
    refused("show", cat, "--density", 50, match=f"{dense:.4%}")


def test_combine_joins_masks_and_words(run: Run, cat: Path, jar: Path) -> None:
    run("combine", cat, jar, "-o", "both.safetensors")
    a, b, found = cones.load(cat), cones.load(jar), cones.load("both.safetensors")
    assert found.mask == a.mask | b.mask
    assert [word.identifier for word in found.words] == ["V*", "V2*"]


def test_two_subjects_of_one_word_are_refused_until_one_is_renamed(
    run: Run, refused: Run, cat: Path, dog: Path
) -> None:
    refused("combine", cat, dog, "-o", "x.safetensors", match="'V*' twice, for a cat and for")
    run("combine", cat, dog, "--as", "V*", "--as", "V3*", "-o", "both.safetensors")
    assert [w.identifier for w in cones.load("both.safetensors").words] == ["V*", "V3*"]
    refused("combine", cat, cat, "--as", "V*", "-o", "x.safetensors", match="once for each file")
    assert not Path("x.safetensors").exists()


def test_one_file_is_renamed_or_thinned_out(run: Run, cat: Path) -> None:
    sparse, _ = cones.load(cat).densities
    run("combine", cat, "--as", "W*", "--density", sparse, "-o", "small.safetensors")
    found = cones.load("small.safetensors")
    assert (found.prompt, found.density) == ("a W* cat", sparse)


def test_what_is_no_concept_file_is_refused_by_name(
    refused: Run, cat: Path, model: str, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(cat.read_bytes()[:-10])
    refused("show", torn, match="torn.safetensors")
    refused("show", tmp_path / "none", match="none")
    refused("show", tmp_path, match="no file")
    lora = {
        "unet.to_k.lora_A.weight": torch.zeros(2, 4),
        "unet.to_k.lora_B.weight": torch.zeros(4, 2),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    refused("show", tmp_path / "lora.safetensors", match="LoRA")


def test_atlas_writes_one_page(run: Run, refused: Run, cat: Path, jar: Path) -> None:
    record = json.loads(run("atlas", cat, jar, "-o", "page.html", "--json").stdout)
    assert record["page"] == "page.html"
    assert "V2*" in Path("page.html").read_text("utf-8")
    refused("atlas", cat, "-o", "page.html", match="--overwrite")


def test_an_exported_model_draws_without_this_library(
    run: Run, refused: Run, cat: Path, model: str
) -> None:
    from diffusers import StableDiffusionPipeline

    record = json.loads(run("export", cat, "checkpoint", "--model", model, "--json").stdout)
    assert record == {"to": "diffusers", "written": ["checkpoint"]}
    plain = StableDiffusionPipeline.from_pretrained("checkpoint")
    zeros = dict(plain.unet.named_parameters())
    mask = cones.load(cat).mask
    assert all(not zeros[n].reshape(-1)[mask.indices[n]].any() for n in mask)
    refused("export", cat, "checkpoint", "--model", model, match="--overwrite")


def test_an_export_never_replaces_a_file_unasked(
    run: Run, refused: Run, cat: Path, model: str, tmp_path: Path
) -> None:
    """The concept's own file is what the name without its ending would write."""
    before, given = cat.read_bytes(), ("export", cat, "--to", "comfyui", "--model", model)
    refused(*given, tmp_path / "my cat", match="my cat.safetensors exists")
    assert cat.read_bytes() == before
    run(*given, tmp_path / "new")
    assert {path.name for path in tmp_path.glob("new*")} == {
        "new.safetensors",
        "new-V.safetensors",
    }
    (tmp_path / "new.safetensors").unlink()
    refused(*given, tmp_path / "new.safetensors", match="new-V.safetensors exists")
    run(*given, tmp_path / "new.safetensors", "--overwrite")
