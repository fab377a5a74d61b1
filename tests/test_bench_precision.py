"""The precision benchmark: all sides of one case, resumption, the page, and the docs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cones.bench import precision_page as page
from cones.bench.precision import LEARNT, SIDES, Training, precision_figures, precision_summary
from cones.bench.search import Pictures, controls
from cones.cli import app
from cones.concept_file import load
from cones.errors import SearchError
from cones.find import Settings
from cones.precision import PRECISIONS

ROOT = Path(__file__).parent.parent
TINY = Settings(
    steps=2, refine_steps=1, batch=1, prior_count=2, prior_steps=1, held_out=2, flip=False
)
TINY = replace(TINY, density=0.2, levels=False)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "tom"
    folder.mkdir(parents=True)
    for number, colour in enumerate(((200, 90, 30), (80, 90, 100))):
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
    (folder / "subject.json").write_text(json.dumps({"noun": "cat"}))
    return tmp_path / "photos"


class Score:
    """Judge pictures by their brightness, and remember what came."""

    figures = ("image_alignment",)

    def __init__(self):
        self.seen = []

    def __call__(self, pixels, prompts, photos):
        self.seen.append(pixels)
        return {"image_alignment": float(pixels.mean())}


def without_machine(figures):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in figures["rows"]]
    return json.dumps({k: v for k, v in figures.items() if k != "machine"} | {"rows": rows})


@pytest.fixture
def options(tmp_path):
    return {
        "work": tmp_path / "work",
        "seeds": (3,),
        "settings": TINY,
        "training": Training(steps=2, rate=0.02),
        "pictures": Pictures(prompts=("a {} on grass",), count=1, steps=1),
    }


def test_all_sides_of_one_case(photos, sd1, fresh, options, tmp_path):
    pipeline, score = fresh(sd1), Score()
    before = {n: p.clone() for n, p in pipeline.unet.named_parameters()}
    found = precision_figures(pipeline, photos, score=score, **options)
    assert all(torch.equal(p, before[n]) for n, p in pipeline.unet.named_parameters())
    (row,) = found["rows"]
    (kept,) = (tmp_path / "work" / "concepts").iterdir()
    concept = load(kept)
    for side in ("untouched", "shut"):
        measured = {name: row[side][name] for name in ("subject", "prior", "loss")}
        assert measured == pytest.approx(concept.certificate[side])
    assert len({row[side]["loss"] for side in SIDES}) == len(SIDES)
    assert len(score.seen) == len(SIDES)
    assert len({pixels.numpy().tobytes() for pixels in score.seen}) >= len(SIDES) - 1  # float16
    files = {path.name.split("-")[1]: path for path in (tmp_path / "work" / "values").iterdir()}
    assert sorted(files) == sorted(LEARNT)
    for side, path in files.items():
        assert row[side]["bytes"] == path.stat().st_size
        valued = load(path)
        assert valued.settings["values"] == {"steps": 2, "rate": 0.02}
        assert valued.values.precision == ("float32" if side == "random" else side)
        where = controls(concept, seed=3)["random" if side == "random" else "shut"].mask
        assert valued.mask == where
    sizes = [row[side]["bytes"] for side in ("float32", "float16", "quaternary", "binary", "shut")]
    assert sizes == sorted(sizes, reverse=True)
    assert "bytes" not in row["untouched"]


def test_every_precision_learns_from_the_samples_after_those_of_the_search(
    photos, sd1, fresh, options, monkeypatch
):
    from cones.bench import precision
    from cones.objective import ImplantingLoss

    asked, seen = [], []
    real, at = precision.optimised, ImplantingLoss.at

    def watched(losses, weights, mask, *, precision, steps, rate):
        monkeypatch.setattr(ImplantingLoss, "at", lambda _, step, seed: asked.append((step, seed)))
        losses(0), losses(1)
        monkeypatch.setattr(ImplantingLoss, "at", at)
        seen.append((precision, steps, rate))
        return real(losses, weights, mask, precision=precision, steps=0, rate=rate)

    monkeypatch.setattr(precision, "optimised", watched)
    precision_figures(fresh(sd1), photos, **options)
    assert seen == [(name, 2, 0.02) for name in (*PRECISIONS, "float32")]
    assert asked == [(TINY.steps + TINY.refine_steps + k, 3) for k in (0, 1)] * len(seen)


def test_an_interrupted_bench_goes_on(photos, sd1, fresh, options, tmp_path, monkeypatch):
    from cones.bench import precision

    options |= {"training": Training(steps=0)}
    whole = precision_figures(fresh(sd1), photos, **options)
    again = {**options, "work": tmp_path / "again"}
    real, calls, broken = precision.optimised, [], [True]

    def stopping(*args, **kwargs):
        calls.append(kwargs["precision"])
        if broken and len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(precision, "optimised", stopping)
    with pytest.raises(KeyboardInterrupt):
        precision_figures(fresh(sd1), photos, **again)
    told = []
    broken.clear()
    resumed = precision_figures(fresh(sd1), photos, on_progress=told.append, **again)
    assert without_machine(resumed) == without_machine(whole)
    assert calls == ["float32", "float16", "quaternary", "quaternary", "binary", "float32"]
    assert [(s.stage, s.step, s.steps) for s in told] == [("precision", k, 7) for k in range(1, 8)]
    calls.clear()
    unable = {**again, "finder": lambda *a, **k: pytest.fail("searched again")}
    assert without_machine(precision_figures(fresh(sd1), photos, **unable)) == without_machine(
        whole
    )
    assert not calls
    drawn = precision_figures(fresh(sd1), photos, score=Score(), **unable)
    assert not calls, "the values are read from the files that were kept"
    assert drawn["rows"][0]["binary"]["loss"] == whole["rows"][0]["binary"]["loss"]
    other = {**again, "training": Training(steps=1)}
    precision_figures(fresh(sd1), photos, **other)
    assert len(calls) == len(LEARNT)


def test_the_random_positions_are_those_of_the_certificate(photos, sd1, fresh, options):
    """No updates at random positions is the untouched model; shut there, the certificate's."""
    still = {**options, "training": Training(steps=0)}
    row = precision_figures(fresh(sd1), photos, **still)["rows"][0]
    for name in ("subject", "prior", "loss"):
        assert row["random"][name] == row["float32"][name] == row["untouched"][name]
    assert row["binary"]["loss"] != row["untouched"]["loss"]


def fake_row(subject, seed, **losses):
    row = {"subject": subject, "seed": seed, "density": 0.01 + 0.01 * seed, "seconds": {}}
    for number, side in enumerate(SIDES):
        value = losses.get(side, 0.5)
        row[side] = {"subject": value, "prior": 0.4, "loss": value + 0.4}
        if side != "untouched":
            row[side]["bytes"] = 1000 * number
    return row


def test_the_summary_by_hand():
    rows = [
        fake_row("a", 0, untouched=0.6, float32=0.4, binary=0.45),
        fake_row("a", 1, untouched=0.6, float32=0.2, binary=0.35),
    ]
    found = precision_summary(rows)
    assert found["means"]["float32"]["subject"]["mean"] == pytest.approx(0.3)
    assert found["means"]["binary"]["bytes"]["mean"] == 5000
    assert "bytes" not in found["means"]["untouched"]
    gap = found["differences"]["float32"]["binary"]["loss"]
    assert (gap["mean"], gap["low"], gap["high"]) == pytest.approx((0.1, 0.05, 0.15))
    assert found["differences"]["untouched"]["float32"]["subject"]["mean"] == pytest.approx(-0.3)
    assert found["differences"]["shut"]["random"]["prior"]["mean"] == 0
    assert found["density"] == pytest.approx(0.015)
    with pytest.raises(SearchError, match="found no rows"):
        precision_summary([])


def test_the_command_measures_and_writes_the_page(photos, sd1, tmp_path):
    sd1.save_pretrained(tmp_path / "model")
    fields = ("steps=1", "refine_steps=1", "batch=1", "prior_count=2", "prior_steps=1")
    given = [
        w for f in (*fields, "held_out=2", "density=0.2", "levels=false") for w in ("--set", f)
    ]
    command = ["bench", "precision", "--photos", photos, "--model", tmp_path / "model"]
    command += ["--work", tmp_path / "work", "--docs", tmp_path / "docs", "--no-pictures"]
    command += ["--steps", 1, "--seed", 0, "--json", *given]
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "docs" / page.RESULTS).read_text())
    assert json.loads(result.stdout) == found
    written = (tmp_path / "docs" / page.PAGE).read_text()
    assert written == page.markdown(found)
    gap = found["summary"]["differences"]["shut"]["random"]["loss"]
    assert f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" in written
    assert f"{found['summary']['means']['quaternary']['bytes']['mean'] / 1000:.1f} kB" in written
    assert f"with the model `{found['model']}`" in written


def test_the_docs_agree_with_the_measurements():
    path = ROOT / "docs" / page.RESULTS
    if not path.exists():
        pytest.skip("docs/results/precision.json has not been measured yet")
    found = json.loads(path.read_text("utf-8"))
    assert (ROOT / "docs" / page.PAGE).read_text("utf-8") == page.markdown(found)
    assert found["summary"] == precision_summary(found["rows"])
