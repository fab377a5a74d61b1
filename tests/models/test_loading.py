"""Folders, single files and hub names; what is missing is said at once and in one sentence."""

import json
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
)
from huggingface_hub.utils import validate_hf_hub_args

from cones.errors import ModelError
from cones.models import Pipeline, builtin, loading, model_for
from cones.models.loading import load_pipeline
from fakes import tiny_pipeline


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "plain"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """Give a copy that may be changed."""
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay the model out as the hub's cache does, with nothing behind it."""
    snapshot = tmp_path / "hub" / "models--me--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(folder, snapshot)
    (tmp_path / "hub" / "models--me--tiny" / "refs").mkdir()
    (tmp_path / "hub" / "models--me--tiny" / "refs" / "main").write_text("a" * 40)
    local = partial(loading.snapshot_download, cache_dir=tmp_path / "hub")
    monkeypatch.setattr(loading, "snapshot_download", local)
    return snapshot


class Hub:
    """A hub that counts how often it is asked."""

    asked = 0

    @validate_hf_hub_args
    def model_info(self, repo_id: str, **named: object) -> None:
        type(self).asked += 1
        raise ConnectionError


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.asked = 0
    monkeypatch.setattr(loading, "HfApi", Hub)
    return Hub


def weights_equal(pipeline: Pipeline) -> bool:
    expected = tiny_pipeline().unet.state_dict()
    return all(torch.equal(expected[n], w) for n, w in pipeline.unet.state_dict().items())


def test_loads_a_folder(folder: Path) -> None:
    pipeline = load_pipeline(folder)
    assert weights_equal(pipeline)
    assert type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert pipeline.unet.dtype == torch.float32
    assert model_for(pipeline).name == "model"
    for dtype in ("bfloat16", torch.bfloat16):
        half = load_pipeline(str(folder), dtype=dtype, device="cpu")
        assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.bfloat16}


def test_none_is_the_built_in_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "folder", lambda: folder)
    assert weights_equal(load_pipeline())


def test_missing_built_in_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "__file__", "/nowhere/__init__.py")
    with pytest.raises(
        ModelError, match="found no folder, file or local copy of ./nowhere/weights"
    ):
        load_pipeline()


def test_a_resolution_is_kept_by_model_and_pictures(folder: Path) -> None:
    pipeline = load_pipeline(folder, resolution=48)
    assert model_for(pipeline).size == 48
    assert pipeline("a cat", num_inference_steps=1).images[0].size == (48, 48)
    for bad in (0, 4, 50):
        with pytest.raises(ModelError, match=f"found resolution {bad}; expected a multiple of 8"):
            load_pipeline(folder, resolution=bad)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_is_what_diffusers_does(
    folder: Path, offload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        StableDiffusionPipeline,
        f"enable_{offload}_cpu_offload",
        lambda self, device: asked.append(device),
    )
    load_pipeline(folder, offload=offload, device="cpu")
    assert asked == [torch.device("cpu")]


def test_files_of_one_variant_are_found_by_themselves(tmp_path: Path) -> None:
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    for variant in (None, "fp16"):
        pipeline = load_pipeline(tmp_path / "half", variant=variant)
        expected = tiny_pipeline().unet.state_dict()
        found = pipeline.unet.state_dict()
        assert all(torch.equal(expected[n].half().float(), w) for n, w in found.items())


def test_says_which_variants_there_are(folder: Path) -> None:
    with pytest.raises(ModelError, match="found variants plain .*expected 'fp16'; choose one"):
        load_pipeline(folder, variant="fp16")


def test_only_bin_files_are_refused_with_the_way_out(folder: Path) -> None:
    for file in (folder / "unet").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(
        ModelError, match="found no safetensors .* for .bin files can run code; .*save_pre"
    ):
        load_pipeline(folder)


def test_sharded_weights_are_plain(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded" / "unet").glob("*-of-*"))) > 1
    assert weights_equal(load_pipeline(tmp_path / "sharded"))


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json", "special_tokens_map.json")])
def test_a_missing_tokenizer_is_named(folder: Path, left: tuple[str, ...]) -> None:
    for file in (folder / "tokenizer").iterdir():
        if file.name not in left:
            file.unlink()
    with pytest.raises(
        ModelError, match="no vocabulary for tokenizer; .*copy them there from the"
    ):
        load_pipeline(folder)


def give_scheduler(folder: Path, scheduler: type, **options: object) -> None:
    config = tiny_pipeline().scheduler.config
    scheduler.from_config(config, **options).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"][1] = scheduler.__name__
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (LCMScheduler, {}),
        (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
        (DDIMScheduler, {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}),
    ],
)
def test_models_of_few_steps_keep_their_sampler(
    folder: Path, scheduler: type, options: dict
) -> None:
    give_scheduler(folder, scheduler, **options)
    pipeline = load_pipeline(folder)
    assert type(pipeline.scheduler) is scheduler
    assert all(pipeline.scheduler.config[name] == value for name, value in options.items())


def test_a_vae_without_a_scale_has_that_of_1(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": None}))
    pipeline = load_pipeline(folder)
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline("a cat", num_inference_steps=1).images


def test_other_samplers_become_dpm_solver(folder: Path) -> None:
    give_scheduler(folder, DDIMScheduler)
    assert type(load_pipeline(folder).scheduler).__name__ == "DPMSolverMultistepScheduler"


def test_the_local_copy_of_a_hub_model_comes_first(cached: Path, hub: type[Hub]) -> None:
    pipeline = load_pipeline("me/tiny")
    assert weights_equal(pipeline)
    assert model_for(pipeline).name == "me/tiny"
    assert hub.asked == 0


def test_an_incomplete_copy_says_what_it_lacks(cached: Path, hub: type[Hub]) -> None:
    match = "local copy of 'me/tiny' in fp16, and the hub does not answer"
    with pytest.raises(ModelError, match=match):
        load_pipeline("me/tiny", variant="fp16")
    assert hub.asked == 1


@pytest.mark.parametrize("name", ["./models/nothing", "/models/nothing", "a/b/c", "C:\\model"])
def test_a_mistyped_path_is_not_asked_for(name: str, hub: type[Hub]) -> None:
    match = "found no folder, file or local copy of .*, and the hub does not know it; .*owner/name"
    with pytest.raises(ModelError, match=match):
        load_pipeline(name)
    assert hub.asked == 0


def test_a_mistyped_name_does_not_wait_for_the_hub(hub: type[Hub]) -> None:
    start = time.process_time()
    for name in ("owner/typo", "stable-difusion"):
        with pytest.raises(ModelError, match=f"'{name}', and the hub does not answer .Connection"):
            load_pipeline(name)
    assert hub.asked == 2
    assert time.process_time() - start < 1


def test_a_model_of_the_hub_is_fetched_once(
    folder: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [type("File", (), {"rfilename": "unet/diffusion_pytorch_model.safetensors"})]
    answer = type("Info", (), {"siblings": files})
    monkeypatch.setattr(hub, "model_info", lambda self, name, **named: answer)
    asked = []
    monkeypatch.setattr(
        DiffusionPipeline,
        "download",
        lambda name, **named: asked.append((name, named)) or str(folder),
    )
    assert weights_equal(load_pipeline("owner/new", revision="dev"))
    assert [name for name, _ in asked] == ["owner/new"]
    assert asked[0][1]["revision"] == "dev"
    assert asked[0][1]["use_safetensors"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "x" * 100, "found no readable model"),
        ("model_index.json", "{", "found no readable model"),
        ("model_index.json", None, "found no model_index.json in"),
    ],
)
def test_damaged_folders_are_told_in_one_sentence(
    folder: Path, file: str, content: str | None, message: str
) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_pipeline(folder)
    assert "\n" not in str(caught.value)


def test_says_which_precisions_there_are(folder: Path) -> None:
    with pytest.raises(ModelError, match="found dtype int8; expected one of float32, float16"):
        load_pipeline(folder, dtype="int8")
