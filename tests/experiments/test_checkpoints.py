"""The matrix of models: three of its cells, the files that they are made from, and its page."""

from pathlib import Path

import pytest
import torch

from cones import load_pipeline
from experiments import checkpoints
from experiments.small import FAMILIES, save_single_file
from experiments.tables import write_results

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.mark.parametrize(
    ("family", "setup", "lacking"),
    [
        ("SD 1.x", "checkpointing", {}),
        ("SDXL", "single file", {}),
        ("turbo", "LoRA", {"export": "found a LoRA in the pipeline; expected plain weights"}),
        (
            "Flux",
            "checkpointing",
            {"attention": "found a FluxPipeline; expected a model with a U"},
        ),
        ("PixArt", "plain", {"attention": "found a PixArtSigmaPipeline; expected a model with"}),
    ],
)
def test_a_cell_says_what_does_not_work(
    family: str, setup: str, lacking: dict[str, str], tmp_path: Path
) -> None:
    pipeline = checkpoints.prepared(family, setup, "float32", tmp_path)
    found = checkpoints.examined(pipeline, tmp_path)
    assert found.keys() == set(checkpoints.ACTIONS)
    for action, text in found.items():
        assert text.startswith(lacking.get(action, ""))
        assert bool(text) == (action in lacking), text


@pytest.mark.parametrize("family", ["SD 1.x", "SD 2.x, v-prediction", "SDXL"])
def test_a_single_file_holds_every_weight(family: str, tmp_path: Path) -> None:
    pipeline = FAMILIES[family]()
    save_single_file(pipeline, tmp_path / "model.safetensors")
    again = load_pipeline(tmp_path / "model.safetensors", device="cpu")
    for name in NETWORKS:
        if (part := getattr(pipeline, name, None)) is not None:
            expected, found = part.state_dict(), getattr(again, name).state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_a_fault_is_told_from_a_refusal() -> None:
    found: dict[str, str] = {}
    with checkpoints._told(found, "find"):
        raise KeyError("unet")
    assert found == {"find": "FAULT KeyError: 'unet'"}


def test_a_run_goes_on_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = dict.fromkeys(checkpoints.ACTIONS, "")
    cases = [("SD 1.x", "plain", p) for p in checkpoints.PRECISIONS]
    monkeypatch.setattr(checkpoints, "cases", lambda: cases)
    monkeypatch.setattr(checkpoints, "prepared", lambda *case: case[2])
    monkeypatch.setattr(
        checkpoints,
        "examined",
        lambda pipeline, _: works | {"undo": "lost" if pipeline == "bfloat16" else ""},
    )
    said: list[object] = []
    for _ in range(2):
        results = checkpoints.results(tmp_path / "record", lambda *at: said.append(at))
    assert [at[1] for at in said] == [1, 2]
    write_results(tmp_path, "checkpoints", results)
    page = checkpoints.write_page(tmp_path).read_text("utf-8")
    assert "| SD 1.x | not undo in bfloat16 (1) |" in page
    assert "1. lost" in page
    assert len(results["cells"]) == 2
    assert list(results["refused"]) == list(checkpoints.REFUSED)
    assert not [text for text in results["refused"].values() if not text.startswith("found a")]
