"""The whole way from photos to a concept and to pictures, on a tiny random model."""

from dataclasses import replace

import pytest
import torch

from cones.backbones import backbone_for
from cones.certificate import closed
from cones.concept_file import load, save
from cones.errors import MaskError, SearchError
from cones.find import DENSITIES, DENSITY, Settings, find, loss_of
from cones.generate import generate, missing_identifiers
from cones.prior import prior_prompts
from cones.refine import refine
from cones.rules import RULES
from cones.subject import Subject

TINY = Settings(steps=2, refine_steps=2, batch=2, held_out=4, flip=False, density=DENSITY)


@pytest.fixture
def model(sd1, fresh):
    return fresh(sd1)


@pytest.fixture
def subject(sd1):
    side = backbone_for(sd1).resolution
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Subject(images, "cat", "V1*")


@pytest.fixture
def prior(sd1):
    side = backbone_for(sd1).resolution
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2))


def bits(pipeline):
    return {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_nested_levels_and_leaves_the_model_alone(model, subject, prior, rule):
    before = bits(model)
    concept = find(model, subject, settings=replace(TINY, rule=rule), prior=prior)
    assert len(concept.levels) == 8
    assert concept.identifier == "V1*"
    assert concept.mask.density <= DENSITY * 1.001
    assert len(concept.mask) > 0
    after = bits(model)
    assert all(torch.equal(w, after[n]) for n, w in before.items())


def test_without_levels_there_is_the_density_alone(model, subject, prior):
    whole = find(model, subject, settings=TINY, prior=prior)
    alone = find(model, subject, settings=replace(TINY, levels=False), prior=prior)
    assert alone.levels == (whole.mask,)
    assert alone.certificate["shut"] == whole.certificate["shut"]
    assert alone.certificate["random"] == whole.certificate["random"]
    with pytest.raises(SearchError, match=r"expected e\.g\. 0\.0132"):
        Settings(levels=False)


def test_a_prior_of_scenes_is_drawn_and_told_so(model, subject, tmp_path):
    asked = replace(TINY, prior_prompts="scenes", prior_count=3, prior_steps=1)
    loss, _ = loss_of(model, subject, asked, cache_dir=tmp_path)
    said = backbone_for(model).condition(prior_prompts("cat", "scenes", 3))
    assert len(list(tmp_path.iterdir())) == 3  # a folder a prompt
    for name, states in said.items():
        assert torch.equal(loss.prior.condition[name], states)
        assert not torch.equal(states[0], states[1])
    noun, _ = loss_of(model, subject, replace(asked, prior_prompts="noun"), cache_dir=tmp_path)
    assert torch.equal(noun.prior.latents[0], loss.prior.latents[0])  # both begin with the noun
    for states in noun.prior.condition.values():
        assert torch.equal(states[0], states[1])
    with pytest.raises(SearchError, match="expected one of noun, scenes"):
        Settings(prior_prompts="places")


def test_certificate_is_what_shutting_measures(model, subject, prior):
    from cones.find import implanting_loss

    concept = find(model, subject, settings=TINY, prior=prior)
    backbone = backbone_for(model)
    loss = implanting_loss(backbone, subject, prior, TINY)
    weights = backbone.weights("both")
    parts = loss.parts(closed(weights, concept.mask), samples=4, seed=0)
    found = concept.certificate["shut"]
    assert found["subject"] == pytest.approx(float(parts.subject.mean()))
    assert found["prior"] == pytest.approx(float(parts.prior.mean()))
    assert found["loss"] == pytest.approx(found["subject"] + found["prior"])
    untouched = loss.parts(weights, samples=4, seed=0)
    assert concept.certificate["untouched"]["loss"] == pytest.approx(untouched.total)
    assert concept.certificate["raises_loss"] == (parts.total > untouched.total)


def test_interrupted_search_resumes_to_the_same_concept(model, subject, prior, tmp_path):
    whole = find(model, subject, settings=TINY, prior=prior)

    def stop(step):
        if step.stage == "refine" and step.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(model, subject, settings=TINY, prior=prior, state_dir=tmp_path, on_progress=stop)
    steps = []
    resumed = find(
        model, subject, settings=TINY, prior=prior, state_dir=tmp_path, on_progress=steps.append
    )
    assert [s.step for s in steps if s.stage == "refine"] == [2]
    assert not [s for s in steps if s.stage == "adam"]
    assert resumed.mask == whole.mask
    assert resumed.levels == whole.levels


def test_generating_restores_every_bit_and_differs(model, subject, prior, tmp_path):
    concept = find(model, subject, settings=replace(TINY, density=0.3), prior=prior)
    path = tmp_path / "cat.safetensors"
    save(concept, path)
    before = bits(model)
    options = {"prompt": "a V1* cat", "steps": 2, "count": 2, "seed": 5}
    with_concept = generate(model, [load(path)], **options)
    after = bits(model)
    assert all(torch.equal(w, after[n]) for n, w in before.items())
    without = generate(model, [], **options)
    assert len(with_concept) == len(without) == 2
    assert with_concept[0].tobytes() != without[0].tobytes()
    one = generate(model, [], prompt="a V1* cat", steps=2, count=1, seed=6)
    assert one[0].tobytes() == without[1].tobytes()


def test_identifier_left_out_of_the_prompt_is_noticed(model, subject, prior):
    concept = find(model, subject, settings=TINY, prior=prior)
    assert missing_identifiers([concept], ["a cat", "a dog"]) == ["V1*"]
    assert missing_identifiers([concept], ["a cat", "a V1* cat"]) == []


def test_another_model_is_refused(model, subject, prior):
    concept = find(model, subject, settings=TINY, prior=prior)
    with torch.no_grad():
        for weight in backbone_for(model).weights("both").values():
            weight.normal_(generator=torch.Generator().manual_seed(9))
    with pytest.raises(MaskError, match="signs"):
        generate(model, [concept], "a V1* cat", steps=1, count=1)


def test_settings_refuse_what_cannot_be_searched():
    with pytest.raises(SearchError, match="rule is 'best'.*refine"):
        Settings(rule="best")
    with pytest.raises(SearchError, match="density is 2"):
        Settings(density=2)


@pytest.mark.parametrize("density", [None, DENSITY])
def test_denser_levels_are_refined_unless_the_density_is_fixed(
    model, subject, prior, density, monkeypatch
):
    asked = []

    def watched(*given, densities, **options):
        asked.append(densities)
        return refine(*given, densities=densities, **options)

    monkeypatch.setattr("cones.rules.refine", watched)
    find(model, subject, settings=replace(TINY, density=density), prior=prior)
    denser = tuple(d for d in DENSITIES if d > DENSITY)
    assert asked == [() if density else denser]
    assert len(denser) == 3
