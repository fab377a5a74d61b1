"""The whole way from photos to a certified concept, on tiny random pipelines."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from PIL import Image

from cones.concept import Concept
from cones.errors import ConesError, ModelError, SearchError, SubjectError
from cones.models.base import Model
from cones.search import find as room
from cones.search.find import find, find_jointly
from cones.search.loss import Examples
from cones.search.memory import CONTROLS, FREE
from cones.search.settings import Settings
from cones.subject import Subject
from fakes import tiny_pipeline, tiny_pixels

QUICK = {
    "steps": 3,
    "score_steps": 2,
    "batch": 2,
    "prior_count": 3,
    "draws": 4,
    "density": 0.05,
}
PAIRS = [("refine", "agreement"), ("refine", "none"), ("adam", "drawn"), ("sum", "agreement")]


def to_pil_image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy())


@pytest.fixture(autouse=True)
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Draw prior pictures at once: noise of the seed."""
    asked = []

    def sample(
        pipeline: object, prompts: Sequence[str], *, seeds: Sequence[int], **how: object
    ) -> list[Image.Image]:
        asked.extend(zip(prompts, seeds, strict=True))
        return [to_pil_image(tiny_pixels(1, seed=seed % 2**60)[0]) for seed in seeds]

    monkeypatch.setattr(room, "sample", sample)
    return asked


def subject(count: int = 4, *, identifier: str = "V*", noun: str = "cat") -> Subject:
    return Subject(tiny_pixels(count, seed=len(identifier)), noun, identifier)


def state(pipeline: DiffusionPipeline) -> dict[str, torch.Tensor]:
    """Take down everything that a search must leave alone."""
    parts = (pipeline.unet, pipeline.text_encoder, pipeline.vae)
    found = {f"{k} {n}": w.clone() for k, p in enumerate(parts) for n, w in p.named_parameters()}
    return found | {"vocabulary": torch.tensor(len(pipeline.tokenizer))}


def assert_untouched(pipeline: DiffusionPipeline, before: dict[str, torch.Tensor]) -> None:
    after = state(pipeline)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[n], before[n]) for n in before)


@pytest.mark.parametrize(("rule", "prior"), PAIRS)
def test_every_rule_and_prior_gives_a_concept_and_leaves_the_pipeline(
    rule: str, prior: str
) -> None:
    pipeline = tiny_pipeline()
    before = state(pipeline)
    concept = find(pipeline, subject(), rule=rule, prior=prior, **QUICK)
    assert_untouched(pipeline, before)
    assert concept.densities == pytest.approx([0.0125, 0.025, 0.05], rel=0.02)
    assert concept.prompt == "a V* cat"
    assert concept.words[0].embeddings["text_encoder"].shape == (1, 32)
    assert concept.certificate["verdict"] in ("gained", "not gained")
    assert concept.certificate["photos"] == "kept out"
    assert concept.certificate["subject"]["n"] == 4
    assert ("prior_weight" in concept.certificate) == (prior != "none")


class Watched(Settings):
    """Settings that write down which of them are read."""

    read: set[str] = set()

    def __getattribute__(self, name: str) -> object:
        if name in Settings.__dataclass_fields__:
            Watched.read.add(name)
        return super().__getattribute__(name)

    def changed(self, changes: dict[str, object]) -> "Watched":
        """Hand itself on: a copy would read everything."""
        assert not changes
        return self

    def recorded(self) -> dict[str, object]:
        """Read nothing for the record."""
        return super().__getattribute__("written")


@pytest.mark.parametrize(("rule", "prior"), PAIRS)
def test_what_is_recorded_is_what_was_read(
    rule: str, prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Watched(rule=rule, prior=prior, **QUICK)
    object.__setattr__(settings, "written", Settings.recorded(settings))
    Watched.read = set()
    concept = find(tiny_pipeline(), subject(), settings=settings)
    assert Watched.read == set(concept.settings)
    assert set(concept.settings) <= {field.name for field in fields(Settings)}


def test_the_last_of_four_photos_is_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = room.examples

    def examples(
        model: Model, pixels: torch.Tensor, prompts: str | list[str], **options: object
    ) -> Examples:
        encoded.append((pixels, prompts))
        return real(model, pixels, prompts, **options)

    monkeypatch.setattr(room, "examples", examples)
    photos = subject(4)
    find(tiny_pipeline(), photos, **QUICK)
    seen, kept, others = [pixels for pixels, said in encoded if said == "a cat"]
    assert torch.equal(seen, photos.pixels[:3])
    assert torch.equal(kept, photos.pixels[3:])
    assert len(others) == CONTROLS
    encoded.clear()
    three = find(tiny_pipeline(), subject(3), **QUICK)
    assert len(encoded[0][0]) == 3
    assert three.certificate["photos"] == "of the search"
    assert three.certificate["verdict"] in ("unavailable", "not gained")


def test_prior_and_controls_are_drawn_once_and_apart(
    sampled: list[tuple[str, int]], tmp_path: Path
) -> None:
    first = find(tiny_pipeline(), subject(), work=tmp_path, **QUICK)
    said = [prompt for prompt, _ in sampled]
    assert said[:3] == ["a cat", "a dog", "a cat in a street"]
    assert said.count("a cat") == 1 + CONTROLS
    assert len(set(sampled)) == len(sampled) == 3 + 2 * CONTROLS
    sampled.clear()
    again = find(tiny_pipeline(), subject(), work=tmp_path, **QUICK)
    assert sampled == []
    assert again.levels == first.levels
    assert not list(tmp_path.rglob("*.safetensors"))


def test_other_individuals_may_be_given(sampled: list[tuple[str, int]], tmp_path: Path) -> None:
    for k, pixels in enumerate(tiny_pixels(2, seed=9)):
        to_pil_image(pixels).save(tmp_path / f"{k}.png")
    given = find(tiny_pipeline(), subject(), others=tmp_path, **QUICK)
    assert [prompt for prompt, _ in sampled].count("a cat") == 1
    drawn = find(tiny_pipeline(), subject(), **QUICK)
    assert given.levels == drawn.levels
    assert given.certificate["subject"] == drawn.certificate["subject"]
    assert given.certificate["others"] != drawn.certificate["others"]


class Stop:
    """Stops a search at one step of one stage."""

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step, self.told = stage, step, []

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.told.append((stage, done, total))
        if stage == self.stage and done == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "step"), [("score", 1), ("refine 5.00%", 2), ("certificate", 3)]
)
def test_an_interrupted_search_goes_on_to_the_same_concept(
    stage: str, step: int, tmp_path: Path
) -> None:
    pipeline = tiny_pipeline()
    before = state(pipeline)
    whole = find(pipeline, subject(), **QUICK)
    with pytest.raises(KeyboardInterrupt):
        find(pipeline, subject(), work=tmp_path, progress=Stop(stage, step), **QUICK)
    assert_untouched(pipeline, before)
    watch = Stop("", 0)
    resumed = find(pipeline, subject(), work=tmp_path, progress=watch, **QUICK)
    assert resumed.levels == whole.levels
    plain = {**whole.certificate, "seconds": 0}
    assert {**resumed.certificate, "seconds": 0} == plain
    done = [(s, d) for s, d, _ in watch.told if s in ("score", "refine 5.00%")]
    everything = [("score", 1), ("score", 2), *(("refine 5.00%", k) for k in (1, 2, 3))]
    start = everything.index((stage, step)) + 1 if stage != "certificate" else 5
    assert done == everything[start:]


def test_other_settings_start_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        find(tiny_pipeline(), subject(), work=tmp_path, progress=Stop("score", 1), **QUICK)
    watch = Stop("", 0)
    find(tiny_pipeline(), subject(), work=tmp_path, progress=watch, seed=1, **QUICK)
    assert ("score", 1, 2) in watch.told


def test_a_search_under_a_lora_is_another(sampled: list[tuple[str, int]], tmp_path: Path) -> None:
    told, drawn = [], []
    for weight in (None, 1.0, 0.5):
        pipeline = tiny_pipeline()
        if weight:
            config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=True)
            pipeline.text_encoder.add_adapter(config)  # adds nothing, and is there all the same
            for part in pipeline.text_encoder.modules():
                if hasattr(part, "lora_A"):
                    part.set_scale("default", weight)
        sampled.clear()
        found = find(pipeline, subject(), work=tmp_path, **QUICK)
        told.append(found.settings.get("loras"))
        drawn.append(len(sampled))
    assert told[0] is None
    assert len({*told}) == 3
    assert drawn[0] == drawn[1] == drawn[2]  # no picture of another model is taken


def test_several_subjects_are_found_together() -> None:
    pipeline = tiny_pipeline()
    before = state(pipeline)
    subjects = [subject(identifier="V1*"), subject(identifier="V22*", noun="dog")]
    scratch = find_jointly(pipeline, subjects, **QUICK)
    assert_untouched(pipeline, before)
    assert [word.identifier for word in scratch.words] == ["V1*", "V22*"]
    assert scratch.certificate["V22*"]["subject"]["n"] == 4
    assert scratch.certificate["verdict"] in ("gained", "not gained")
    parts = [find(pipeline, each, **QUICK) for each in subjects]
    union = parts[0] | parts[1]
    asked = {name: value for name, value in QUICK.items() if name != "density"}
    joint = find_jointly(pipeline, subjects, within=union, **asked)
    assert joint.mask <= union.mask
    assert joint.density == pytest.approx(min(0.0243, 0.9 * union.density), rel=0.02)
    assert joint.settings["within"] == union.mask.digest
    assert joint.words == union.words


@pytest.mark.parametrize("words", [["V*"], ["V*", "V*"], []])
def test_subjects_that_cannot_be_told_apart_are_refused(words: list[str]) -> None:
    with pytest.raises(SearchError, match="expected two or more, each with an identifier"):
        find_jointly(None, [subject(identifier=word) for word in words])


def test_an_open_density_is_chosen_by_line_search(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {**QUICK, "density": None}
    concept = find(tiny_pipeline(), subject(), rule="adam", **asked)
    rows = concept.certificate["line_search"]
    assert [row["density"] for row in rows] == pytest.approx([0.0066, 0.0132, 0.0243], rel=0.02)
    assert concept.density in [row["density"] for row in rows]
    monkeypatch.setattr(room, "choose", lambda *_, **__: (1, []))
    second = find(tiny_pipeline(), subject(), rule="adam", **asked)
    assert second.density == rows[1]["density"]


REFUSED = {
    "a bad value": ({"steps": 0}, SearchError, "steps is 0"),
    "an unknown name": ({"stesp": 3}, SearchError, "use steps"),
    "no noun": ({"photos": "nowhere", "noun": None}, SubjectError, "pass noun='cat'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_before_anything_is_loaded(case: str) -> None:
    changes, kind, message = REFUSED[case]
    asked = {"photos": "nowhere", "noun": "cat", **changes}
    with pytest.raises(kind, match=message):
        find(None, asked.pop("photos"), **asked)
    with pytest.raises(ModelError):
        find(None, "nowhere", noun="cat")


def test_an_error_leaves_the_pipeline_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = tiny_pipeline()
    before = state(pipeline)

    def broken(*_: object, **__: object) -> Iterator[None]:
        raise SearchError("stopped")

    monkeypatch.setattr(room, "candidates", broken)
    with pytest.raises(ConesError, match="stopped"):
        find(pipeline, subject(), **QUICK)
    assert_untouched(pipeline, before)


def test_a_model_in_float16_is_refused() -> None:
    pipeline = tiny_pipeline().to(torch.float16)
    with pytest.raises(SearchError, match="float16, .*; expected bfloat16 .*; load it with dtype"):
        find(pipeline, subject(), **QUICK)
    with pytest.raises(SearchError, match="found a model in float16"):
        find_jointly(pipeline, [subject(), subject(identifier="V2*")], **QUICK)


def test_a_search_fits_into_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = find(tiny_pipeline(), subject(), micro_batch=1, **QUICK)
    monkeypatch.setitem(FREE, "cpu", lambda _: (0, 0))
    watch = Stop("", 0)
    fitted = find(tiny_pipeline(), subject(), progress=watch, **QUICK)
    assert ("memory", 1, 1) in watch.told
    assert fitted.levels == asked.levels
    figures = ("subject", "others", "drift_noun")
    assert all(fitted.certificate[each] == asked.certificate[each] for each in figures)


@pytest.mark.parametrize("asked", ["auto", "bfloat16", "pipeline"])
def test_the_precision_that_was_computed_in_is_recorded(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = []
    real = room.candidates

    def candidates(*args: object, **options: object) -> list:
        inside.append(torch.is_autocast_enabled("cpu"))
        return real(*args, **options)

    monkeypatch.setattr(room, "candidates", candidates)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    concept = find(tiny_pipeline(), subject(), precision=asked, **QUICK)
    assert concept.settings["precision"] == {"auto": "bfloat16"}.get(asked, asked)
    assert inside == [asked != "pipeline"]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.slow
def test_bfloat16_finds_a_concept_as_well() -> None:
    pipeline = tiny_pipeline().to(torch.bfloat16)
    concept = find(pipeline, subject(), **QUICK)
    assert isinstance(concept, Concept)
    assert len(concept.mask) > 0
