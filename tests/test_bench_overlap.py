"""The overlap benchmark: which searches are made, what is compared with what, chance by hand."""

import itertools
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cones.base_check import BaseCheck
from cones.bench import overlap_page
from cones.bench.cells import IDENTIFIER, cell_key, subject_folders
from cones.bench.overlap import compared, groups, overlap_figures, overlap_summary
from cones.concept import Concept, Member
from cones.errors import SearchError, SubjectError
from cones.find import Settings
from cones.mask import ConceptMask

ROOT = Path(__file__).parent.parent


class Finder:
    """Draw a mask from the subjects' words and the seed; remember what was asked."""

    def __init__(self, shapes):
        self.shapes, self.asked, self.masks = shapes, [], {}

    def __call__(self, pipeline, subjects, *, settings, cache_dir, state_dir):
        subjects = subjects if isinstance(subjects, list) else [subjects]
        words = tuple(subject.identifier for subject in subjects)
        self.asked.append((words, settings.seed, settings.density))
        g = torch.Generator().manual_seed(100 * settings.seed + sum(map(ord, "".join(words))))
        mask = ConceptMask.where(
            {n: torch.rand(s, generator=g) < 0.3 for n, s in self.shapes.items()}
        )
        self.masks[words, settings.seed] = mask
        members = tuple(Member(subject.identifier, subject.noun) for subject in subjects)
        base = BaseCheck.of({n: torch.ones(s) for n, s in self.shapes.items()}, "fake")
        return Concept((mask,), 0, members, base)


@pytest.fixture
def photos(tmp_path):
    for name, noun in (("ann", "cat"), ("bob", "dog"), ("cid", "pot"), ("dan", "cat")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), (80, 90, 100)).save(folder / "00.png")
        (folder / "subject.json").write_text(json.dumps({"noun": noun}))
    return tmp_path / "photos"


@pytest.fixture
def finder(sd1):
    from cones.backbones import backbone_for

    return Finder({n: tuple(w.shape) for n, w in backbone_for(sd1).weights("both").items()})


def test_all_is_compared_and_nothing_searched_twice(photos, tmp_path, sd1, fresh, finder):
    options = {"work": tmp_path / "work", "finder": finder, "together": finder}
    found = overlap_figures(fresh(sd1), photos, **options)
    asked = [(words, seed) for words, seed, _ in finder.asked]
    assert len(asked) == len(set(asked)) == 2 * (4 + 4)
    near = {("V1*", "V2*"), ("V2*", "V3*"), ("V3*", "V4*"), ("V1*", "V4*")}
    assert {words for words, _ in asked if len(words) == 2} == near
    kinds = [row["what"] for row in found["rows"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "subjects": 12,
        "joint": 8,
        "again": 4,
        "union_again": 4,
        "joint_again": 4,
    }
    masks = finder.masks

    def row(what, of, seeds):
        (only,) = [
            r for r in found["rows"] if (r["what"], r["of"], r["seeds"]) == (what, of, seeds)
        ]
        return only

    one, two = masks[("V1*",), 1], masks[("V3*",), 1]
    assert row("subjects", "ann + cid", [1])["shared"] == len(one & two)
    union = masks[("V1*",), 0] | masks[("V4*",), 0]
    joint = row("joint", "ann + dan", [0])
    assert joint["shared"] == len(union & masks[("V1*", "V4*"), 0])
    assert joint["share"] == joint["shared"] / len(union)
    assert (("V1*", "V4*"), 0, union.density) in finder.asked
    again = row("again", "cid", [0, 1])
    assert again["shared"] == len(masks[("V3*",), 0] & masks[("V3*",), 1])
    both = [masks[("V1*", "V2*"), seed] for seed in (0, 1)]
    assert row("joint_again", "ann + bob", [0, 1])["union"] == len(both[0] | both[1])
    once = len(finder.asked)
    resumed = overlap_figures(fresh(sd1), photos, **options)
    assert resumed["rows"] == found["rows"]
    assert len(finder.asked) == once


def test_pairs_to_search_jointly_can_be_chosen(photos, tmp_path, sd1, fresh, finder):
    options = {"finder": finder, "together": finder, "seeds": (0,)}
    found = overlap_figures(fresh(sd1), photos, work=tmp_path / "a", joint="none", **options)
    assert {row["what"] for row in found["rows"]} == {"subjects"}
    overlap_figures(fresh(sd1), photos, work=tmp_path / "b", joint="all", **options)
    assert sum(len(words) == 2 for words, _, _ in finder.asked) == 6
    two = {"subjects": ["ann", "cid"], "work": tmp_path / "c", **options}
    overlap_figures(fresh(sd1), photos, **two)
    assert sum(len(words) == 2 for words, _, _ in finder.asked) == 7
    with pytest.raises(SearchError, match="found joint 'x'"):
        overlap_figures(fresh(sd1), photos, **(two | {"joint": "x"}))
    with pytest.raises(SubjectError, match="found one subject"):
        overlap_figures(fresh(sd1), photos, **(two | {"subjects": ["ann"]}))


def test_groups_are_rows_and_tenths_by_size():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 10, generator=g)
    found = groups({"a": weight})
    assert found["within_rows"]["a"].view(4, 10).tolist() == [[k] * 10 for k in range(4)]
    tenths = found["within_sizes"]["a"]
    assert tenths.bincount().tolist() == [4] * 10
    sizes = weight.abs().reshape(-1)
    for k in range(9):
        assert sizes[tenths == k].max() <= sizes[tenths == k + 1].min()


def test_chance_keeps_what_it_says():
    shapes = {"a": (2, 4)}
    a, b = (ConceptMask(shapes, {"a": torch.tensor(p)}) for p in ([0, 1, 4], [0, 2, 3]))
    found = compared(a, b, groups=groups({"a": torch.arange(8.0).view(2, 4)}))

    def mean(drawn: list[int]) -> float:
        count = statistics.mean(drawn)
        return count / (6 - count)

    every = [len({0, 2, 3} & set(c)) for c in itertools.combinations(range(8), 3)]
    rows = [len({0, 2, 3} & set(c)) for c in itertools.combinations(range(4), 2)]
    assert found["chance"]["expected"] == pytest.approx(mean(every))
    assert found["chance"]["within_rows"] == pytest.approx(mean(rows))
    assert (found["jaccard"], found["share"]) == (1 / 5, 1 / 3)
    assert found["chance"]["within_sizes"] == pytest.approx(1 / 5)  # one weight a tenth
    wide = ConceptMask.where({"a": torch.arange(100_000) % 7 == 0})
    drawn = compared(
        wide,
        wide,
        groups={"within_rows": {}, "within_sizes": {}} | groups({"a": torch.ones(100_000)}),
    )
    assert drawn["chance"]["random"] == pytest.approx(drawn["chance"]["expected"], rel=0.05)


def test_the_summary_averages_each_kind():
    def row(what, of, value):
        chance = dict.fromkeys(("expected", "within_rows", "within_sizes", "random"), value / 2)
        return {"what": what, "of": of, "jaccard": value, "share": 2 * value, "chance": chance}

    rows = [row("subjects", "a + b", 0.1), row("subjects", "a + c", 0.3), row("again", "a", 0.8)]
    found = overlap_summary(rows)
    assert list(found) == ["subjects", "again"]
    assert found["subjects"]["jaccard"]["mean"] == pytest.approx(0.2)
    assert found["subjects"]["within_rows"]["mean"] == pytest.approx(0.1)
    assert found["again"]["share"]["mean"] == pytest.approx(1.6)


def test_the_page_quotes_the_figures(photos, tmp_path, sd1, fresh, finder):
    found = overlap_figures(
        fresh(sd1), photos, work=tmp_path, subjects=["ann", "bob"], finder=finder, together=finder
    )
    overlap_page.record(found, tmp_path / "docs")
    kept = json.loads((tmp_path / "docs" / overlap_page.RESULTS).read_text())
    page = (tmp_path / "docs" / overlap_page.PAGE).read_text()
    assert page == overlap_page.markdown(kept)
    assert kept["rows"] == found["rows"]
    for what, figures in found["summary"].items():
        mean, low = (f"{figures['jaccard'][name]:.2%}" for name in ("mean", "low"))
        quoted = mean if figures["jaccard"]["n"] == 1 else f"{mean} [{low}, "
        assert f"| {overlap_page.SAID[what]} | {quoted}" in page
    assert "2 subjects (ann V1*, bob V2*), seeds 0, 1." in page


def test_the_docs_agree_with_the_measurements():
    path = ROOT / "docs" / overlap_page.RESULTS
    if not path.exists():
        pytest.skip("docs/results/overlap.json has not been measured yet")
    found = json.loads(path.read_text("utf-8"))
    assert (ROOT / "docs" / overlap_page.PAGE).read_text("utf-8") == overlap_page.markdown(found)
    assert found["summary"] == overlap_summary(found["rows"])


def test_cells_of_other_words_are_other_cells(photos):
    (first, *_) = subject_folders(photos)
    other = replace(first, identifier="V2*")
    assert first.subject(64).identifier == IDENTIFIER
    assert other.subject(64).identifier == "V2*"
    keys = [cell_key("x", "m", each, Settings()) for each in (first, other)]
    assert "identifier" not in keys[0]
    assert keys[1] == keys[0] | {"identifier": "V2*"}
