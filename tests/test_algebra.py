"""Concept algebra: what several hold, random parts, the study's sides, the commands."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cones.backbones import backbone_for
from cones.bench import algebra_page
from cones.bench.algebra import Rule, algebra_figures
from cones.bench.algebra_page import algebra_summary
from cones.bench.cells import subject_folders
from cones.bench.search import Pictures
from cones.certificate import closed
from cones.cli import app
from cones.concept import Concept, Member
from cones.concept_file import load, save
from cones.errors import MaskError, SubjectError
from cones.find import Settings, loss_of
from cones.general import common, held_by, part_of
from cones.mask import ConceptMask
from fakes import make_concept

ROOT = Path(__file__).parents[1]
SHAPES = {"a.to_k": (6, 5), "b.to_v": (4, 9)}
QUICK = Settings(prior_count=2, prior_steps=1)


def drawn(seed: int, share: float = 0.5) -> ConceptMask:
    draw = torch.Generator().manual_seed(seed)
    return ConceptMask.where({n: torch.rand(s, generator=draw) < share for n, s in SHAPES.items()})


def test_held_by_counts_the_masks() -> None:
    masks = [drawn(seed) for seed in range(5)]
    assert held_by(masks, 1) == masks[0] | masks[1] | masks[2] | masks[3] | masks[4]
    assert held_by(masks, 5) == masks[0] & masks[1] & masks[2] & masks[3] & masks[4]
    times = Counter(
        (name, int(i)) for mask in masks for name, index in mask.indices.items() for i in index
    )
    three = held_by(masks, 3)
    assert {(n, int(i)) for n in three for i in three.indices[n]} == {
        place for place, count in times.items() if count >= 3
    }
    for count in (0, 6):
        with pytest.raises(MaskError, match=f"at_least {count} for 5"):
            held_by(masks, count)
    with pytest.raises(MaskError, match="0 masks"):
        held_by([], 1)


def test_a_part_is_of_the_mask_and_as_large_in_every_layer() -> None:
    mask, other = drawn(1), drawn(2, 0.2)
    like = mask & other
    part = part_of(mask, like, torch.Generator().manual_seed(0))
    assert part <= mask
    assert [len(i) for i in part.indices.values()] == [len(i) for i in like.indices.values()]
    assert part == part_of(mask, like, torch.Generator().manual_seed(0))
    parts = [part_of(mask, like, torch.Generator().manual_seed(k)) for k in range(60)]
    assert held_by(parts, 1) == mask  # every neuron has its chance
    assert part_of(mask, mask, torch.Generator()) == mask
    with pytest.raises(MaskError, match="neurons to draw among"):
        part_of(like, mask, torch.Generator())


def test_common_is_what_most_hold(sd1: Any) -> None:
    concepts = [make_concept(sd1, f"V{seed}*", seed=seed) for seed in (1, 2, 3)]
    found = common(concepts)
    assert found.mask == held_by([concept.mask for concept in concepts], 2)
    assert common(concepts, 3).mask == concepts[0].mask & concepts[1].mask & concepts[2].mask
    assert [member.identifier for member in found.members] == ["V1*", "V2*", "V3*"]
    assert found.settings["at_least"] == 2
    assert not found.certificate
    with pytest.raises(MaskError, match="found 1 concepts"):
        common(concepts[:1])
    clash = replace(concepts[1], members=(Member("V1*", "dog"),))
    with pytest.raises(MaskError, match="names a cat in one"):
        common([concepts[0], clash])
    other = make_concept(sd1, "V9*", seed=9, scope="cross")
    with pytest.raises(MaskError, match="load"):
        common([concepts[0], other])


def test_a_concept_is_cleaned_by_two_commands(sd1: Any, tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.safetensors" for seed in range(4)]
    concepts = [make_concept(sd1, f"V{k}*", seed=k + 1) for k in range(4)]
    for file, concept in zip(files, concepts, strict=True):
        save(concept, file)

    def run(*words: Any) -> Any:
        return CliRunner().invoke(app, ["combine", *map(str, words)])

    general, clean = tmp_path / "general.safetensors", tmp_path / "clean.safetensors"
    assert run(*files[1:], "--how", "common", "-o", general).exit_code == 0
    masks = [concept.mask for concept in concepts]
    assert load(general).mask == held_by(masks[1:], 2)
    assert run(files[0], general, "--how", "difference", "-o", clean).exit_code == 0
    assert load(clean).mask == masks[0] - held_by(masks[1:], 2)
    assert load(clean).identifier == "V0*"
    options = ("--how", "common", "--at-least", 3, "-o", general, "--overwrite")
    assert run(*files[1:], *options).exit_code == 0
    assert load(general).mask == held_by(masks[1:], 3)
    refused = run(*files, "--at-least", 2, "-o", clean, "--overwrite")
    assert "found --at-least with --how union" in " ".join(refused.stderr.split())


def folders(root: Path, names: dict[str, str], first: int = 0) -> Path:
    for number, (name, noun) in enumerate(names.items(), first):
        (root / name).mkdir(parents=True)
        (root / name / "subject.json").write_text(json.dumps({"noun": noun}))
        Image.new("RGB", (64, 64), (25 * number, 99, 200 - 30 * number)).save(
            root / name / "0.png"
        )
    return root


def finder(pipeline: Any, subject: Any, **_: Any) -> Concept:
    """Draw a mask from the photos."""
    seed = 1 + int(255 * subject.images.sum((0, 1))[0, 0])
    found = make_concept(pipeline, noun=subject.noun, seed=seed)
    vectors = backbone_for(pipeline).register("V*")
    return Concept(found.levels, 1, (Member("V*", subject.noun, vectors),), found.base)


class Score:
    figures = ("image_alignment",)

    def __call__(self, pixels: torch.Tensor, prompts: list[str], photos: Any) -> dict[str, float]:
        return {"image_alignment": float(pixels.mean())}


@pytest.fixture(scope="module")
def study(sd1: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from copy import deepcopy

    root = tmp_path_factory.mktemp("algebra")
    photos = folders(root / "photos", {"ann": "cat", "bob": "dog", "cid": "pot"})
    looks = folders(
        root / "looks", {"cat-0": "cat", "cat-1": "cat", "cat-2": "cat", "dog-0": "dog"}, 3
    )
    parts = {name: deepcopy(part) for name, part in sd1.components.items()}
    pipeline = type(sd1)(**parts, requires_safety_checker=False)
    options = {"work": root / "work", "looks": looks, "finder": finder, "settings": QUICK}
    options |= {"pictures": Pictures(prompts=("a {}",), count=1, steps=1)}
    options |= {"rule": Rule(others=2, looks=2, samples=3)}
    found = algebra_figures(pipeline, photos, score=Score(), nouns=["cat"], **options)
    with pytest.raises(SubjectError, match="found 1 looks of 'dog'"):
        algebra_figures(pipeline, photos, score=None, nouns=["dog"], **options)
    return {"found": found, "pipeline": pipeline, "photos": photos, "looks": looks}


def test_every_side_is_the_mask_it_says(study: dict[str, Any]) -> None:
    pipeline, found = study["pipeline"], study["found"]
    people, looks = (subject_folders(study[key]) for key in ("photos", "looks"))
    masks = {p.name: finder(pipeline, p.subject(64)).mask for p in (*people, *looks)}
    ann, bob, cid = found["cleaned"]
    assert {"any_look", "all_looks"} & set(bob) == set()
    any_look, both = masks["cat-0"] | masks["cat-1"], masks["cat-0"] & masks["cat-1"]
    sides = {
        "untouched": ConceptMask.empty(any_look.shapes),
        "concept": masks["ann"],
        "others": masks["ann"] - (masks["bob"] & masks["cid"]),
        "any_look": masks["ann"] - any_look,
        "all_looks": masks["ann"] - both,
    }
    loss, _ = loss_of(pipeline, people[0].subject(64), QUICK, prior=torch.zeros(1, 3, 64, 64))
    weights = backbone_for(pipeline).weights("both")
    for name, mask in sides.items():
        parts = loss.parts(closed(weights, mask), samples=3, seed=0)
        assert ann[name]["subject"] == pytest.approx(float(parts.subject.mean()), abs=1e-6)
        assert ann[name]["neurons"] == len(mask)
        assert 0 <= ann[name]["image_alignment"] <= 1
        if name not in ("untouched", "concept"):
            assert ann[f"{name}_random"]["neurons"] == len(mask)
            assert ann[f"{name}_random"]["subject"] != ann[name]["subject"]
    assert [(row["on"], row["other"]) for row in found["shared"]][:2] == [
        ("ann", "cat-0"),
        ("ann", "cat-1"),
    ]
    assert len(found["shared"]) == 6
    row = found["shared"][2]
    assert (row["on"], row["other"]) == ("cat-0", "ann")
    assert row["own"]["neurons"] == len(masks["cat-0"])
    assert row["shared"]["neurons"] == len(masks["cat-0"] & masks["ann"])
    assert row["shared"]["neurons"] == row["part"]["neurons"] == row["random"]["neurons"]
    assert len({row[side]["subject"] for side in ("own", "shared", "part", "random")}) == 4


def test_the_summary_counts_only_who_has_the_kind(study: dict[str, Any]) -> None:
    found = study["found"]
    summary = algebra_summary(found["cleaned"], found["shared"])
    assert json.loads(json.dumps(summary)) == json.loads(json.dumps(found["summary"]))
    kinds = summary["cleaned"]
    assert {name: each["subjects"] for name, each in kinds.items()} == {
        "others": 3,
        "any_look": 1,
        "all_looks": 1,
    }
    ann = found["cleaned"][0]
    change = kinds["any_look"]["minus_random"]["subject"]["mean"]
    assert change == pytest.approx(ann["any_look"]["subject"] - ann["any_look_random"]["subject"])
    removed = 1 - ann["any_look"]["neurons"] / ann["concept"]["neurons"]
    assert kinds["any_look"]["removed"]["mean"] == pytest.approx(removed)
    gaps = [row["shared"]["loss"] - row["part"]["loss"] for row in found["shared"]]
    assert summary["shared"]["minus_part"]["loss"]["mean"] == pytest.approx(sum(gaps) / 6)
    assert algebra_summary(found["cleaned"][1:], [])["shared"] is None


def test_the_page_quotes_the_figures(study: dict[str, Any], tmp_path: Path) -> None:
    found = study["found"]
    algebra_page.record(found, tmp_path)
    kept = json.loads((tmp_path / algebra_page.RESULTS).read_text())
    page = (tmp_path / algebra_page.PAGE).read_text()
    assert page == algebra_page.markdown(kept)
    mean = found["summary"]["cleaned"]["others"]["means"]["concept"]["image_alignment"]["mean"]
    assert f"{mean:.4f} |" in page
    assert "looks searched: cat: cat-0, cat-1." in page
    assert [algebra_page._way({"low": a, "high": b}) for a, b in ((1, 2), (-2, -1), (-1, 1))] == [
        "raises",
        "lowers",
        "does not clearly change",
    ]


def test_the_docs_agree_with_the_measurements() -> None:
    path = ROOT / "docs" / algebra_page.RESULTS
    if not path.exists():
        pytest.skip("docs/results/algebra.json has not been measured yet")
    found = json.loads(path.read_text("utf-8"))
    assert (ROOT / "docs" / algebra_page.PAGE).read_text("utf-8") == algebra_page.markdown(found)
    assert found["summary"] == algebra_summary(found["cleaned"], found["shared"])
