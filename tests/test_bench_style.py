"""The benchmark of styles: same noise, held-out drawings never fitted, paired differences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cones.backbones import backbone_for
from cones.bench import style_page
from cones.bench.cells import subject_folders
from cones.bench.style import Drawing, picture_file, spoken, style_figures, style_summary
from cones.bench.style_scores import Eyes, References
from cones.bench.style_set import held_out_of, references_of
from cones.cli import app
from cones.errors import ConesError, SubjectError
from cones.find import Settings
from cones.intervention import shut
from cones.metrics import ImageAlignment, TextAlignment
from conftest import make_encoder, make_tokenizer
from fakes import Colours, make_concept

ROOT = Path(__file__).parent.parent
DRAWING = Drawing(count=2, steps=2)
EYES = Eyes(Colours(), Colours())
THINGS = ("cat", "teddy bear")


def paint(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(values).resize((64, 64), Image.Resampling.NEAREST).save(path)


@pytest.fixture
def styles(tmp_path):
    for k, name in enumerate(("ink", "oil")):
        folder = tmp_path / "styles" / name
        for number in range(2):
            paint(folder / f"{number:02d}.png", 10 * k + number)
        for number, thing in enumerate(THINGS):
            paint(folder / "held_out" / f"{thing.replace(' ', '_')}.png", 10 * k + 5 + number)
        told = {"noun": "emoji", "shows": ["car", "hat"]}
        (folder / "subject.json").write_text(json.dumps(told))
    return tmp_path / "styles"


@pytest.fixture
def photos(tmp_path):
    for k, thing in enumerate((*THINGS, "cat")):
        folder = tmp_path / "photos" / f"{k} {thing}"
        paint(folder / "00.png", 30 + k)
        (folder / "subject.json").write_text(json.dumps({"noun": thing}))
    return tmp_path / "photos"


@pytest.fixture
def pipeline(sd1, fresh):
    """Give a pipeline that reads longer prompts."""
    copied = fresh(sd1)
    tokenizer = make_tokenizer(length=40)
    torch.manual_seed(0)
    copied.register_modules(tokenizer=tokenizer, text_encoder=make_encoder(tokenizer))
    return copied


class Finder:
    """Draw a mask for every search; remember what was shown."""

    def __init__(self):
        self.shown, self.found = [], []

    def __call__(self, pipeline, subject, *, settings, cache_dir, state_dir):
        self.shown.append(subject.images)
        concept = make_concept(pipeline, noun=subject.noun, seed=len(self.found) + 1)
        embeddings = {"text_encoder": torch.ones(1, 32)}
        object.__setattr__(concept.members[0], "embeddings", embeddings)
        self.found.append(concept)
        return concept


@pytest.fixture
def measure(pipeline, styles, photos, tmp_path):
    def measured(**changes):
        given = {"photos": photos, "eyes": EYES, "work": tmp_path / "work", "seeds": (0, 1)}
        given |= {"settings": Settings(), "drawing": DRAWING, "finder": Finder()}
        return style_figures(pipeline, styles, **given | changes)

    return measured


def test_prompts_say_style_and_thing():
    assert spoken("emoji", THINGS, "V*") == ["a V* emoji of a cat", "a V* emoji of a teddy bear"]
    assert spoken("emoji", ("sunglasses",)) == ["an emoji of sunglasses"]


def test_every_side_draws_its_prompts_from_the_same_noise(measure, pipeline, tmp_path):
    finder = Finder()
    bits = {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}
    found = measure(finder=finder)
    assert all(torch.equal(w, bits[n]) for n, w in pipeline.unet.named_parameters())
    row = found["rows"][2]  # first style, second seed
    assert (row["style"], row["seed"]) == ("ink", 1)
    assert list(row["sides"]) == ["plain", "untouched", "random", "stranger", "shut"]
    own, other = finder.found[2].mask, finder.found[3].mask
    none = own - own
    masks = {"plain": none, "untouched": none, "stranger": other, "shut": own}
    masks["random"] = own.random_like(torch.Generator().manual_seed(1))
    drawn = {}
    for side, mask in masks.items():
        word = "an emoji" if side == "plain" else "a V* emoji"
        with shut(pipeline.unet, mask):
            drawn[side] = by_hand(pipeline, [f"{word} of a {thing}" for thing in THINGS])
        kept = Image.open(picture_file(tmp_path / "work", row["pictures"], side, "teddy bear"))
        assert np.array_equal(np.asarray(kept), np.asarray(drawn[side]))
    shown = {side: np.asarray(image).tobytes() for side, image in drawn.items()}
    assert len(set(shown.values())) == len(shown)


def by_hand(pipeline, prompts):
    """Draw two pictures of both prompts; give the first of the second."""
    seeds = [1000, 1001, 1000, 1001]
    side = backbone_for(pipeline).resolution
    result = pipeline(
        [prompt for prompt in prompts for _ in range(2)],
        num_inference_steps=2,
        guidance_scale=7.5,
        height=side,
        width=side,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    )
    return result.images[2]


def test_finished_cells_are_not_measured_again(measure, photos):
    finder = Finder()
    found = measure(finder=finder)
    assert len(finder.found) == 4
    assert measure(finder=finder) == found
    assert len(finder.found) == 4
    paint(photos / "0 cat" / "00.png", 99)  # another photo: drawn and scored anew, not searched
    again = measure(finder=finder)
    assert len(finder.found) == 4
    sides = [each["rows"][0]["sides"]["shut"] for each in (found, again)]
    assert sides[0]["nearer"][0] != sides[1]["nearer"][0]
    assert {n: v for n, v in sides[0].items() if n != "nearer"} == {
        n: v for n, v in sides[1].items() if n != "nearer"
    }


def test_held_out_drawings_are_never_searched(measure, styles):
    finder = Finder()
    found = measure(finder=finder, subjects=["oil"], seeds=(0,))
    assert list(found["rows"][0]["sides"]) == ["plain", "untouched", "random", "shut"]
    artists = found["artists"]["oil"]
    assert artists["drawing"] == pytest.approx([1, 1], abs=1e-5)
    assert artists["look"][0] == pytest.approx(artists["look"][1])  # of two things, each other's
    (shown,) = finder.shown
    assert len(shown) == 2
    for file in (styles / "oil" / "held_out").iterdir():
        drawing = torch.from_numpy(np.asarray(Image.open(file)) / 255).permute(2, 0, 1).float()
        assert all((drawing - each).abs().max() > 0.1 for each in shown)


def test_a_thing_both_fitted_and_held_out_is_refused(measure, styles):
    file, finder = styles / "ink" / "held_out" / "cat.png", Finder()
    kept = file.read_bytes()
    file.write_bytes((styles / "ink" / "01.png").read_bytes())
    with pytest.raises(SubjectError, match="found 'cat' both held out and among"):
        measure(finder=finder)
    file.write_bytes(kept)
    told = {"noun": "emoji", "shows": ["teddy bear"]}
    (styles / "ink" / "subject.json").write_text(json.dumps(told))
    with pytest.raises(SubjectError, match="found 'teddy bear' both held out"):
        measure(finder=finder)
    assert not finder.found


def test_things_without_photos_and_too_few_things_are_refused(measure, styles, photos):
    file, finder = styles / "oil" / "held_out" / "cat.png", Finder()
    file.rename(file.with_name("dog.png"))
    with pytest.raises(SubjectError, match="found no photos of dog"):
        measure(finder=finder)
    file.with_name("dog.png").unlink()
    with pytest.raises(SubjectError, match="found 1 drawings in oil/held_out"):
        measure(finder=finder)
    assert not finder.found


def test_the_scores_are_the_metrics(styles, photos):
    (style,) = subject_folders(styles, ["ink"])
    refs = references_of(style, photos, 64)
    assert refs.nouns == THINGS
    assert len(refs.photos["cat"]) == 2
    pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) ** 0.05
    prompts = spoken("emoji", THINGS)
    found = EYES.figures_of(pixels, refs, prompts)
    assert tuple(found) == EYES.figures
    likeness = ImageAlignment(Colours())
    for k, thing in enumerate(THINGS):
        mine, other = pixels[2 * k : 2 * k + 2], THINGS[1 - k]
        drawing = likeness(mine, [refs.held_out[thing][None]]).mean()
        look = likeness(mine, [refs.held_out[other][None]]).mean()
        near = drawing - likeness(mine, [refs.photos[thing]]).mean()
        copies = likeness(mine, [refs.fitted]).mean() - look
        text = TextAlignment(Colours())(mine, [prompts[k]] * 2).mean()
        white = [(picture > 0.9).all(0).float().mean() for picture in mine]
        expected = {"drawing": drawing, "look": look, "noun": drawing - look, "nearer": near}
        expected |= {"copies": copies, "text": text, "drawing_clip": drawing}
        expected["paper"] = sum(white) / 2
        for name, value in expected.items():
            assert found[name][k] == pytest.approx(float(value), abs=2e-5), name
    alone = Eyes(Colours()).figures_of(pixels, refs, prompts)
    assert alone == {n: v for n, v in found.items() if n not in ("text", "drawing_clip")}


def test_the_judge_sees_what_the_clip_does_not():
    class Blind(Colours):
        def images(self, pixels):
            return torch.ones(len(pixels), 3)

    draw = torch.Generator().manual_seed(1)
    drawings = torch.rand(2, 3, 8, 8, generator=draw)
    drawings[:, 0] /= 4
    refs = References(
        dict(zip(THINGS, drawings, strict=True)), drawings, dict.fromkeys(THINGS, drawings)
    )
    found = Eyes(Colours(), Blind()).figures_of(drawings.flip(1), refs, ["a", "b"])
    assert found["drawing_clip"] == pytest.approx([1, 1])
    assert max(found["drawing"]) < 0.95


def made_rows():
    def row(style, seed, shut_, other):
        sides = {"untouched": {"drawing": other}, "random": {"drawing": [0.1, 0.3]}}
        sides["shut"] = {"drawing": shut_}
        for side in sides.values():
            side["look"] = side["drawing"]
        loss = {"untouched": 1.0, "shut": 0.5 + seed, "random": 2.0}
        told = {"style": style, "noun": "emoji", "seed": seed, "things": list(THINGS)}
        return told | {"density": 0.01, "loss": loss, "pictures": "x", "sides": sides}

    return [row("ink", 0, [0.2, 0.4], [0.1, 0.5]), row("ink", 1, [0.6, 0.4], [0.3, 0.5])]


def test_the_summary_pairs_things_and_seeds():
    artists = {style: {"drawing": [1.0, 1.0], "look": [0.5, 0.7]} for style in ("ink", "oil")}
    found = style_summary([*made_rows(), {**made_rows()[0], "style": "oil"}], artists)
    ink = found["ink"]
    assert list(found) == ["ink", "oil"]
    assert ink["things"] == 2
    assert ink["loss"] == {"untouched": 1.0, "shut": 1.0, "random": 2.0}
    drawing = ink["figures"]["drawing"]
    assert drawing["shut"]["mean"] == pytest.approx(0.4)
    gap = drawing["shut_minus_untouched"]  # 0.1 and 0.3 of the cat, -0.1 twice of the bear
    assert (gap["mean"], gap["low"], gap["high"]) == pytest.approx((0.05, -0.1, 0.25))
    assert drawing["shut_minus_random"]["low"] == pytest.approx(0.1)
    assert drawing["artists"] == 1
    assert ink["way"] == pytest.approx({"mean": 0.2, "low": -0.4, "high": 1.0})
    assert drawing["wins"] == {"untouched": 1, "random": 2}
    assert found["oil"]["figures"]["drawing"]["shut_minus_untouched"]["n"] == 2


def test_the_page_quotes_the_figures(measure, styles, tmp_path):
    found, work = measure(), tmp_path / "work"
    style_page.record(found, tmp_path / "docs", styles, work)
    kept = json.loads((tmp_path / "docs" / style_page.RESULTS).read_text())
    page = (tmp_path / "docs" / style_page.PAGE).read_text()
    assert page == style_page.markdown(kept)
    figure = kept["summary"]["oil"]["figures"]["nearer"]
    assert f"| {figure['plain']['mean']:.3f} | {figure['untouched']['mean']:.3f} |" in page
    assert kept["summary"] == style_summary(kept["rows"], kept["artists"])
    drawn = Image.open(tmp_path / "docs" / style_page.PICTURE)
    assert np.array_equal(np.asarray(drawn), np.asarray(style_page.sheet(kept, styles, work)))
    picture_file(work, found["rows"][0]["pictures"], "shut", "cat").unlink()
    with pytest.raises(ConesError, match="found no picture shut-cat.png"):
        style_page.record(found, tmp_path / "nowhere", styles, work)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("better", "said"),
    [
        (("plain", "untouched"), "no style was learnt"),
        (("untouched", "random"), "not than every control"),
        (style_page.RIVALS, "closer to the set than every control"),
    ],
)
def test_the_page_says_first_what_was_found(better, said):
    page = style_page.markdown(made(dict.fromkeys(better, 0.1)))
    assert said in page.split("- **ink: ")[1].split("**")[0]
    assert "One concept is" not in page


def test_the_page_says_when_one_concept_is_closer_to_both_sets():
    found, other = made({"stranger": 0.1}), made({"stranger": -0.1})
    found["summary"]["oil"] = other["summary"]["ink"]
    assert "One concept is the closer one to both sets" in style_page.markdown(found)
    found["summary"]["oil"] = found["summary"]["ink"]
    assert "One concept is" not in style_page.markdown(found)


def made(gaps):
    """Make a record in which the concept is ahead of its rivals by ``gaps``, otherwise equal."""
    of = {rival: 0.5 - gaps.get(rival, 0) for rival in style_page.RIVALS} | {"shut": 0.5}
    sides = {s: dict.fromkeys(("drawing", "look", "noun", "paper"), [v, v]) for s, v in of.items()}
    row = {**made_rows()[0], "sides": sides}
    told = {"rows": [row], "artists": {"ink": dict.fromkeys(sides["shut"], [0.9, 1.0])}}
    told |= {"model": "m", "machine": {"processor": "p", "threads": 1, "torch": "t"}}
    told |= {"seeds": [0], "settings": {}, "drawing": {"count": 1, "steps": 2, "guidance": 3}}
    return told | {"summary": style_summary(told["rows"], told["artists"])}


def test_the_docs_agree_with_the_measurements():
    found = json.loads((ROOT / "docs" / style_page.RESULTS).read_text("utf-8"))
    page = (ROOT / "docs" / style_page.PAGE).read_text("utf-8")
    assert page == style_page.markdown(found)
    assert found["summary"] == style_summary(found["rows"], found["artists"])


def test_the_examples_are_what_the_benchmark_wants():
    styles = subject_folders(ROOT / "examples/styles")
    things = [tuple(held_out_of(each, ROOT / "examples/photos")) for each in styles]
    assert len(styles) == 2
    assert len(things[0]) == 10
    assert things[0] == things[1]
    files = [file for file in (ROOT / "examples/styles").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 150_000


def test_the_command_measures_and_writes(sd1, styles, photos, tmp_path, monkeypatch):
    import cones.metrics
    from cones.bench import style

    def quick(*given, drawing, **named):
        asked.append(drawing)
        return style_figures(*given, drawing=Drawing(1, steps=1), finder=Finder(), **named)

    asked = []
    monkeypatch.setattr(cones.metrics, "load_judge", Colours)
    monkeypatch.setattr(style, "style_figures", quick)
    sd1.save_pretrained(tmp_path / "model")
    words = ["bench", "style", "--styles", str(styles), "--photos", str(photos), "--json"]
    words += ["--model", str(tmp_path / "model"), "--work", str(tmp_path / "work")]
    words += ["--docs", str(tmp_path / "docs"), "--subject", "ink", "--seed", "3"]
    result = CliRunner().invoke(app, [*words, "--images", "1", "--set", "density=0.01"])
    assert result.exit_code == 0, result.output
    assert asked == [Drawing(count=1)]
    found = json.loads((tmp_path / "docs" / style_page.RESULTS).read_text())
    assert (found["seeds"], found["settings"]["density"]) == ([3], 0.01)
    assert list(found["summary"]["ink"]["figures"]) == list(Eyes(Colours()).figures)
    assert (tmp_path / "docs" / style_page.PICTURE).is_file()
