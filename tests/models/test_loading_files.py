"""Files beside a diffusers folder: whole checkpoints, and ControlNets."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline
from safetensors.torch import save_file

from cones.errors import ModelError
from cones.models import Pipeline, model_for
from cones.models.loading import load_pipeline
from fakes import tiny_pipeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_single_file_is_read_with_the_configuration_beside_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({key: torch.zeros(1)}, tmp_path / "model.safetensors")
    asked = []

    def read(path: str, **named: object) -> Pipeline:
        asked.append((path, named))
        return tiny_pipeline()

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", read)
    pipeline = load_pipeline(tmp_path / "model.safetensors")
    assert model_for(pipeline).name == "model.safetensors"
    (path, named) = asked[0]
    assert path == str(tmp_path / "model.safetensors")
    assert named["config"] == str(folder)
    assert named["safety_checker"] is None


def test_a_single_file_says_where_its_configuration_may_lie(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(path: str, **named: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", unreachable)
    file = folder.with_name("lone.safetensors")
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, file)
    match = r"no configuration for 'lone.safetensors' \(no route\); .* the folder '.*/lone'; conn"
    with pytest.raises(ModelError, match=match):
        load_pipeline(file)
    shutil.copytree(folder, folder.with_name("lone"))
    with pytest.raises(ModelError, match="found no readable model '.*lone.safetensors' .no route"):
        load_pipeline(file)


def test_other_safetensors_are_named(tmp_path: Path) -> None:
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="a LoRA beside its model with --lora, a concept"):
        load_pipeline(tmp_path / "lora.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ModelError, match="found no readable model"):
        load_pipeline(tmp_path / "text.safetensors")


def test_a_controlnet_is_loaded_beside_the_model(folder: Path) -> None:
    net = ControlNetModel.from_unet(tiny_pipeline().unet)
    net.save_pretrained(folder.with_name("edges"))
    dtype = {"dtype": "bfloat16", "device": "cpu"}
    pipeline = load_pipeline(folder, controlnet=folder.with_name("edges"), **dtype)
    assert type(pipeline).__name__ == "StableDiffusionControlNetPipeline"
    assert pipeline.controlnet.dtype == torch.bfloat16
    found = pipeline.controlnet.state_dict()
    assert all(torch.equal(found[n], w.bfloat16()) for n, w in net.state_dict().items())
    assert (model_for(pipeline).name, type(pipeline.scheduler).__name__[:9]) == (
        "model",
        "DPMSolver",
    )


def test_a_controlnet_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="found no readable ControlNet '.*/none' .*correct it"):
        load_pipeline(folder, controlnet=folder.with_name("none"))
    other = ControlNetModel.from_unet(tiny_pipeline(xl=True).unet)
    other.save_pretrained(folder.with_name("edges"))
    with pytest.raises(ModelError, match="reads texts of width 64; expected one for StableDiff"):
        load_pipeline(folder, controlnet=folder.with_name("edges"))
