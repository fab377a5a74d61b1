"""Conflicts: crowding by hand, measured harm by hand, correlations, the command and its page."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cones.backbones import backbone_for
from cones.bench import conflicts_page
from cones.bench.conflicts import conflicts_figures, conflicts_summary
from cones.bench.correlation import correlation, ranks, spearman
from cones.certificate import closed
from cones.cli import app
from cones.concept_file import save
from cones.conflicts import crowding, measured, predicted, subject_loss
from cones.errors import MaskError, SubjectError
from cones.mask import ConceptMask
from cones.plot import read_settings, scatter_picture
from cones.subject import Subject
from fakes import make_concept

ROOT = Path(__file__).parents[1]


def mask(*shape: int, share: float = 0.3, seed: int = 0) -> ConceptMask:
    draw = torch.Generator().manual_seed(seed)
    return ConceptMask.where(
        {name: torch.rand(shape, generator=draw) < share for name in ("a.to_k", "b.to_v")}
    )


def by_hand(own: ConceptMask, other: ConceptMask) -> dict[str, float]:
    """Go through all pairs of an own neuron and another's, one by one."""
    found = {"rows": 0.0, "columns": 0.0, "layers": 0.0}
    for name, (rows, columns) in own.shapes.items():
        ours = {divmod(int(i), columns) for i in own.indices[name]}
        theirs = {divmod(int(i), columns) for i in other.indices[name]} - ours
        for (r, c), (s, d) in itertools.product(ours, theirs):
            found["rows"] += (r == s) / columns
            found["columns"] += (c == d) / rows
            found["layers"] += 1 / (rows * columns)
    return {key: value / len(own) for key, value in found.items()}


def test_crowding_counts_what_the_other_shuts_in_addition() -> None:
    own, other = mask(5, 7, seed=1), mask(5, 7, share=0.5, seed=2)
    assert crowding(own, other) == pytest.approx(by_hand(own, other))
    assert crowding(other, own) != pytest.approx(crowding(own, other))
    assert set(crowding(own, own).values()) == {0.0}
    nobody = ConceptMask.empty(own.shapes)
    assert set(crowding(nobody, own).values()) == {0.0}
    row = ConceptMask.where({"a": torch.tensor([[True, False, False], [False] * 3])})
    rest = ConceptMask.where({"a": torch.tensor([[False, True, True], [False] * 3])})
    assert crowding(row, rest) == pytest.approx({"rows": 2 / 3, "columns": 0, "layers": 1 / 3})


def test_random_neurons_crowd_all_places_alike() -> None:
    own, other = mask(40, 60, seed=1), mask(40, 60, seed=2)
    found = crowding(own, other)
    assert found["rows"] == pytest.approx(found["layers"], rel=0.05)
    assert found["columns"] == pytest.approx(found["layers"], rel=0.05)


def test_the_report_says_what_is_shared_beside_chance() -> None:
    a, b = mask(20, 30, seed=1), mask(20, 30, share=0.2, seed=2)
    found = predicted(a, b)
    assert (found["shared"], found["union"]) == (len(a & b), len(a | b))
    one = found["sites"]["a.to_k"]
    first, second = (len(each.indices["a.to_k"]) for each in (a, b))
    chance = first * second / 600
    assert one["jaccard_by_chance"] == pytest.approx(chance / (first + second - chance))
    assert sum(row["shared"] for row in found["sites"].values()) == len(a & b)
    assert found["on_second"] == crowding(b, a)
    nobody = ConceptMask.empty(a.shapes)
    assert predicted(nobody, nobody)["jaccard_by_chance"] == 0
    with pytest.raises(MaskError, match="different"):
        predicted(a, ConceptMask.empty({"a.to_k": (3, 4)}))


def test_measured_harm_is_the_loss_with_both_shut(sd1: Any, fresh: Any) -> None:
    pipeline = fresh(sd1)
    own, two = (make_concept(pipeline, seed=seed) for seed in (1, 2))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loss = subject_loss(pipeline, Subject(images, "cat"), own)
    assert len(loss.subject) == 4
    assert loss.prior is None
    weights = backbone_for(pipeline).weights("both")
    found = measured(loss, weights, own.mask, {"two": two.mask}, samples=6, seed=3)

    def mean(shut: ConceptMask | None) -> torch.Tensor:
        live = weights if shut is None else closed(weights, shut)
        return loss.parts(live, samples=6, seed=3).subject

    assert found["untouched"] == float(mean(None).mean())
    alone, union = mean(own.mask), mean(own.mask | two.mask)
    assert found["alone"] == float(alone.mean())
    harm = found["with"]["two"]
    assert harm["union"] == float(union.mean())
    spread = math.sqrt(float((union - alone).var()) / 6)
    assert harm["union_error"] == pytest.approx(spread, rel=1e-5)
    assert harm["random"] not in (harm["union"], found["alone"])
    again = measured(loss, weights, own.mask, {"me": own.mask}, samples=6, seed=3)["with"]["me"]
    assert again["union"] == found["alone"]
    assert again["union_error"] == 0


def test_ranks_share_places_and_spearman_is_pearson_of_them() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0, 2.5, 1]
    rng = np.random.default_rng(1)
    x, y = rng.integers(5, size=30), rng.normal(size=30)
    assert spearman(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1])
    assert spearman(x, np.exp(x / 2)) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert spearman(x, np.ones(30)) == 0


def test_correlation_respects_subjects() -> None:
    names = "abcdefgh"
    rng = np.random.default_rng(0)
    x = {pair: rng.normal() for pair in itertools.combinations(names, 2)}
    same = correlation(x, {pair: 2 * value for pair, value in x.items()}, draws=200)
    assert same["rho"] == pytest.approx(1)
    assert same["low"] == pytest.approx(1)
    assert same["p"] < 0.02
    assert same["pairs"] == 28
    noise = {pair: rng.normal() for pair in x}
    found = correlation(x, noise, draws=200)
    assert found["p"] > 0.05
    assert found["low"] < found["rho"] < found["high"]
    level = dict(zip(names, rng.normal(size=8), strict=True))
    by_subject = {(a, b): level[a] + level[b] for a, b in x}
    found = correlation(by_subject, {p: v + 0.01 * noise[p] for p, v in by_subject.items()})
    assert found["p"] < 0.02


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, colour in (("ann", "red"), ("bob", "green"), ("cid", "blue")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        (folder / "subject.json").write_text('{"noun": "cat"}')
        Image.new("RGB", (64, 64), colour).save(folder / "0.png")
    return tmp_path / "photos"


def finder(pipeline: Any, subject: Any, **_: Any) -> Any:
    return make_concept(pipeline, seed=int(100 * subject.images.mean((0, 2, 3))[0]) + 1)


def test_the_page_quotes_the_figures(photos: Path, tmp_path: Path, sd1: Any, fresh: Any) -> None:
    options = {"work": tmp_path / "work", "samples": 4}
    asked = []

    def counted(pipeline: Any, subject: Any, **more: Any) -> Any:
        asked.append(subject)
        backbone_for(pipeline).register("V*")
        found = finder(pipeline, subject, **more)
        vectors = backbone_for(pipeline).register("V*")
        (member,) = found.members
        return type(found)(found.levels, 1, (type(member)("V*", "cat", vectors),), found.base)

    found = conflicts_figures(fresh(sd1), photos, finder=counted, **options)
    assert len(asked) == 3
    assert [pair["of"] for pair in found["pairs"]] == [
        ["ann", "bob"],
        ["ann", "cid"],
        ["bob", "cid"],
    ]
    first = found["pairs"][0]
    one, two = (next(r for r in found["rows"] if r["subject"] == n) for n in ("ann", "bob"))
    rise = [r["with"][o]["union"] - r["alone"] for r, o in ((one, "bob"), (two, "ann"))]
    assert first["rise"] == pytest.approx(sum(rise) / 2)
    assert first["rise"] == pytest.approx(first["beyond_random"] + first["random"])
    summary = found["summary"]
    assert summary["of"] == 6
    assert summary["gain"]["n"] == 3
    again = conflicts_figures(fresh(sd1), photos, finder=counted, **options)
    assert (again["rows"], len(asked)) == (found["rows"], 3)
    conflicts_page.record(found, tmp_path / "docs")
    kept = json.loads((tmp_path / "docs" / conflicts_page.RESULTS).read_text())
    page = (tmp_path / "docs" / conflicts_page.PAGE).read_text()
    assert page == conflicts_page.markdown(kept)
    assert "does not predict" in page
    assert read_settings(tmp_path / "docs" / conflicts_page.PLOT)["pairs"] == 3
    with pytest.raises(SubjectError, match="found 2 subjects"):
        conflicts_figures(fresh(sd1), photos, subjects=["ann", "bob"], **options)


def test_the_verdict_follows_the_figures() -> None:
    def said(rho: float, low: float, high: float, p: float, change: tuple[float, float]) -> str:
        entry = {"rho": rho, "low": low, "high": high, "p": p}
        summary = {
            "correlations": {k: {"rows": entry} for k in ("rise", "beyond_random")},
            "beyond_random": {"low": change[0], "high": change[1]},
        }
        return "\n".join(conflicts_page._result(summary | {"worse": 1, "of": 2, "clearly": 0}))

    assert "does not predict" in said(0.5, -0.1, 0.9, 0.01, (-1, 1))
    assert "does not predict" in said(0.5, 0.1, 0.9, 0.2, (-1, 1))
    assert "conflict more" in said(0.5, 0.1, 0.9, 0.01, (0.1, 1))
    assert "conflict less" in said(-0.5, -0.9, -0.1, 0.01, (0.1, 1))
    assert "harm a subject more than random" in said(0, -1, 1, 1, (0.1, 1))
    assert "harm a subject less than random" in said(0, -1, 1, 1, (-1, -0.1))
    assert "no more and no less than" in said(0, -1, 1, 1, (-1, 0.1))


def test_the_docs_agree_with_the_measurements() -> None:
    path = ROOT / "docs" / conflicts_page.RESULTS
    if not path.exists():
        pytest.skip("docs/results/conflicts.json has not been measured yet")
    found = json.loads(path.read_text("utf-8"))
    page = (ROOT / "docs" / conflicts_page.PAGE).read_text("utf-8")
    assert page == conflicts_page.markdown(found)
    assert found["summary"] == json.loads(
        json.dumps(conflicts_summary(found["rows"], found["pairs"]))
    )


def test_the_command_predicts_and_measures(
    photos: Path, tmp_path: Path, sd1: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    sd1.save_pretrained(model)
    for name, word, seed in (("a", "V1*", 1), ("b", "V2*", 2)):
        save(make_concept(sd1, word, seed=seed), tmp_path / f"{name}.safetensors")
    shutil.copy(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in "abc"]

    def run(*words: Any) -> Any:
        return CliRunner().invoke(app, ["conflicts", *map(str, words)])

    alone = json.loads(run(*files, "--json").stdout)
    assert [row["files"] for row in alone["pairs"]] == [
        list(pair) for pair in itertools.combinations(files, 2)
    ]
    assert alone["pairs"][2]["jaccard"] == 1
    assert "union" not in alone["pairs"][0]["on_first"]
    folders = [word for name in ("ann", "bob") for word in ("--photos", photos / name)]
    options = [*folders, "--model", model, "--device", "cpu", "--samples", 4]
    found = run(*files[:2], *options, "--json")
    assert found.exit_code == 0, found.output
    (row,) = json.loads(found.stdout)["pairs"]
    assert row["shared"] == alone["pairs"][0]["shared"]
    assert row["on_first"]["rows"] == alone["pairs"][0]["on_first"]["rows"]
    assert row["on_first"]["untouched"] != row["on_second"]["untouched"]
    told = run(*files[:2], *options)
    assert f"both {row['on_second']['union']:.4f}" in told.stdout.replace("\n", " ")
    assert "one folder per file" in " ".join(run(*files, *options).stderr.split())
    assert "found one concept file" in run(files[0]).stderr


def test_points_are_drawn_a_field_each(tmp_path: Path) -> None:
    path = tmp_path / "points.png"
    fields = {"one": [(0.0, -1.0), (1.0, 1.0)], "two": [(0.0, 1.0), (1.0, 2.0)]}
    scatter_picture(fields, path, across="x", up="y", settings={"n": 2})
    assert read_settings(path) == {"n": 2}
    with Image.open(path) as image:
        blue = np.asarray(image.convert("RGB"), dtype=int)
    marked = (blue[:, :, 2] - blue[:, :, 0] > 60).any(0).nonzero()[0]
    middle = blue.shape[1] // 2
    assert (marked < middle).any()
    assert (marked > middle).any()
