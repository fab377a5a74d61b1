"""LoRAs from files: loaded beside a model and a concept as diffusers does it, or refused whole."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from cones.drawing import generate
from cones.errors import ModelError
from cones.exporting import export
from cones.fingerprint import Fingerprint
from cones.models import Pipeline, model_for
from cones.models.beside import load_loras
from cones.models.loading import load_pipeline
from fakes import tiny_concept, tiny_pipeline, tiny_transformer

FILE = "pytorch_lora_weights.safetensors"


def written(folder: Path, *, seed: int = 0, xl: bool = False, words: bool = False) -> Path:
    """Write a random LoRA of the U-Net, or of the text encoder."""
    pipeline = tiny_pipeline(xl=xl)
    part, kind = (pipeline.text_encoder, "text_encoder") if words else (pipeline.unet, "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = ["q_proj", "out_proj"] if words else ["to_q", "to_k", "to_v"]
        part.add_adapter(LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    layers = {f"{kind}_lora_layers": get_peft_model_state_dict(part)}
    type(pipeline).save_lora_weights(folder, **layers)
    return folder


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("style"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("words"), seed=1, words=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def drawn(pipeline: Pipeline) -> bytes:
    concept = tiny_concept(tiny_pipeline())
    return generate(pipeline, concept, "a V* cat", seeds=[0], num_inference_steps=2)[0].tobytes()


def test_loras_are_drawn_with_at_their_weights(model: Path, style: Path, words: Path) -> None:
    given = [f"{style / FILE}:0.5", f"{words}:-2"]
    found = load_pipeline(model, lora=given, device="cpu", dtype="float32")
    expected = load_pipeline(model, device="cpu", dtype="float32")
    expected.load_lora_weights(style, adapter_name="a")
    expected.load_lora_weights(words, adapter_name="b")
    plain = load_pipeline(model, lora=str(style), device="cpu", dtype="float32")
    expected.set_adapters(["a", "b"], [0.5, -2.0])
    assert drawn(found) == drawn(expected)
    assert len({drawn(each) for each in (found, plain, tiny_pipeline())}) == 3


def test_the_model_is_the_one_that_concepts_know(style: Path) -> None:
    pipeline = tiny_pipeline()
    load_loras(pipeline, [str(style)])
    plain, loaded = model_for(tiny_pipeline()), model_for(pipeline)
    assert loaded.weights().keys() == plain.weights().keys()
    assert Fingerprint.of(loaded.weights(), "x") == Fingerprint.of(plain.weights(), "x")


def kohya(style: Path, path: Path) -> Path:
    """Write a LoRA under the names of community sites."""
    found = {}
    for name, value in load_file(style / FILE).items():
        layer, _, end = name.removeprefix("unet.").rpartition(".lora_")
        stem = "lora_unet_" + layer.replace(".", "_")
        found[f"{stem}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = value
        found[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(found, path)
    return path


def test_files_of_community_sites_are_the_same_loras(style: Path, tmp_path: Path) -> None:
    one, other = tiny_pipeline(), tiny_pipeline()
    load_loras(one, [str(style)])
    load_loras(other, [str(kohya(style, tmp_path / "kohya.safetensors"))])
    assert drawn(one) == drawn(other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", r"none.safetensors' .*\(no such file\)"),
        ("none.safetensors:0.5", r"none.safetensors' .*\(no such file\)"),
        ("style:nan", "weight nan for '.*style'; expected a finite one; write .*style:0.8"),
        ("style:-inf", "weight -inf"),
        ("concept.safetensors", "concept.safetensors' for .*Invalid LoRA.*and no concept"),
        ("diff.safetensors", "diff.safetensors' for a StableDiffusionPipeline"),
        ("text.safetensors", "text.safetensors' for"),
        ("xl", "xl' for a StableDiffusionPipeline .*for the model's family"),
        ("more.safetensors", r"more.safetensors' .*\(84 of 86 tensors fit\)"),
    ],
)
def test_what_is_no_lora_of_the_model_is_refused(
    name: str, message: str, style: Path, tmp_path: Path
) -> None:
    concept = tiny_concept(tiny_pipeline())
    concept.save(tmp_path / "concept.safetensors")
    export(tiny_pipeline(), concept, tmp_path / "diff.safetensors", to="comfyui")
    (tmp_path / "text.safetensors").write_text("x" * 100)
    (tmp_path / "style").symlink_to(style)
    more = {f"unet.other.to_k.lora_{k}.weight": torch.zeros(2, 2) for k in "AB"}
    save_file(load_file(style / FILE) | more, tmp_path / "more.safetensors")
    if name == "xl":
        written(tmp_path / "xl", xl=True)
    with pytest.raises(ModelError, match=f"^found (no readable LoRA '.*)?{message}") as caught:
        load_loras(tiny_pipeline(), [str(tmp_path / name)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "why"), [("SD 3", "0 of 84 tensors fit"), ("PixArt", "no attribute 'lora_state")]
)
def test_a_family_that_would_leave_it_out_in_silence_is_refused(
    family: str, why: str, style: Path
) -> None:
    with pytest.raises(ModelError, match=why):
        load_loras(tiny_transformer(family), [str(style)])


def test_a_colon_may_belong_to_the_name(style: Path, tmp_path: Path) -> None:
    (tmp_path / "a:b").symlink_to(style)
    pipeline: StableDiffusionPipeline = tiny_pipeline()
    load_loras(pipeline, [str(tmp_path / "a:b"), f"{tmp_path / 'a:b'}:0"])
    assert pipeline.get_active_adapters() == ["lora0", "lora1"]
