"""Studies made of evaluations: rates chosen from a grid, subjects learnt one after another."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cones.backbones import backbone_for
from cones.bench.cells import Photos
from cones.bench.evaluate import Evaluation
from cones.bench.plan import Plan
from cones.bench.sanity import (
    LONG,
    SAMPLES,
    likeness_of,
    loss_of,
    redrawn_likeness,
    sanity_figures,
)
from cones.bench.scores import Encoders
from cones.bench.sequential import SIDES, sequential_figures, sequential_summary
from cones.bench.side_by_side import best, best_pictures, spread
from cones.bench.tuning import GRID, chosen, grid_for, tuning_figures
from cones.certificate import closed
from cones.errors import SearchError, SubjectError
from cones.find import Settings
from cones.objective import ImplantingLoss, examples
from fakes import Colours

TINY = Settings(
    steps=2,
    refine_steps=1,
    held_out=4,
    batch=1,
    prior_count=2,
    prior_steps=2,
    density=0.05,
    prior_prompts="noun",
)
ENCODERS = Encoders(Colours(), Colours())


@pytest.fixture
def photos(tmp_path):
    for number, (name, noun) in enumerate((("tom", "cat"), ("rex", "dog"))):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), (80 * number, 90, 100)).save(folder / "00.png")
        Image.new("RGB", (64, 64), (80 * number, 120, 60)).save(folder / "01.png")
        (folder / "subject.json").write_text(json.dumps({"noun": noun}))
    return tmp_path / "photos"


def plan(**changes):
    given = {
        "methods": ("untouched", "dreambooth", "cones"),
        "groups": (("tom", "rex"),),
        "prompts": ("a {} on the grass",),
        "images": 1,
        "steps": 1,
        "changes": {"cones": {"settings": TINY}, "dreambooth": {"steps": 1, "rate": 1e-2}},
        "prior": TINY,
    }
    return Plan(**(given | changes))


def test_the_best_row_is_most_alike_among_those_that_still_listen():
    rows = [
        {"rate": rate, "scores": {"image_alignment": a, "text_alignment": b, "drift": 9}}
        for rate, a, b in ((1, 0.9, 0.0), (2, 0.5, 0.6), (3, 0.0, 0.9), (4, 0.6, 0.5))
    ]
    for untouched, rate in ((0.7, 3), (0.6, 2), (0.55, 4), (0.0, 1), (1.2, 3)):
        assert chosen(rows, {"text_alignment": untouched})["rate"] == rate
    with pytest.raises(SearchError, match="empty grid"):
        chosen([], {"text_alignment": 0.0})


def test_merging_is_tuned_on_subjects_learnt_together_only():
    merged = "custom-diffusion-merged"
    assert set(GRID) - set(grid_for([["a"], ["b"]])) == {merged}
    assert grid_for([["a", "b"]]) == GRID
    assert list(grid_for([["a", "b"]], [merged, "untouched"])) == [merged]
    with pytest.raises(SearchError, match="join subjects by"):
        grid_for([["a"]], [merged])


def test_merging_joins_what_was_learnt_with_its_own_settings(photos, tmp_path, sd1, fresh):
    merged = "custom-diffusion-merged"

    def learnt(rate):
        brief = {"steps": 1, "batch": 1, "pool": 1}
        changes = {"custom-diffusion": {**brief, "rate": 1e-2}, merged: {**brief, "rate": rate}}
        asked = plan(methods=(merged,), changes=changes)
        evaluation = Evaluation(fresh(sd1), photos, asked, tmp_path / "w")
        (cell,) = evaluation.cells
        weights = evaluation.fits.of(cell).weights
        fits = [path.parent.name for path in (tmp_path / "w" / "fits").glob("*/fit.json")]
        return weights, sorted(name.rsplit("-", 2)[0] for name in fits)

    joined, fits = learnt(1e-2)  # of what Custom Diffusion learns anyway
    assert fits == [
        "custom-diffusion-merged-tom+rex",
        "custom-diffusion-rex",
        "custom-diffusion-tom",
    ]
    own, fits = learnt(1e-3)
    assert fits.count("custom-diffusion-merged-tom") == 1
    assert not any(own[name].equal(weight) for name, weight in joined.items())


def test_a_grid_is_published_whole_and_resumed(photos, tmp_path, sd1, fresh):
    asked = plan(groups=(("tom",),))
    grid = {"dreambooth": {"rate": (1e-3, 1e-2)}, "cones": {"density": (0.05, 0.3)}}

    def measure():
        return tuning_figures(fresh(sd1), photos, asked, ENCODERS, work=tmp_path / "w", grid=grid)

    found = measure()
    assert [row["rate"] for row in found["grid"][:2]] == [1e-3, 1e-2]
    assert [row["density"] for row in found["grid"][2:]] == [0.05, 0.3]
    assert len({json.dumps(row["scores"]) for row in found["grid"]}) == 4
    for rows, name in ((found["grid"][:2], "rate"), (found["grid"][2:], "density")):
        best = chosen(rows, found["untouched"])
        assert found["best"][best["method"]][name] == best[name]
    assert found["fixed"] == {"dreambooth": {"steps": 1}, "cones": {}}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("*.png")}
    assert measure() == found
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "w").rglob("*.png")}


def test_a_second_subject_is_learnt_from_where_the_first_has_left(photos, tmp_path, sd1, fresh):
    pipeline = fresh(sd1)
    before = {name: weight.clone() for name, weight in pipeline.unet.named_parameters()}
    found = sequential_figures(pipeline, photos, plan(), ENCODERS, work=tmp_path / "w")
    assert all(before[n].equal(weight) for n, weight in pipeline.unet.named_parameters())
    assert [row["method"] for row in found["rows"]] == ["untouched", "dreambooth", "cones"]
    for row in found["rows"]:
        assert set(row["likeness"]) == set(SIDES)
    same = found["rows"][0]["likeness"]
    assert same["first alone"] == pytest.approx(same["first of two"], abs=1e-6)
    assert found["summary"]["untouched"]["forgotten"]["mean"] == pytest.approx(0, abs=1e-6)
    again = sequential_figures(fresh(sd1), photos, plan(), ENCODERS, work=tmp_path / "w")
    assert again["rows"] == found["rows"]

    evaluation = Evaluation(fresh(sd1), photos, plan(), tmp_path / "w")
    (folder,) = (tmp_path / "w" / "cells").glob("sequential-*/learnt/unet")
    cell = next(cell for cell in evaluation.cells if cell.method == "dreambooth")
    from safetensors.torch import load_file

    from cones.bench.plan import Cell

    first, second = (
        evaluation.fits.of(Cell("dreambooth", (p,), (w,), 0)).weights
        for p, w in zip(cell.group, cell.words, strict=True)
    )
    after = load_file(next(folder.glob("*.safetensors")))
    name = max(before, key=lambda name: (first[name] - before[name]).abs().sum())
    from_first = (after[name] - first[name]).abs().sum()
    assert 0 < from_first < (after[name] - second[name]).abs().sum()


def test_forgetting_is_paired():
    sides = dict.fromkeys(SIDES, 0.0)
    rows = [
        {
            "method": "lora",
            "group": ["a", "b"],
            "seed": seed,
            "likeness": {**sides, "first alone": 0.5 + seed, "first of two": 0.2 + seed},
        }
        for seed in (0, 1)
    ]
    summary = sequential_summary(rows)["lora"]
    assert summary["forgotten"] == {
        "mean": pytest.approx(0.3),
        "low": pytest.approx(0.3),
        "high": pytest.approx(0.3),
        "n": 2,
    }


def test_what_cannot_be_learnt_in_turn_is_refused(photos, tmp_path, sd1):
    for bad in (plan(methods=("lora",)), plan(groups=(("tom",),))):
        with pytest.raises(SearchError, match="expected pairs and methods among"):
            sequential_figures(sd1, photos, bad, ENCODERS, work=tmp_path / "w")


def test_sanity_trains_long_and_not_at_all(photos, tmp_path, sd1, fresh):
    asked = plan(methods=("untouched", "dreambooth", "cones"), groups=(("tom",),))
    found = sanity_figures(fresh(sd1), photos, asked, ENCODERS, work=tmp_path / "w")
    assert found["plan"]["prompts"] == ["a photo of a {}"]
    assert list(found["trained"]) == ["untouched", "dreambooth", "cones"]
    alike = {name: each["tom"] for name, each in found["trained"].items()}
    assert len(set(alike.values())) == 3
    assert found["settings"]["dreambooth"]["steps"] == 1  # what is said is the long training
    assert found["untrained"] == {"dreambooth": 1.0}
    assert found["redrawn"]["tom"] > 0
    losses = {name: each["tom"] for name, each in found["losses"].items()}
    assert len(set(losses.values())) == 3
    with pytest.raises(SearchError, match="expected single subjects"):
        sanity_figures(fresh(sd1), photos, plan(), ENCODERS, work=tmp_path / "w")


@pytest.mark.parametrize("method", ["untouched", "dreambooth", "lora", "cones"])
def test_the_loss_of_the_photos_is_that_of_the_changed_weights(
    method, photos, tmp_path, sd1, fresh
):
    asked = plan(methods=(method,), groups=(("tom",),))
    rates = {name: {"steps": 2, "rate": 1e-2} for name in ("dreambooth", "lora")}
    evaluation = Evaluation(
        fresh(sd1), photos, replace(asked, changes=asked.changes | rates), tmp_path / "w"
    )
    (cell,) = evaluation.cells
    found = loss_of(evaluation, cell)
    learnt, backbone = evaluation.fits.of(cell), backbone_for(evaluation.pipeline)
    weights = dict(backbone.module.named_parameters())
    if method == "dreambooth":
        weights |= learnt.weights
    elif method == "cones":
        mask = learnt.concepts[0].mask
        weights |= closed({name: weights[name] for name in mask.hits()}, mask)
    elif method == "lora":
        weights |= merged(learnt.weights, weights)
    subject = replace(evaluation.photos["tom"].subject(64), identifier=cell.words[0])
    loss = ImplantingLoss(backbone, examples(backbone, subject))
    parts = loss.parts(weights, samples=SAMPLES, seed=0)
    assert found == pytest.approx(float(parts.subject.mean()), rel=1e-4)


def merged(matrices, weights):
    """Add LoRA's updates ``B A`` to the weights; alpha is the rank, so they are not scaled."""
    names = [name for name in matrices if name.endswith("lora_A.weight")]
    assert names
    return {
        (own := name.replace("lora_A.weight", "weight")): weights[own]
        + matrices[name.replace("lora_A", "lora_B")] @ matrices[name]
        for name in names
    }


def test_redrawn_photos_are_compared_with_all_of_them(photos):
    from types import SimpleNamespace

    seen = []

    def encode(pixels):
        seen.append(pixels)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=pixels * 3))

    vae = SimpleNamespace(
        device="cpu",
        dtype=torch.float32,
        encode=encode,
        decode=lambda latents: SimpleNamespace(sample=latents / 3),
    )
    tom = Photos("tom", "cat", photos / "tom")
    pair = Colours().images(tom.subject(64).images)
    cosine = float(torch.cosine_similarity(pair[0], pair[1], dim=0))
    found = redrawn_likeness(SimpleNamespace(vae=vae), tom, 64, Colours())
    assert found == pytest.approx((1 + cosine) / 2)  # each beside itself and beside the other
    assert float(seen[0].min()) < 0  # the autoencoder takes [-1, 1]


def test_sameness_is_counted(photos, tmp_path, sd1, fresh):
    from cones.bench.sanity import _same

    asked = plan(methods=("untouched", "lora"), groups=(("tom",),))
    asked = replace(asked, changes={"lora": {"steps": 1}})
    evaluation = Evaluation(fresh(sd1), photos, asked, tmp_path / "w")
    evaluation.run(ENCODERS)
    assert _same(evaluation, "lora") == 0.0
    assert _same(evaluation, "untouched") == 1.0


def test_likeness_of_photos_to_each_other(tmp_path):
    for number, colour in enumerate(((255, 0, 0), (255, 0, 0), (0, 255, 0))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{number}.png")
    found = likeness_of(Photos("tom", "cat", tmp_path), 64, Colours())
    assert found == pytest.approx(1 / 3)  # one pair of three
    for number in (1, 2):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(SubjectError, match="expected at least two"):
        likeness_of(Photos("tom", "cat", tmp_path), 64, Colours())


def test_the_best_are_alike_and_still_listen():
    images = torch.tensor([0.9, 0.1, 0.5, 0.7])
    texts = torch.tensor([0.1, 0.9, 0.8, 0.7])
    assert best(images, texts, 2) == [3, 2]
    assert best(images, texts.flip(0), 1) == [0]
    assert spread(["a", "b", "c"], 2) == ["a", "b"]
    assert spread(["a"], 2) == ["a", "a"]


def test_a_sheet_shows_photos_and_the_best_of_every_method(photos, tmp_path, sd1, fresh):
    asked = plan(methods=("untouched", "dreambooth"), groups=(("tom",), ("tom", "rex")), images=4)
    rows = best_pictures(fresh(sd1), photos, asked, ENCODERS, work=tmp_path / "w", keep=2)
    assert [row.label for row in rows] == ["photos", "untouched", "dreambooth"]
    assert [len(row.images) for row in rows] == [4, 4, 4]
    assert [image.getpixel((9, 9))[0] for image in rows[0].images] == [0, 0, 0, 80]
    drawn = {path.read_bytes() for path in (tmp_path / "w").rglob("00-*.png")}
    assert len(drawn) == 16
    shown = {image.tobytes() for row in rows[1:] for image in row.images}
    assert len(shown) == 8


def test_the_commands_write_what_they_measured(photos, tmp_path, sd1, fresh, monkeypatch):
    import cones.cli.places as places
    import cones.encoders as encoders
    import cones.metrics as metrics
    from cones.cli import app
    from cones.plot import read_settings

    pipeline = fresh(sd1)
    monkeypatch.setattr(places, "pipeline", lambda *a, **k: pipeline)
    monkeypatch.setattr(metrics, "load_judge", lambda: Colours())
    monkeypatch.setattr(encoders, "load_clip", lambda path: Colours())

    def run(*words):
        given = ["--photos", str(photos), "--work", str(tmp_path / "w")]
        return CliRunner().invoke(app, ["bench", *words, *given])

    sheet, record = tmp_path / "best.png", tmp_path / "sanity.json"
    asked = ["side-by-side", "--group", "tom", "--method", "untouched", "-o", str(sheet)]
    done = run(*asked, "--images", "2", "--keep", "1")
    assert done.exit_code == 0, done.output
    assert read_settings(sheet)["methods"] == ["untouched"]
    for bad in (["--prompt", "a cat"], ["--images", "2", "--keep", "3"]):
        refused = run(*asked, "--overwrite", *bad)
        assert refused.exit_code == 1
        assert "expected {} in the prompt" in " ".join(refused.output.split())
    brief = ["--change", "lora.steps=1", "--set", "prior_count=2", "--set", "prior_steps=1"]
    asked = ["sanity", "--subject", "tom", "--method", "lora", "--images", "2", *brief]
    done = run(*asked, "-o", str(record))
    assert done.exit_code == 0, done.output
    found = json.loads(record.read_text())
    assert found["settings"]["lora"]["steps"] == 1
    assert found["settings"]["lora"]["rate"] == LONG["lora"]["rate"]
    assert "untrained: 100% of pictures the same" in done.output
