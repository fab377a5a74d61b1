"""Evaluations: scores by hand, the same table after interruptions, the report."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from cones.bench.evaluate import Evaluation
from cones.bench.plan import CONTROLS, KIND, Plan
from cones.bench.report import page
from cones.bench.reproduction import EDITED
from cones.bench.scores import Encoders, by_kind, drift, scores, table, template_scores
from cones.errors import SearchError
from cones.find import Settings
from cones.methods import METHODS
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
CHANGES = {
    "cones": {"settings": TINY},
    "lora": {"steps": 1, "rank": 2},
    "textual-inversion": {"steps": 1},
}


@pytest.fixture
def photos(tmp_path):
    for number, (name, noun) in enumerate((("tom", "cat"), ("rex", "dog"))):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), (80 * number, 90, 100)).save(folder / "00.png")
        (folder / "subject.json").write_text(json.dumps({"noun": noun}))
    return tmp_path / "photos"


def plan(**changes):
    given = {
        "methods": (*CONTROLS, "cones", "lora"),
        "groups": (("tom",), ("tom", "rex")),
        "prompts": ("a {} on the grass", "a photo of a {}"),
        "images": 2,
        "steps": 1,
        "changes": CHANGES,
        "prior": TINY,
    }
    return Plan(**(given | changes))


def shown(found):
    return json.dumps({name: found[name] for name in ("plan", "settings", "table")})


def without_times(found):
    return re.sub(r'"seconds": [\d.]+', "", shown(found))


ENCODERS = Encoders(Colours(), Colours())


def test_scores_by_hand():
    red, green = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    red[:, 0], green[:, 1] = 1, 1
    mixed = torch.stack([red[0], green[0]])
    photos = [red[:1], green[:1]]
    found = scores([red, mixed], ["abc", "abcdef"], photos, ENCODERS)
    assert found["image_alignment"] == pytest.approx(0.5)
    assert found["clip_image_alignment"] == pytest.approx(0.5)
    assert found["diversity"] == pytest.approx((0 + 1) / 2)
    first, second = torch.tensor([1.0, 0, 3]), torch.tensor([1.0, 0, 1])
    cosines = [float(first[0] / first.norm())] * 2 + [float(second[0] / second.norm()), 0.0]
    assert found["text_alignment"] == pytest.approx(sum(cosines) / 4)
    of_mean = [cosines[0], float(second[0] / second.norm()) / 2**0.5]
    assert found["text_alignment_of_mean"] == pytest.approx(sum(of_mean) / 2)
    assert drift(red, red, Colours()) == pytest.approx(0, abs=1e-6)
    assert drift(red, green, Colours()) == pytest.approx(0.5)
    assert "diversity" not in scores([red[:1]], ["abc"], photos, ENCODERS)


def test_scores_are_told_apart_by_the_kind_of_prompt():
    red, green = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    red[:, 0], green[:, 1] = 1, 1
    kinds = ["style", None, "style", "property"]
    found = by_kind([red, red, green, green], ["a"] * 4, kinds, [red], ENCODERS)
    assert set(found) == {"text_style", "image_style", "text_property", "image_property"}
    assert found["image_style"] == pytest.approx(0.5)
    assert found["image_property"] == pytest.approx(0, abs=1e-6)
    one = scores([green], ["a"], [red], ENCODERS)
    assert found["text_property"] == one["text_alignment"]
    assert set(KIND.values()) == {name.partition("_")[2] for name in EDITED}


def test_the_table_averages_by_method_and_number_of_subjects():
    rows = [
        {"method": m, "group": list(g), "seed": s, "scores": {"drift": v}, "bytes": 10 * v}
        for m, g, s, v in (
            ("lora", "a", 0, 1.0),
            ("lora", "b", 0, 3.0),
            ("lora", ("a", "b"), 0, 7.0),
            ("cones", "a", 0, 5.0),
        )
    ]
    found = table(rows)
    assert [(e["method"], e["subjects"]) for e in found] == [
        ("lora", 1),
        ("cones", 1),
        ("lora", 2),
    ]
    assert found[0]["scores"]["drift"]["mean"] == 2
    assert found[0]["bytes"] == 20
    rows[1]["scores"]["recognition"] = 0.5  # a noun without other looks has no such score
    (partly, *_) = table(rows)
    assert partly["scores"]["recognition"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 1}
    assert partly["scores"]["drift"]["n"] == 2
    assert "seconds" not in found[0]
    assert "change" not in found[0]


def test_changes_are_paired_with_the_untouched_model():
    rows = [
        {"method": m, "group": [g], "seed": s, "scores": {"drift": v, "diversity": 1.0}}
        for m, g, s, v in (
            ("untouched", "a", 0, 1.0),
            ("untouched", "b", 0, 5.0),
            ("lora", "a", 0, 1.5),
            ("lora", "b", 0, 5.5),
            ("lora", "b", 1, 9.0),
        )
    ]
    whole = table(rows[:4], left_out=("diversity",))
    assert whole[1]["change"] == {"drift": {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 2}}
    assert "change" not in whole[0]
    unfinished = table(rows)[1]
    assert "change" not in unfinished
    assert unfinished["scores"]["drift"]["mean"] == (1.5 + 7.25) / 2


def test_an_evaluation_goes_on_where_it_was_stopped(photos, tmp_path, sd1, fresh):
    pipeline = fresh(sd1)
    before = {n: p.clone() for n, p in pipeline.unet.named_parameters()}
    whole = Evaluation(pipeline, photos, plan(), tmp_path / "a").run(ENCODERS)
    assert whole["missing"] == 0
    assert len(whole["rows"]) == 9  # another subject's neurons stand beside single subjects only
    assert all(torch.equal(p, before[n]) for n, p in pipeline.unet.named_parameters())
    rows = {(row["method"], len(row["group"])): row["scores"] for row in whole["rows"]}
    assert rows["untouched", 1]["drift"] == pytest.approx(0, abs=1e-6)
    assert rows["cones", 1]["drift"] > 0
    for other in ("untouched", "random", "stranger"):
        assert rows["cones", 1]["image_alignment"] != rows[other, 1]["image_alignment"]
    assert all("bytes" in row for row in whole["rows"] if row["method"] in METHODS)

    for stop in (3, 8, 5, 6, 9, 4, 7, 10, 6, 5):
        seen = []

        def notify(step, seen=seen, stop=stop):
            seen.append(step)
            if len(seen) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Evaluation(fresh(sd1), photos, plan(), tmp_path / "b", notify).run(ENCODERS)
    pictures = sorted((tmp_path / "b").rglob("*-01.png"))
    pictures[0].unlink(missing_ok=True)
    scored = sorted((tmp_path / "b").rglob("scores.json"))
    scored[0].unlink()
    resumed = Evaluation(fresh(sd1), photos, plan(), tmp_path / "b").run(ENCODERS)
    assert without_times(resumed) == without_times(whole)
    drawn = {
        p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*.png")
    }
    again = {
        p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*.png")
    }
    assert drawn == again


def test_processes_share_the_work(photos, tmp_path, sd1, fresh):
    asked = plan(methods=("untouched", "textual-inversion"), groups=(("tom",), ("rex",)))
    first = Evaluation(fresh(sd1), photos, asked, tmp_path).run(ENCODERS, shard=(0, 2))
    assert (len(first["rows"]), first["missing"]) == (2, 2)
    second = Evaluation(fresh(sd1), photos, asked, tmp_path).run(ENCODERS, shard=(1, 2))
    assert second["missing"] == 0


def test_nothing_old_is_used_for_another_plan(photos, tmp_path, sd1, fresh):
    pipeline = fresh(sd1)

    def homes(asked):
        evaluation = Evaluation(pipeline, photos, asked, tmp_path)
        return {evaluation.home(cell) for cell in evaluation.cells}

    same = homes(plan())
    assert homes(plan()) == same
    assert len(same) == 9
    assert not homes(plan(images=3)) & same
    assert not homes(plan(seeds=(5,))) & same
    assert not homes(plan(prompts=("a {}",))) & same
    lora = {**CHANGES, "lora": {"steps": 2, "rank": 2}}
    assert len(homes(plan(changes=lora)) & same) == 7


def test_more_pictures_are_drawn_with_what_was_learnt_before(photos, tmp_path, sd1, fresh):
    pipeline = fresh(sd1)

    def homes(asked):
        evaluation = Evaluation(pipeline, photos, asked, tmp_path)
        return {c.label: evaluation.fits.home(c) for c in evaluation.cells}

    same = homes(plan())
    assert homes(plan(images=3, prompts=("a {}",), steps=2, guidance=3.0)) == same
    lora = {**CHANGES, "lora": {"steps": 2, "rank": 2}}
    changed = homes(plan(changes=lora))
    assert {label for label in same if changed[label] != same[label]} == {
        "lora tom 0",
        "lora tom+rex 0",
    }
    assert homes(plan(prior=replace(TINY, density=0.2))) == same  # no prior depends on it
    other = homes(plan(prior=replace(TINY, prior_steps=3)))
    assert not set(other.values()) & set(same.values())


def test_plans_are_checked():
    with pytest.raises(SearchError, match=r"found no method magic; expected some of untouched"):
        plan(methods=("magic",))
    with pytest.raises(SearchError, match="found groups"):
        plan(groups=())
    with pytest.raises(SearchError, match="one to 4 subjects"):
        plan(groups=(tuple("abcde"),))


def test_the_report_needs_no_network_and_quotes_the_table(photos, tmp_path, sd1, fresh):
    asked = plan(methods=("untouched", "lora"), groups=(("tom",),))
    found = Evaluation(fresh(sd1), photos, asked, tmp_path).run(ENCODERS)
    paths = sorted(tmp_path.rglob("00-00.png"))
    text = page(replace_missing(found), {"tom <b>": {"untouched": paths[:1], "lora": paths[1:]}})
    assert re.findall(r'(?:src|href)="?([a-z/.]{0,5})', text) == ["data", "data"]
    assert text.count("data:image/jpeg;base64,") == 2
    assert "tom &lt;b&gt;" in text
    assert "3 cells are missing" in text
    for entry in found["table"]:
        score = entry["scores"]["image_alignment"]
        assert f"{score['mean']:.3f} <small>[{score['low']:.3f}, {score['high']:.3f}]" in text


def replace_missing(found):
    return {**found, "missing": 3}


def test_the_command_writes_report_and_record(photos, tmp_path, sd1, fresh, monkeypatch):
    import cones.cli.places as places
    import cones.encoders as encoders
    import cones.metrics as metrics
    from cones.cli import app

    pipeline = fresh(sd1)
    monkeypatch.setattr(places, "pipeline", lambda *a, **k: pipeline)
    monkeypatch.setattr(metrics, "load_judge", lambda: Colours())
    monkeypatch.setattr(encoders, "load_clip", lambda path: Colours())
    words = ["evaluate", "--method", "untouched", "--method", "cones", "--group", "tom"]
    words += ["--photos", str(photos), "--work", str(tmp_path / "w"), "--images", "1"]
    for name in ("steps", "refine_steps", "prior_count", "prior_steps", "batch", "held_out"):
        words += ["--set", f"{name}=2"]
    words += ["-o", str(tmp_path / "r.html"), "--record", str(tmp_path / "r.json"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["untouched", "cones"]
    assert found["settings"]["cones"]["settings"]["steps"] == 2
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    for bad, said in (
        (["--change", "lora.magic=1"], "found --change 'lora.magic=1'"),
        (["--shard", "2/2"], "expected K/N with K below N"),
        (["--preset", "slow"], "expected quick, mini, full, cc101, dreambench"),
        (["--model", "x"], "without --clip"),
    ):
        result = CliRunner().invoke(app, [*words, "--overwrite", *bad])
        assert result.exit_code == 1
        assert said in " ".join(result.output.split())


def test_of_the_processes_of_a_launcher_the_last_reports(
    photos, tmp_path, sd1, fresh, monkeypatch
):
    import cones.cli.places as places
    import cones.encoders as encoders
    import cones.metrics as metrics
    from cones.cli import app

    monkeypatch.setattr(places, "pipeline", lambda *a, **k: fresh(sd1))
    monkeypatch.setattr(metrics, "load_judge", lambda: Colours())
    monkeypatch.setattr(encoders, "load_clip", lambda path: Colours())
    report = tmp_path / "r.html"
    words = ["evaluate", "--method", "untouched", "--group", "tom", "--group", "rex"]
    words += ["--photos", str(photos), "--work", str(tmp_path / "w"), "--images", "1"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("1", "1 cells are left to other processes"), ("0", "look at")):
        assert not report.exists()
        monkeypatch.setenv("RANK", rank)
        result = CliRunner().invoke(app, [*words, "-o", str(report)])
        assert result.exit_code == 0, result.output
        assert said in " ".join(result.output.split())
    assert report.exists()


def test_what_another_process_is_learning_is_waited_for(photos, tmp_path, sd1, fresh, monkeypatch):
    asked = plan(methods=("textual-inversion",), groups=(("tom",),))
    evaluation = Evaluation(fresh(sd1), photos, asked, tmp_path)
    (cell,) = evaluation.cells
    evaluation.fits.of(cell)
    home = evaluation.fits.home(cell)
    (home / "fit.json").rename(home / "hidden")
    monkeypatch.setattr(METHODS["textual-inversion"], "fit", None)  # must not be called again
    with ThreadPoolExecutor(1) as pool:
        with FileLock(home.with_suffix(".lock")):
            waiting = pool.submit(evaluation.fits.of, cell)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.5)
            (home / "hidden").rename(home / "fit.json")
        assert waiting.result(timeout=60) is not None


def test_changes_reach_the_method():
    from cones.cli.evaluate import plan_of

    asked = plan_of("quick", None, None, (0,), None, ["lora.rank=7"], ["steps=9"])
    assert asked.changes["lora"]["rank"] == 7
    assert asked.changes["lora"]["steps"] == 40
    assert asked.changes["cones"]["settings"].steps == asked.prior.steps == 9
    assert set(asked.methods) == {*CONTROLS, *METHODS}
    full = plan_of("full", ["lora"], ["tom"], (1, 2), 4, [], [])
    assert (full.images, full.steps, len(full.prompts)) == (4, 50, 20)
    assert "clip_score" in full.left_out
    rival = plan_of("cc101", ["lora"], ["tom"], (0,), None, [], [])
    assert (rival.images, "clip_score" in rival.left_out) == (5, False)
    assert "text_alignment" in rival.left_out  # two scales of one cosine never share a table


def test_a_subject_keeps_its_word_wherever_it_can():
    groups = (("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "c"), ("c", "b", "d", "e"))
    words = Plan(groups=groups).words
    assert words.keys() == set(groups)
    for group, own in words.items():
        assert len(own) == len(set(own)) == len(group)
    for name in "abc":
        assert words[(name,)][0] in {
            word
            for g, own in words.items()
            if len(g) > 1
            for n, word in zip(g, own, strict=True)
            if n == name
        }
    by_name = {name: word for name, word in zip("cbde", words["c", "b", "d", "e"], strict=True)}
    assert words["b", "c"] == (by_name["b"], by_name["c"])


def test_what_was_found_alone_is_joined_not_found_again(photos, tmp_path, sd1, fresh):
    both = plan(methods=("cones", "cones-collaborative", "cones-scratch"))
    evaluation = Evaluation(fresh(sd1), photos, both, tmp_path)
    cells = {(c.method, len(c.group)): c for c in evaluation.cells}
    assert len(cells) == 4  # ways of joining are not repeated for a single subject
    alone = evaluation.fits.of(cells["cones", 1])
    home = evaluation.fits.home(cells["cones", 1])
    before = json.loads((home / "fit.json").read_text())
    (home / "fit.json").write_text(json.dumps({**before, "seconds": 1000.0}))
    joined = evaluation.fits.of(cells["cones", 2])
    assert joined.concepts[0].mask == alone.concepts[0].mask
    taken = evaluation.fits.told(cells["cones", 2])["seconds"]
    assert 1000 < taken < 1900  # with what the parts took
    union = joined.concepts[0].mask | joined.concepts[1].mask
    inside = evaluation.fits.of(cells["cones-collaborative", 2]).concepts[0].mask
    assert inside <= union
    assert len(inside) < len(union)
    assert not evaluation.fits.of(cells["cones-scratch", 2]).concepts[0].mask <= union


def test_leaking_and_narrowing_are_measured():
    red, green = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    red[:, 0], green[:, 1] = 1, 1
    mixed = torch.stack([red[0], green[0]])
    found = template_scores(mixed, red, green, red, Colours())
    assert found["leak"] == pytest.approx(1)
    assert found["template_diversity"] == pytest.approx(1)
    found = template_scores(red, green, green, red, Colours())
    assert found == {"leak": 0, "template_diversity": pytest.approx(0, abs=1e-6)}


def test_looks_of_a_noun_are_what_a_subject_is_told_from(photos, tmp_path, sd1, fresh):
    for number, colour in enumerate(((0, 0, 255), (255, 0, 0))):
        folder = tmp_path / "looks" / str(number)
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(folder / "00.png")
        noun = ("cat", "dog")[number]
        (folder / "subject.json").write_text(json.dumps({"noun": noun}))
    asked = plan(methods=("untouched",), groups=(("tom",), ("rex",)))
    evaluation = Evaluation(fresh(sd1), photos, asked, tmp_path, looks=tmp_path / "looks")
    assert [[x.name for x in evaluation._alike(cell)] for cell in evaluation.cells] == [
        ["0"],
        ["1"],
    ]
    rows = evaluation.run(ENCODERS)["rows"]
    assert all(0 <= row["scores"]["recognition"] <= 1 for row in rows)
    plain = Evaluation(fresh(sd1), photos, asked, tmp_path).run(ENCODERS)["rows"]
    assert "recognition" not in plain[0]["scores"]
