"""The search benchmarks: intervals by hand, resumption to the same table, docs that agree."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.base_check import BaseCheck
from cones.bench import tables
from cones.bench.cells import subject_folders
from cones.bench.interval import interval, paired
from cones.bench.ledger import Ledger
from cones.bench.rules import rules_figures, rules_table
from cones.bench.search import Pictures, controls, search_figures, search_summary
from cones.bench.strangers import strangers_figures, strangers_summary
from cones.certificate import certify
from cones.concept import Concept, Member
from cones.errors import SearchError, SubjectError
from cones.find import Settings, find
from cones.mask import ConceptMask
from cones.objective import Parts

ROOT = Path(__file__).parent.parent
SHAPES = {"a.to_k.weight": (4, 5), "b.to_v.weight": (6,)}
EFFECT = {"refine": -0.2, "adam": -0.1, "sum": 0.3}


class Finder:
    """Give a concept whose certificate follows from subject, rule and seed; count the calls."""

    def __init__(self, fail_at=None):
        self.asked, self.settings, self.fail_at = [], [], fail_at

    def __call__(self, pipeline, subject, *, settings, cache_dir, state_dir):
        if len(self.asked) == self.fail_at:
            raise KeyboardInterrupt
        self.settings.append(settings)
        self.asked.append((subject.noun, settings.rule, settings.seed))
        before = 0.5 + 0.01 * settings.seed + 0.001 * len(subject.noun)
        after = before + EFFECT[settings.rule] - 0.01 * settings.seed
        sides = {"untouched": before, "shut": after, "random": before + 0.05}
        certificate = {
            side: {"subject": loss, "prior": 0.4, "loss": loss + 0.4}
            for side, loss in sides.items()
        }
        where = {"a.to_k.weight": torch.tensor([1, 7, 9]), "b.to_v.weight": torch.tensor([2])}
        base = BaseCheck.of({n: torch.ones(s) for n, s in SHAPES.items()}, "fake")
        member = Member(subject.identifier, subject.noun)
        mask = ConceptMask(SHAPES, where)
        return Concept((mask,), 0, (member,), base, {}, certificate | {"seconds": 2.0})


@pytest.fixture
def photos(tmp_path):
    for name, noun in (("tom", "cat"), ("rex", "dog"), ("vase", "pot")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), (80, 90, 100)).save(folder / "00.png")
        (folder / "subject.json").write_text(json.dumps({"noun": noun}))
    return tmp_path / "photos"


def without_machine(figures):
    return {name: value for name, value in figures.items() if name != "machine"}


def test_the_interval_is_that_of_all_resamples():
    groups = {"cat": [1.0, 3.0], "dog": [-2.0, 0.5]}
    every = []
    for who in itertools.product(groups.values(), repeat=2):
        for a in itertools.product(who[0], repeat=2):
            every += [(sum(a) + sum(b)) / 4 for b in itertools.product(who[1], repeat=2)]
    found = interval(groups, draws=200_000)
    assert found["mean"] == pytest.approx(0.625)
    assert found["low"] == pytest.approx(np.quantile(every, 0.025), abs=0.01)
    assert found["high"] == pytest.approx(np.quantile(every, 0.975), abs=0.01)
    assert found["n"] == 4


def test_the_interval_follows_shifts_scales_and_constants():
    groups = {"a": [0.3, 0.1], "b": [-1.0, 2.0], "c": [0.7, 0.9]}
    found = interval(groups)
    moved = interval({n: [2 * v + 1 for v in g] for n, g in groups.items()})
    for bound in ("mean", "low", "high"):
        assert moved[bound] == pytest.approx(2 * found[bound] + 1)
    assert found["low"] < found["mean"] < found["high"]
    same = interval({"a": [0.5, 0.5], "b": [0.5, 0.5]})
    assert (same["low"], same["high"]) == (0.5, 0.5)


def test_seeds_of_one_subject_do_not_count_as_subjects():
    """Doubling the seeds without new information leaves the interval as wide."""
    once = interval({str(v): [v] for v in (0.0, 1.0, 2.0, 5.0)}, draws=100_000)
    twice = interval({str(v): [v, v] for v in (0.0, 1.0, 2.0, 5.0)}, draws=100_000)
    assert twice["high"] - twice["low"] == pytest.approx(once["high"] - once["low"], abs=0.05)


def test_differences_pair_rows_not_means():
    rows = [
        {"subject": s, "seed": k, "shut": {"loss": 10 * k - 1}, "untouched": {"loss": 10 * k}}
        for s in "ab"
        for k in range(3)
    ]
    found = paired(rows, "shut", "untouched", "loss")
    assert found == {"mean": -1.0, "low": -1.0, "high": -1.0, "n": 6}


def test_rules_are_averaged_and_ordered(photos, tmp_path, sd1):
    finder = Finder()
    found = rules_figures(
        sd1, photos, work=tmp_path, rules=("sum", "adam", "refine"), seeds=(0, 2), finder=finder
    )
    assert list(found["table"]) == ["refine", "adam", "sum"]
    for rule, figures in found["table"].items():
        for name in ("subject", "loss"):
            assert figures["change"][name]["mean"] == pytest.approx(EFFECT[rule] - 0.01)
        assert figures["change"]["prior"] == {"mean": 0, "low": 0, "high": 0, "n": 6}
        assert figures["shut"]["subject"] == pytest.approx(0.503 + EFFECT[rule])
        assert figures["beats_random"]["mean"] == pytest.approx(EFFECT[rule] - 0.06)
        assert figures["seconds"] == 2
    assert len(found["rows"]) == len(set(finder.asked)) == 18
    assert found["settings"]["density"] == found["density"] == 0.0132
    gradients = {s.rule: s.steps + (s.rule == "refine") * s.refine_steps for s in finder.settings}
    assert set(gradients.values()) == {Settings().steps + Settings().refine_steps}


def test_an_interrupted_benchmark_gives_the_same_table(photos, tmp_path, sd1):
    options = {"rules": ("adam", "refine"), "seeds": (0, 1)}
    whole = rules_figures(sd1, photos, work=tmp_path / "a", finder=Finder(), **options)
    broken = Finder(fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        rules_figures(sd1, photos, work=tmp_path / "b", finder=broken, **options)
    ledger = tmp_path / "b" / "rules.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])  # the last line is cut short
    rest = Finder()
    resumed = rules_figures(sd1, photos, work=tmp_path / "b", finder=rest, **options)
    assert json.dumps(without_machine(resumed)) == json.dumps(without_machine(whole))
    assert len(rest.asked) == 12 - 5  # the fifth concept was kept, though its line was not
    again = Finder()
    rules_figures(sd1, photos, work=tmp_path / "b", finder=again, **options)
    assert not again.asked


def test_nothing_old_is_used_for_a_new_question(photos, tmp_path, sd1):
    def calls(**changes):
        finder = Finder()
        options = {"rules": ("adam",), "seeds": (0,), "settings": Settings()} | changes
        rules_figures(sd1, photos, work=tmp_path, finder=finder, **options)
        return len(finder.asked)

    assert calls() == 3
    assert calls() == 0
    assert calls(settings=Settings(steps=7)) == 3
    assert calls(density=0.05) == 3
    assert calls(subjects=["tom"], seeds=(4,)) == 1
    Image.new("RGB", (64, 64), (1, 2, 3)).save(photos / "tom" / "00.png")
    assert calls() == 1


def test_a_ledger_keeps_what_is_finished(tmp_path):
    ledger = Ledger(tmp_path / "deep" / "cells.jsonl")
    assert ledger.get({"a": 1, "b": 2}, lambda: {"x": (1, 2)}) == {"x": [1, 2]}
    again = Ledger(ledger.path)
    assert len(again) == 1
    assert again.get({"b": 2, "a": 1}, lambda: pytest.fail("measured twice")) == {"x": [1, 2]}


class Score:
    """Judge pictures by nothing but their number, and remember what came."""

    figures = ("image_alignment",)

    def __init__(self):
        self.seen = []

    def __call__(self, pixels, prompts, photos):
        self.seen.append((pixels, list(prompts), photos))
        return {"image_alignment": 0.1 * len(self.seen)}


def test_the_search_table_counts_and_pairs(photos, tmp_path, sd1):
    found = search_figures(sd1, photos, work=tmp_path, score=None, finder=Finder())
    summary = found["summary"]
    for side in ("untouched", "random"):
        wins = summary["wins"][f"shut_below_{side}"]
        assert wins == {"subjects": 3, "of_subjects": 3, "pairs": 6, "of_pairs": 6}
    change = summary["differences"]["shut_minus_untouched"]["subject"]
    assert change["mean"] == pytest.approx((-0.2 - 0.21) / 2)
    assert -0.21 - 1e-9 <= change["low"] <= change["mean"] <= change["high"] <= -0.2 + 1e-9
    by_seed = summary["by_seed"]["1"]["shut_minus_random"]["subject"]
    assert by_seed["mean"] == pytest.approx(-0.26)
    assert found["seeds"] == [0, 1]
    assert summary["seconds"] == {"find": 2.0}
    assert {"processor", "threads", "torch"} <= found["machine"].keys()


def test_a_loss_is_not_counted_as_a_win():
    def row(subject, seed, shut):
        sides = {"untouched": 0.5, "shut": shut, "random": 0.6}
        figures = {side: {"subject": value} for side, value in sides.items()}
        return {"subject": subject, "seed": seed, "density": 0.01, "seconds": {}, **figures}

    rows = [row("a", 0, 0.4), row("a", 1, 0.55), row("b", 0, 0.5), row("b", 1, 0.5)]
    wins = search_summary(rows)["wins"]
    expected = {"subjects": 1, "of_subjects": 2, "pairs": 1, "of_pairs": 4}
    assert wins["shut_below_untouched"] == expected
    assert wins["shut_below_random"]["subjects"] == 2
    with pytest.raises(SearchError, match="found no rows"):
        search_summary([])


def tiny_search(pipeline, subject, **options):
    """Search for real, but for a moment."""
    settings = replace(options.pop("settings"), held_out=4, flip=False)
    settings = replace(settings, steps=2, refine_steps=1, batch=1, prior_count=2, prior_steps=2)
    return find(pipeline, subject, settings=settings, **options)


def test_one_subject_from_photos_to_scores(photos, tmp_path, sd1, fresh):
    score, pictures = (
        Score(),
        Pictures(prompts=("a {} on grass", "a photo of a {}"), count=2, steps=2),
    )
    pipeline = fresh(sd1)
    before = {n: p.clone() for n, p in pipeline.unet.named_parameters()}
    options = {"work": tmp_path, "subjects": ["tom"], "seeds": (3,), "pictures": pictures}
    found = search_figures(pipeline, photos, score=score, finder=tiny_search, **options)
    assert [len(pixels) for pixels, _, _ in score.seen] == [4, 4, 4]
    assert score.seen[0][1] == ["a cat on grass"] * 2 + ["a photo of a cat"] * 2
    row = found["rows"][0]
    sides = ("untouched", "shut", "random")
    assert [row[side]["image_alignment"] for side in sides] == pytest.approx([0.1, 0.2, 0.3])
    assert not torch.equal(score.seen[0][0], score.seen[1][0])
    assert row["seconds"]["pictures"] >= 0
    assert all(torch.equal(p, before[n]) for n, p in pipeline.unet.named_parameters())
    assert not list((tmp_path / "state").iterdir())
    again = search_figures(pipeline, photos, score=score, finder=Finder(fail_at=0), **options)
    assert without_machine(again) == without_machine(found)


def test_every_concept_is_measured_on_every_subject(photos, tmp_path, sd1, fresh):
    options = {"work": tmp_path, "subjects": ["rex", "tom"], "seeds": (3,), "finder": tiny_search}
    settings = Settings(held_out=4, flip=False, prior_count=2, prior_steps=2, batch=1)
    options["settings"] = settings
    found = strangers_figures(fresh(sd1), photos, **options)
    table = search_figures(fresh(sd1), photos, score=None, **(options | {"finder": Finder(0)}))
    for row, searched in zip(found["rows"], table["rows"], strict=True):
        assert list(row["losses"]) == ["", "rex", "tom"]
        assert row["losses"][""] == pytest.approx(searched["untouched"])
        assert row["losses"][row["subject"]] == pytest.approx(searched["shut"])
        assert len({round(loss["subject"], 9) for loss in row["losses"].values()}) == 3
    with pytest.raises(SubjectError, match="found one subject"):
        strangers_figures(sd1, photos, **(options | {"subjects": ["tom"]}))


def test_strangers_are_counted_by_hand():
    def row(subject, seed, **losses):
        each = {who: dict.fromkeys(("subject", "prior", "loss"), v) for who, v in losses.items()}
        return {"subject": subject, "seed": seed, "losses": {"": each.pop("nobody"), **each}}

    rows = [
        row("a", 0, nobody=0.5, a=0.3, b=0.4, c=0.6),
        row("b", 0, nobody=0.5, a=0.3, b=0.35, c=0.2),
    ]
    found = strangers_summary(rows)
    assert found["subject"]["own"]["mean"] == pytest.approx((-0.2 - 0.15) / 2)
    assert found["subject"]["strangers"]["mean"] == pytest.approx((0.0 - 0.25) / 2)
    assert found["loss"]["own_minus_strangers"]["mean"] == pytest.approx((-0.2 + 0.1) / 2)
    assert (found["rank"], found["chance"]) == ((1 + 3) / 2, 2)
    assert (found["best"], found["of"]) == (1, 2)


class FakeLoss:
    """The held-out loss is the sum of the weights."""

    def parts(self, weights, *, samples, seed):
        total = sum(w.sum() for w in weights.values())
        return Parts(total.repeat(samples), total.repeat(samples))


def test_the_random_control_is_the_one_of_the_certificate():
    generator = torch.Generator().manual_seed(5)
    weights = {n: torch.rand(s, generator=generator) for n, s in SHAPES.items()}
    settings = Settings(seed=11)
    concept = Finder()(None, Subjectlike(), settings=settings, cache_dir=None, state_dir=None)
    certificate, _ = certify(
        FakeLoss(), weights, concept.levels, samples=2, seed=11, density=4 / 26
    )
    random = controls(concept, seed=11)["random"].mask
    kept = sum(float(w[~random.hits()[n]].sum()) for n, w in weights.items())
    assert certificate["random"]["subject"] == pytest.approx(kept)
    assert {n: len(i) for n, i in random.indices.items()} == {
        n: len(i) for n, i in concept.mask.indices.items()
    }
    assert len(controls(concept, seed=11)["untouched"].mask) == 0


class Subjectlike:
    noun, identifier = "cat", "V*"


def test_folders_without_a_noun_are_refused(photos, tmp_path):
    assert [(p.name, p.noun) for p in subject_folders(photos)] == [
        ("rex", "dog"),
        ("tom", "cat"),
        ("vase", "pot"),
    ]
    with pytest.raises(SubjectError, match="found no subjects"):
        subject_folders(tmp_path / "nowhere")
    assert [p.name for p in subject_folders(photos, ["vase", "tom"])] == ["tom", "vase"]
    with pytest.raises(SubjectError, match="found no subject rexx; expected some of rex, tom"):
        subject_folders(photos, ["rexx", "tom"])
    (photos / "tom" / "subject.json").write_text("{}")
    with pytest.raises(SubjectError, match=r"tom/subject\.json names no noun"):
        subject_folders(photos)


def test_the_page_quotes_the_figures(photos, tmp_path, sd1, fresh):
    docs = tmp_path / "docs"
    searched = search_figures(sd1, photos, work=tmp_path, score=None, finder=Finder())
    tables.record("search", searched, docs)
    compared = rules_figures(sd1, photos, work=tmp_path, rules=("sum", "refine"), finder=Finder())
    tables.record("rules", compared, docs)
    compared = strangers_figures(
        fresh(sd1),
        photos,
        work=tmp_path,
        finder=tiny_search,
        settings=Settings(prior_count=2, held_out=4),
    )
    tables.record("strangers", compared, docs)
    results = json.loads((docs / tables.RESULTS).read_text())
    assert list(results) == ["search", "strangers", "rules"]
    gap = compared["summary"]["loss"]["own_minus_strangers"]
    assert f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" in tables.markdown(
        results
    )
    assert results["search"]["rows"] == searched["rows"]
    page = (docs / tables.PAGE).read_text()
    assert page == tables.markdown(results)
    assert "3 of 3 subjects (6 of 6 searches)" in page
    assert page.count(f"with the model `{searched['model']}`") == 3
    change = searched["summary"]["differences"]["shut_minus_untouched"]["subject"]
    assert f"{change['mean']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]" in page
    assert page.index("`refine`") < page.index("`sum`")
    assert not [p for p in docs.rglob("*") if p.name.endswith(".part")]
    with pytest.raises(SearchError, match="found part 'x'"):
        tables.record("x", {}, docs)


def test_unwritable_figures_leave_the_old_ones(tmp_path):
    tables.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        tables.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    shutil.rmtree(tmp_path)


def test_the_docs_agree_with_the_measurements():
    path = ROOT / "docs" / tables.RESULTS
    if not path.exists():
        pytest.skip("docs/results/search.json has not been measured yet")
    results = json.loads(path.read_text("utf-8"))
    assert (ROOT / "docs" / tables.PAGE).read_text("utf-8") == tables.markdown(results)
    if "search" in results:
        assert results["search"]["summary"] == search_summary(results["search"]["rows"])
    if "strangers" in results:
        assert results["strangers"]["summary"] == strangers_summary(results["strangers"]["rows"])
    if "rules" in results:
        assert results["rules"]["table"] == rules_table(results["rules"]["rows"])
