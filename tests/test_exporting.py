"""Exports are read back by diffusers and by the rules of the programs that load them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from safetensors.torch import load_file

from cones.errors import FileError, ModelError
from cones.exporting import export
from cones.models import Pipeline, model_for
from cones.models.words import encoders, vectors
from experiments.small import FAMILIES
from fakes import tiny_concept, tiny_pipeline


@pytest.fixture(params=[False, True], ids=["sd", "xl"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return tiny_pipeline(xl=request.param)


def draw(pipeline: Pipeline, prompt: str) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return pipeline(prompt, num_inference_steps=2, output_type="np", generator=generator).images[0]


def snapshot(pipeline: Pipeline) -> list:
    found = [weight.numpy(force=True).tobytes() for weight in pipeline.unet.parameters()]
    for tokenizer, encoder in encoders(pipeline).values():
        found += [tokenizer.get_vocab(), encoder.config.vocab_size]
        found += [id(encoder.get_input_embeddings())]
        found += [weight.numpy(force=True).tobytes() for weight in encoder.parameters()]
    return found


def test_plain_diffusers_draws_the_subject_from_the_folder(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    cat, dog = tiny_concept(pipeline), tiny_concept(pipeline, "V2*", "dog", seed=2)
    before = snapshot(pipeline)
    said = "a V* cat and a V2* dog"
    assert export(pipeline, [cat, dog], tmp_path / "model") == (tmp_path / "model",)
    assert snapshot(pipeline) == before
    kind = type(pipeline)
    again = kind.from_pretrained(tmp_path / "model")
    with (cat | dog).applied(pipeline):
        assert np.array_equal(draw(again, said), draw(pipeline, said))
    assert type(again.scheduler) is type(pipeline.scheduler)
    with pytest.raises(FileError, match="model exists; expected a new name, or an older output"):
        export(pipeline, cat, tmp_path / "model")
    export(pipeline, cat, tmp_path / "model", overwrite=True)
    assert "V2*" not in kind.from_pretrained(tmp_path / "model").tokenizer.get_vocab()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_spare_rows_are_used_for_the_word_and_its_vectors_are_saved(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    concept, encoder = tiny_concept(pipeline), pipeline.text_encoder
    spare = len(encoder.get_input_embeddings().weight) + 4
    encoder.resize_token_embeddings(spare, mean_resizing=False)
    export(pipeline, concept, tmp_path / "model")
    again = type(pipeline).from_pretrained(tmp_path / "model")
    assert len(again.text_encoder.get_input_embeddings().weight) == spare
    found, expected = vectors(again, "V*")["text_encoder"], concept.words[0].embeddings
    assert torch.equal(found, expected["text_encoder"])


@pytest.mark.parametrize("to", ["comfyui", "a1111"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_programs_read_a_difference_and_an_embedding(
    pipeline: Pipeline, tmp_path: Path, to: str, dtype: torch.dtype
) -> None:
    """Both add ``NAME.diff`` to the weight whose path, dots as underscores, is NAME."""
    pipeline.to(dtype)
    concept = tiny_concept(pipeline)
    word = concept.words[0]
    before = snapshot(pipeline)
    written = export(pipeline, concept, tmp_path / "cat.safetensors", to=to)
    assert snapshot(pipeline) == before
    assert written == (tmp_path / "cat.safetensors", tmp_path / "cat-V.safetensors")
    difference, embedding = map(load_file, written)
    own = {
        f"lora_unet_{re.sub('[.]', '_', name[: -len('.weight')])}.diff": weight
        for name, weight in pipeline.unet.named_parameters()
        if name.endswith(".weight")
    }
    with concept.applied(pipeline):
        expected = {n: w.clone() for n, w in model_for(pipeline).weights().items()}
    for name, change in difference.items():
        own[name].data += change.to(own[name].dtype)
    assert all(torch.equal(expected[n], w) for n, w in model_for(pipeline).weights().items())
    xl = "text_encoder_2" in word.embeddings
    names = {"text_encoder": "clip_l" if xl else "emb_params", "text_encoder_2": "clip_g"}
    assert {names[n] for n in word.embeddings} == set(embedding)
    assert all(torch.equal(embedding[names[n]], rows) for n, rows in word.embeddings.items())


def test_diffusers_reads_the_embedding(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    concept = tiny_concept(pipeline)
    with concept.applied(pipeline, strength=0.0):
        expected = draw(pipeline, "a V* cat")
    _, embedding = export(pipeline, concept, tmp_path / "cat", to="comfyui")
    pipeline.load_textual_inversion(str(embedding), token="V")
    assert np.array_equal(draw(pipeline, "a V cat"), expected)


def stock(file: Path, config: Path, embeddings: dict[str, Path]) -> Pipeline:
    """Load a checkpoint and embeddings by diffusers alone; the configuration is the untouched."""
    kind = type(DiffusionPipeline.from_pretrained(config))
    again = kind.from_single_file(str(file), config=str(config))
    for word, path in embeddings.items():
        rows, second = load_file(path), getattr(again, "text_encoder_2", None)
        if second is None:
            again.load_textual_inversion(str(path), token=word)
            continue
        again.load_textual_inversion({word: rows["clip_l"]})
        places = {"text_encoder": second, "tokenizer": again.tokenizer_2}
        again.load_textual_inversion({word: rows["clip_g"]}, **places)
        # Else diffusers takes the largest id of a text for its end, and that is now the word's.
        second.text_model.eos_token_id = again.tokenizer_2.eos_token_id
    return again


@pytest.mark.parametrize("family", ["SD 1.x", "SD 2.x, v-prediction", "SDXL"])
def test_plain_diffusers_draws_the_subject_from_a_single_file(family: str, tmp_path: Path) -> None:
    pipeline = FAMILIES[family]()
    pipeline.save_pretrained(tmp_path / "config")
    cat, dog = tiny_concept(pipeline), tiny_concept(pipeline, "V+", "dog", seed=2)
    before = snapshot(pipeline)
    file, *words = export(pipeline, [cat, dog], tmp_path / "both", to="single-file")
    assert [path.name for path in words] == ["both-V.safetensors", "both-V_.safetensors"]
    assert snapshot(pipeline) == before
    again = stock(file, tmp_path / "config", dict(zip(("V*", "V+"), words, strict=True)))
    said = "a V* c and a V+ d"
    with (cat | dog).applied(pipeline):
        expected = draw(pipeline, said)
    assert np.array_equal(draw(again, said), expected)
    assert not np.array_equal(draw(again, "a c and a d"), expected)


def test_refuses_before_anything_is_written(pipeline: Pipeline, tmp_path: Path) -> None:
    concept = tiny_concept(pipeline)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(FileError, match="mine exists; expected a new name"):
        export(pipeline, concept, tmp_path / "mine", overwrite=True)
    (tmp_path / "cat-V.safetensors").write_text("mine")
    with pytest.raises(FileError, match="cat-V.safetensors exists"):
        export(pipeline, concept, tmp_path / "cat", to="comfyui")
    with pytest.raises(FileError, match="found target 'ckpt' .*expected one of diffusers"):
        export(pipeline, concept, tmp_path / "new", to="ckpt")
    with pytest.raises(FileError, match="cat-V.safetensors exists"):
        export(pipeline, concept, tmp_path / "cat", to="single-file")
    with pytest.raises(FileError, match="for 0 concepts"):
        export(pipeline, [], tmp_path / "new")
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    with pytest.raises(ModelError, match=r"unload_lora_weights\(\), after pipeline.fuse_lora"):
        export(pipeline, concept, tmp_path / "new")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat-V.safetensors", "mine"]
