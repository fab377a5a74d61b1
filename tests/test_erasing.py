"""Erasing: the sign, what is searched and held out, what the page says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cones.backbones import backbone_for
from cones.bench import erase_page
from cones.bench.erase import Erasing, _Lab, erase_figures, erase_summary
from cones.cli import app
from cones.erasing import ErasingLoss, erase
from cones.errors import SearchError
from cones.find import Settings
from cones.mask import ConceptMask
from cones.objective import ImplantingLoss, examples
from fakes import Quadratic

ROOT = Path(__file__).parents[1]
QUICK = Settings(
    rule="sum", density=0.1, levels=False, steps=1, batch=2, prior_count=4, prior_steps=1
)


class Sides:
    """Give the loss of a step from :class:`Quadratic`."""

    def __init__(self, target: float) -> None:
        self.each = Quadratic({"w": torch.full((3,), target)})

    def at(self, step: int, *, seed: int) -> Any:
        return self.each(step + 10 * seed)


def test_the_loss_is_turned_and_the_kept_one_is_not() -> None:
    weights = {"w": torch.arange(3.0)}
    erased, kept = Sides(1.0), Sides(5.0)
    first, second = (side.at(2, seed=1)(weights) for side in (erased, kept))
    assert ErasingLoss(erased).at(2, seed=1)(weights) == -first
    both = ErasingLoss(erased, kept, 0.25).at(2, seed=1)
    assert both(weights) == 0.25 * second - first
    assert set(erased.each.asked) == {12}


def test_the_search_raises_what_it_erases(sd1: Any) -> None:
    """The first-order scores of the negated loss are those of the loss, negated."""
    backbone = backbone_for(sd1)
    draw = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 64, 64, generator=draw)
    pairs, other = (examples(backbone, pixels.flip(k), "a cat") for k in (1, 2))
    (found,) = erase(sd1, pairs, QUICK)
    weights = backbone.weights("both")
    loss = ImplantingLoss(backbone, pairs, batch=2).at(0, seed=0)
    live = {name: w.clone().requires_grad_() for name, w in weights.items()}
    slopes = torch.autograd.grad(loss(live), list(live.values()))
    scores = {n: -w.detach() * g for (n, w), g in zip(live.items(), slopes, strict=True)}
    cut = torch.cat([s.reshape(-1) for s in scores.values()]).sort().values[-len(found)]
    wanted = ConceptMask.where({name: s >= cut for name, s in scores.items()})
    assert len(found) == round(0.1 * found.total)
    assert len(found & wanted) > 0.99 * len(found)
    (kept,) = erase(sd1, pairs, QUICK, kept=other)
    assert kept != found


@pytest.fixture(scope="module")
def figures(sd1: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("erase")
    plan = Erasing(densities=(), samples=2, prompts=("a {}", "one {}"), others=1, steps=1)
    asked = []

    def namer(pixels: torch.Tensor) -> list[str]:
        asked.append(len(pixels))
        return ["cat", "dog", "dog"][: len(pixels)]

    options = {"work": work, "namers": {"fake": namer}, "nouns": ("cat", "dog"), "plan": plan}
    options |= {"seeds": (0,), "settings": QUICK, "notes": {"fake": "Said by a fake."}}
    found = erase_figures(sd1, **options)
    calls = len(asked)
    assert erase_figures(sd1, **options) == found
    assert (len(asked), set(asked)) == (calls, {3})
    with pytest.raises(SearchError, match="found nouns cat"):
        erase_figures(sd1, **(options | {"nouns": ("cat", "cat")}))
    return found


def test_every_side_is_measured_with_its_control(figures: dict[str, Any]) -> None:
    assert [(row["noun"], row["seed"]) for row in figures["rows"]] == [("cat", 0), ("dog", 0)]
    for row in figures["rows"]:
        sides = [(s["how"], s["density"], s["random"]) for s in row["sides"]]
        assert sides == [
            ("untouched", 0.0, False),
            ("erase", 0.1, False),
            ("erase", 0.1, True),
            ("keep", 0.1, False),
            ("keep", 0.1, True),
        ]
        counts = [side["neurons"] for side in row["sides"]]
        assert counts[0] == 0
        assert counts[1] == counts[2] == counts[3] == counts[4] > 0
    # Pictures are drawn cat, cat, dog or cat, dog, dog; the fake says cat, dog, dog.
    cat, dog = (row["sides"][0] for row in figures["rows"])
    assert (cat["own"]["fake"], cat["others"]["fake"]) == (0.5, 1)
    assert (dog["own"]["fake"], dog["others"]["fake"]) == (1, 1)
    assert cat["own"]["loss"] == dog["others"]["loss"]


def test_searched_pictures_are_not_measured(sd1: Any) -> None:
    pictures = {n: torch.rand(4, 3, 64, 64) for n in ("cat", "dog")}
    lab = _Lab(sd1, QUICK, Erasing(), pictures, {})
    one, two = (lab.pairs(["cat"], held_out=held) for held in (False, True))
    assert len(one) == len(two) == 4  # two pictures and their mirror images
    assert not any(a.equal(b) for a in one.latents for b in two.latents)
    assert len(lab.pairs(["cat", "dog"], held_out=True)) == 8


def made(own: float, others: float, share: float, rest: float) -> dict[str, Any]:
    return {"own": {"loss": own, "clip": share}, "others": {"loss": others, "clip": rest}}


def rows_of(erased: dict[str, Any]) -> list[dict[str, Any]]:
    """Make two nouns, seeds alike, in which both searches end as ``erased``."""
    names = {"density": 0.1, "neurons": 5}
    sides = [{"how": "untouched", "random": False, **names, **made(1, 1, 0.9, 0.9)}]
    sides[0]["density"] = 0.0
    for how in ("erase", "keep"):
        sides += [{"how": how, "random": False, **names, **erased}]
        sides += [{"how": how, "random": True, **names, **made(1, 1, 0.9, 0.9)}]
    return [{"noun": noun, "seed": 0, "sides": sides} for noun in ("cat", "dog")]


def test_the_summary_subtracts_the_untouched_model() -> None:
    found = erase_summary(rows_of(made(3, 1.5, 0.1, 0.7)))
    assert [entry["how"] for entry in found] == ["untouched", *["erase"] * 2, *["keep"] * 2]
    change = found[1]["change"]
    assert change["own"]["loss"]["mean"] == pytest.approx(2)
    assert change["others"]["loss"]["mean"] == pytest.approx(0.5)
    assert change["own_minus_others"]["loss"]["mean"] == pytest.approx(1.5)
    assert change["own_minus_others"]["clip"]["mean"] == pytest.approx(-0.6)


@pytest.mark.parametrize(
    ("erased", "said"),
    [
        (made(3, 1.5, 0.1, 0.7), "erased more than the others"),
        (made(3, 3, 0.1, 0.1), "this breaks the model"),
        (made(3, 1, 0.1, 0.1), "not clear"),
        (made(3, 1, 0.9, 0.9), "is not erased"),
    ],
)
def test_the_verdict_follows_the_figures(erased: dict[str, Any], said: str) -> None:
    lines = erase_page._verdicts(erase_summary(rows_of(erased)), ["clip"])
    assert sum(said in line for line in lines) == 2


def test_the_page_quotes_the_figures(figures: dict[str, Any], tmp_path: Path) -> None:
    erase_page.record(figures, tmp_path)
    kept = json.loads((tmp_path / erase_page.RESULTS).read_text())
    page = (tmp_path / erase_page.PAGE).read_text()
    assert page == erase_page.markdown(kept)
    assert "Said by a fake." in page
    loss = figures["summary"][0]["own"]["loss"]["mean"]
    assert f"| untouched | 0.00% | {loss:.3f} [" in page


def test_the_docs_agree_with_the_measurements() -> None:
    path = ROOT / "docs" / erase_page.RESULTS
    if not path.exists():
        pytest.skip("docs/results/erase.json has not been measured yet")
    found = json.loads(path.read_text("utf-8"))
    assert (ROOT / "docs" / erase_page.PAGE).read_text("utf-8") == erase_page.markdown(found)
    assert found["summary"] == erase_summary(found["rows"])


def test_the_command_refuses_what_cannot_be_named() -> None:
    result = CliRunner().invoke(app, ["bench", "erase", "--noun", "zeppelin"])
    assert result.exit_code == 1
    assert "found --noun 'zeppelin'" in " ".join(result.stderr.split())
    result = CliRunner().invoke(app, ["bench", "erase", "--model", "elsewhere"])
    assert "without --clip" in " ".join(result.stderr.split())
