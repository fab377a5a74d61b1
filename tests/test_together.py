"""Several subjects captured together stay within their union and serve the summed loss."""

from dataclasses import replace

import pytest
import torch

from cones.backbones import backbone_for
from cones.certificate import closed
from cones.concept_file import load, save
from cones.errors import SearchError
from cones.find import Settings, find, implanting_loss
from cones.subject import Subject
from cones.together import PAPER, SHARE, find_together

TINY = Settings(steps=2, refine_steps=2, batch=2, held_out=4, flip=False, density=0.05)
OPEN = replace(TINY, density=None)


@pytest.fixture
def model(sd1, fresh):
    return fresh(sd1)


@pytest.fixture
def subjects(sd1):
    side = backbone_for(sd1).resolution
    images = [
        torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(k)) for k in (1, 2)
    ]
    return [Subject(images[0], "cat", "V1*"), Subject(images[1], "dog", "V2*")]


@pytest.fixture
def priors(sd1):
    side = backbone_for(sd1).resolution
    return [
        torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(k)) for k in (3, 4)
    ]


@pytest.fixture
def parts(model, subjects, priors):
    pairs = zip(subjects, priors, strict=True)
    return [find(model, subject, settings=TINY, prior=prior) for subject, prior in pairs]


def test_the_search_stays_within_the_union(model, subjects, priors, parts):
    before = {n: w.detach().clone() for n, w in model.unet.named_parameters()}
    union = parts[0].mask | parts[1].mask
    found = find_together(model, subjects, parts=parts, settings=OPEN, priors=priors)
    assert found.mask <= union
    assert 0 < len(found.mask) <= SHARE * len(union) + 1
    assert all(level <= union for level in found.levels)
    assert [m.identifier for m in found.members] == ["V1*", "V2*"]
    assert all(torch.equal(w, before[n]) for n, w in model.unet.named_parameters())


def test_the_certificate_adds_up_the_subjects(model, subjects, priors, parts):
    found = find_together(model, subjects, parts=parts, settings=TINY, priors=priors)
    backbone = backbone_for(model)
    weights = backbone.weights("both")
    union = parts[0].mask | parts[1].mask
    for row, mask in (("shut", found.mask), ("union", union)):
        each = [
            implanting_loss(backbone, s, p, TINY).parts(closed(weights, mask), samples=4, seed=0)
            for s, p in zip(subjects, priors, strict=True)
        ]
        expected = sum(float(one.subject.mean()) for one in each)
        assert found.certificate[row]["subject"] == pytest.approx(expected)
        assert found.certificate[row]["loss"] == pytest.approx(sum(one.total for one in each))
    assert found.certificate["union"]["density"] == union.density


def test_from_scratch_everything_may_be_chosen_at_the_density_of_the_paper(
    model, subjects, priors, tmp_path
):
    found = find_together(model, subjects, settings=OPEN, priors=priors)
    assert found.mask.density == pytest.approx(PAPER[1], rel=0.05)
    assert "union" not in found.certificate
    save(found, tmp_path / "both.safetensors")
    assert load(tmp_path / "both.safetensors").mask == found.mask


def test_a_finished_search_is_not_repeated_but_another_union_is(
    model, subjects, priors, parts, tmp_path
):
    def stages(concepts):
        seen = []
        find_together(
            model,
            subjects,
            parts=concepts,
            settings=TINY if concepts else OPEN,
            priors=priors,
            state_dir=tmp_path,
            on_progress=lambda step: seen.append(step.stage),
        )
        return set(seen)

    assert "adam" in stages(parts)
    assert "adam" not in stages(parts)
    assert "adam" in stages(())


def test_what_cannot_be_told_apart_is_refused(model, subjects, parts):
    with pytest.raises(SearchError, match="two or more with a word of their own"):
        find_together(model, subjects[:1])
    with pytest.raises(SearchError, match=r"found subjects V1\*, V1\*"):
        find_together(model, [subjects[0]] * 2)
    with pytest.raises(SearchError, match=r"concepts of V2\*, V1\* for subjects V1\*, V2\*"):
        find_together(model, subjects, parts=parts[::-1])
