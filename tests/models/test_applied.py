"""Concepts around any call of a pipeline: words said, neurons shut, every bit put back."""

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from peft import LoraConfig

from cones.concept import Concept
from cones.errors import InterventionError, MaskError, ModelError
from cones.models import Pipeline, model_for
from cones.models.applied import applied
from cones.models.words import encoders
from fakes import tiny_concept, tiny_pipeline


@pytest.fixture
def pipeline() -> Pipeline:
    return tiny_pipeline()


def snapshot(pipeline: Pipeline) -> list:
    """Collect every bit that a concept may change."""
    found = [weight.numpy(force=True).tobytes() for weight in pipeline.unet.parameters()]
    for tokenizer, encoder in encoders(pipeline).values():
        found += [tokenizer.get_vocab(), repr(vars(tokenizer)), encoder.config.to_dict()]
        found += [weight.numpy(force=True).tobytes() for weight in encoder.parameters()]
    return found


def shut(pipeline: Pipeline, concept: Concept) -> bool:
    live = model_for(pipeline).weights()
    return all(not live[n][hits].any() for n, hits in concept.mask.hits().items())


def draw(pipeline: Pipeline, prompt: str = "a V* cat", **options: object) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "output_type": "np", "generator": generator} | options
    return pipeline(prompt, **options).images[0]


def test_words_are_said_neurons_shut_and_all_restored(pipeline: Pipeline) -> None:
    concept = tiny_concept(pipeline)
    plain = draw(pipeline)
    before = snapshot(pipeline)

    def failing() -> None:
        with concept.applied(pipeline):
            assert shut(pipeline, concept)
            assert pipeline.tokenizer.tokenize("a V* cat") == ["a</w>", "V*", "cat</w>"]
            assert not np.array_equal(draw(pipeline), plain)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert snapshot(pipeline) == before
    assert np.array_equal(draw(pipeline), plain)


def test_the_registered_word_makes_the_picture(pipeline: Pipeline) -> None:
    """Shutting alone leaves V* cut into pieces, which draws something else."""
    concept = tiny_concept(pipeline)
    with applied(pipeline, [concept]):
        right = draw(pipeline)
    with applied(pipeline, [concept.renamed("W*")]):
        assert not np.array_equal(draw(pipeline), right)
        assert np.array_equal(draw(pipeline, "a W* cat"), right)


def test_inside_other_pipelines_of_the_same_parts(pipeline: Pipeline) -> None:
    concept = tiny_concept(pipeline)
    other = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    with concept.applied(other):
        inside = draw(pipeline)
    with concept.applied(pipeline):
        assert np.array_equal(draw(pipeline), inside)


def test_contexts_nest_and_unions_agree(pipeline: Pipeline) -> None:
    cat = tiny_concept(pipeline, "V*", "cat", scope="cross")
    dog = tiny_concept(pipeline, "V2*", "dog", seed=2, scope="self")
    before = snapshot(pipeline)
    said = "a V* cat next to a V2* dog"
    with applied(pipeline, [cat, dog]):
        assert shut(pipeline, cat)
        assert shut(pipeline, dog)
        both = draw(pipeline, said)
    with (cat | dog).applied(pipeline):
        assert np.array_equal(draw(pipeline, said), both)
    with cat.applied(pipeline):
        with dog.applied(pipeline):
            assert np.array_equal(draw(pipeline, said), both)
        with (cat | dog).applied(pipeline), cat.applied(pipeline):
            assert np.array_equal(draw(pipeline, said), both)
        assert "V2*" not in pipeline.tokenizer.get_vocab()
        assert shut(pipeline, cat)
    assert snapshot(pipeline) == before


def test_where_masks_overlap_one_shrinks_what_the_other_left(pipeline: Pipeline) -> None:
    cat = tiny_concept(pipeline, "V*", "cat")
    dog = tiny_concept(pipeline, "V2*", "dog", seed=2)
    theta = {n: w.clone() for n, w in model_for(pipeline).weights().items()}
    with applied(pipeline, [cat, dog], strengths=[0.25, 0.5]):
        live = model_for(pipeline).weights()
        for name, w in theta.items():
            one = torch.where(cat.mask.hits()[name], 0.75 * w, w)
            both = torch.where(dog.mask.hits()[name], 0.5 * one, one)
            torch.testing.assert_close(live[name], both)


def test_strength_zero_only_says_the_words(pipeline: Pipeline) -> None:
    concept = tiny_concept(pipeline)
    weights = [w.clone() for w in pipeline.unet.parameters()]
    with concept.applied(pipeline, strength=0.0):
        assert all(map(torch.equal, weights, pipeline.unet.parameters()))
        assert "V*" in pipeline.tokenizer.get_vocab()


def other_cat(pipeline: Pipeline) -> list[Concept]:
    return [tiny_concept(pipeline), tiny_concept(pipeline, seed=2)]


def a_jar(pipeline: Pipeline) -> list[Concept]:
    return [tiny_concept(pipeline), tiny_concept(pipeline, noun="jar")]


def same_words(pipeline: Pipeline) -> list[Concept]:
    cat, other = other_cat(pipeline)
    return [cat, Concept(other.levels, (replace(cat.words[0]),), cat.base)]


@pytest.mark.parametrize("concepts", [other_cat, a_jar, same_words])
def test_one_identifier_for_two_subjects_is_refused(
    pipeline: Pipeline, concepts: Callable
) -> None:
    first, second = concepts(pipeline)
    before = snapshot(pipeline)
    match = r"found 'V\*' twice, for a cat and for another .*renamed\('V2\*'\)"
    with pytest.raises(MaskError, match=match):
        applied(pipeline, [first, second]).__enter__()
    with first.applied(pipeline), pytest.raises(MaskError, match=match):
        second.applied(pipeline).__enter__()
    assert snapshot(pipeline) == before
    with second.applied(pipeline):
        assert shut(pipeline, second)


def test_refuses_before_anything_changes(pipeline: Pipeline) -> None:
    concept, foreign = tiny_concept(pipeline), tiny_concept(tiny_pipeline(seed=9))
    before = snapshot(pipeline)
    with pytest.raises(MaskError, match="shares .* of signs"):
        foreign.applied(pipeline).__enter__()
    with pytest.raises(MaskError, match="found 2 strengths; expected 1, one per concept"):
        applied(pipeline, [concept], strengths=[1, 1]).__enter__()
    with pytest.raises(ModelError, match="'cat' already means something else"):
        concept.renamed("cat").applied(pipeline).__enter__()
    assert snapshot(pipeline) == before


def test_works_under_a_lora(pipeline: Pipeline) -> None:
    concept = tiny_concept(pipeline)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))
    before = snapshot(pipeline)
    with concept.applied(pipeline):
        assert shut(pipeline, concept)
        draw(pipeline)
    assert snapshot(pipeline) == before


def test_works_in_half_precision_and_xl() -> None:
    concept = tiny_concept(tiny_pipeline(xl=True))
    pipeline = tiny_pipeline(xl=True).to(torch.bfloat16)
    before = [weight.clone() for weight in pipeline.unet.parameters()]
    with concept.applied(pipeline):
        assert shut(pipeline, concept)
        draw(pipeline)
    assert all(map(torch.equal, before, pipeline.unet.parameters()))


def test_a_second_thread_never_draws_with_the_neurons_of_the_first(pipeline: Pipeline) -> None:
    seen = []

    def other() -> None:
        try:
            with applied(pipeline, []):  # what generate opens without concepts
                seen.append("served")
        except InterventionError as error:
            seen.append(str(error))

    with applied(pipeline, [tiny_concept(pipeline, "V*", "cat")]):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(seen) == 1
    assert "one thread at a time" in seen[0]
