"""``cones find``: settings, outputs, resuming, exit codes and what comes next."""

import json
import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import cones
from cones.cli import console
from cones.search.resume import owned
from fakes import search_options, tiny_concept, tiny_pipeline

Run = Callable[..., object]
TINY = search_options(steps=2, score_steps=2, prior_count=2, prior_steps=2, batch=2, draws=4)


@pytest.fixture
def command(model: str, photos: str) -> list[str]:
    return ["find", photos, "--noun", "cat", "--model", model, *TINY]


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace what the certificate says."""

    def say(text: str, **figures: object) -> None:
        find = cones.find

        def judged(*given: object, **options: object) -> cones.Concept:
            found = find(*given, **options)
            found.certificate.update(figures, verdict=text)
            return found

        monkeypatch.setattr(cones, "find", judged, raising=False)

    return say


def test_a_concept_with_a_certificate_is_written_and_the_state_cleared(
    run: Run, command: list[str], verdict: Callable[..., None], tmp_path: Path
) -> None:
    verdict("gained")
    out = tmp_path / "my cats" / "cat.safetensors"
    result = run(*command, "-o", out)
    assert f"the search is kept in {out}.part" in result.stderr
    found = cones.load(out)
    assert found.density == pytest.approx(0.02, rel=0.1)
    assert found.certificate["subject"]["n"] == 4
    assert [path.name for path in out.parent.iterdir()] == ["cat.safetensors"]


def test_the_next_command_keeps_the_model_and_quotes_paths(
    run: Run, command: list[str], model: str, verdict: Callable[..., None], tmp_path: Path
) -> None:
    verdict("gained")
    out = tmp_path / "my cat's.safetensors"
    result = run(*command, "--dtype", "float32", "-o", out)
    (following,) = [line for line in result.stdout.splitlines() if line.startswith("next:")]
    words = shlex.split(following.removeprefix("next:"))
    assert words[:5] == ["cones", "generate", "-c", str(out), "a V* cat in the snow"]
    assert words[5:9] == ["--model", model, "--dtype", "float32"]
    run(*words[1:], "-n", 1, "--num-inference-steps", 1)


@pytest.mark.parametrize("many", [False, True])
def test_what_was_said_of_the_model_goes_into_the_job_and_the_next_command(
    many: bool, run: Run, photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, concept = [], tiny_concept(tiny_pipeline())
    monkeypatch.setattr(cones, "load_pipeline", lambda **_: None, raising=False)
    monkeypatch.setattr("cones.scale.search", lambda job, *_: jobs.append(job) or concept)
    (tmp_path / "table.csv").write_text(f"photos,noun,out\n{photos},cat,a.safetensors\n")
    one, table = (photos, "--noun", "cat", "-o"), ("--subjects", tmp_path / "table.csv")
    said = ["--model", "m", "--lora", "a:2", "--lora", "my b"]
    concept.save(out := tmp_path / "a.safetensors")
    concept.certificate["verdict"] = "gained"
    result = run("find", *(table if many else (*one, out, "--overwrite")), *said)
    assert jobs[0].loading == (("model", "m"), ("lora", ("a:2", "my b")))
    if not many:
        (following,) = [each for each in result.stdout.splitlines() if each.startswith("next:")]
        assert shlex.split(following)[6:-2] == said


@pytest.mark.parametrize(
    ("low", "why", "advice"),
    [(0.01, "learnt the photos by heart", "weight=3"), (-0.01, "did not learn", "--steps")],
)
def test_a_certificate_that_refuses_ends_with_3_says_why_and_gives_no_next_command(
    low: float,
    why: str,
    advice: str,
    run: Run,
    command: list[str],
    verdict: Callable[..., None],
    tmp_path: Path,
) -> None:
    verdict("not gained", lead={"mean": 0.02, "low": low, "high": 0.03, "n": 4})
    result = run(*command, "-o", tmp_path / "a.safetensors", code=console.REFUSED)
    said = " ".join(result.stderr.split())
    assert f"the certificate refuses: the search {why}" in said
    assert advice in said.partition("refuses")[2]
    assert "next:" not in result.output


def test_too_few_photos_for_a_certificate_are_said(
    run: Run, command: list[str], verdict: Callable[..., None], tmp_path: Path
) -> None:
    verdict("unavailable")
    result = run(*command, "-o", tmp_path / "a.safetensors", "--json")
    assert "too few photos" in result.stderr
    assert json.loads(result.stdout)["certificate"]["verdict"] == "unavailable"


def test_a_stopped_search_says_where_it_is_kept_and_goes_on(
    run: Run, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    torn, whole = tmp_path / "torn.safetensors", tmp_path / "whole.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr("cones.search.find.certify", stop)
        result = run(*command, "-o", torn, code=130)
    assert f"the search so far is in {torn}.part; run the same command" in result.stderr
    assert not torn.exists()
    for out in (torn, whole):
        assert run(*command, "-o", out, code=None)
    assert cones.load(torn).mask == cones.load(whole).mask


def test_the_file_has_the_permissions_of_any_new_file(
    run: Run, command: list[str], tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        run(*command, "-o", tmp_path / "a.safetensors", code=None)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o644


def test_two_searches_for_one_file_do_not_meet(
    refused: Run, command: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "a.safetensors"
    with owned(tmp_path / "a.safetensors.part"):  # as another process would hold it
        refused(*command, "-o", out, match=f"in use by the process {os.getpid()}")
    assert not out.exists()


def test_a_file_that_appears_meanwhile_is_not_replaced(
    run: Run, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, find = tmp_path / "a.safetensors", cones.find

    def late(*given: object, **options: object) -> cones.Concept:
        found = find(*given, **options)
        out.write_text("mine")
        return found

    monkeypatch.setattr(cones, "find", late, raising=False)
    result = run(*command, "-o", out, code=1)
    assert "exists" in result.stderr
    assert out.read_text() == "mine"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("nothing=1", "'nothing'"),
        ("batch=many", "batch is 'many'"),
        ("batch=true", "batch is True"),
        ("rate=NaN", "rate is nan"),
        ("guard=Infinity", "guard is inf"),
        ("draws=1", "draws is 1"),
        ("seed=18446744073709551616", "seed is 18446744073709551616"),
        ("flip=2", "flip is 2"),
        ("rule=simulated", "rule is 'simulated'"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_model_is_loaded(
    setting: str, match: str, refused: Run, photos: str, tmp_path: Path
) -> None:
    command = ("find", photos, "--noun", "cat", "-o", tmp_path / "a", "--model", tmp_path)
    refused(*command, "--set", setting, match=match)


def test_outputs_are_checked_before_any_work(
    run: Run, refused: Run, photos: str, tmp_path: Path
) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_text("mine")
    command = ("find", photos, "--noun", "cat", "--model", tmp_path / "none", "-o")
    refused(*command, taken, match="--overwrite")
    assert "directory" in run(*command, tmp_path, code=2).stderr
    refused(*command, taken / "a.safetensors", match="expected a path that can be")
    assert taken.read_text() == "mine"


def test_bad_photos_are_named(refused: Run, model: str, tmp_path: Path) -> None:
    empty, text = tmp_path / "empty", tmp_path / "text"
    for folder in (empty, text):
        folder.mkdir()
    (text / "a.jpg").write_text("not a picture")
    command = ("--noun", "cat", "--model", model, "-o", tmp_path / "a", *TINY)
    refused("find", empty, *command, match="found 0 photos")
    refused("find", text, *command, match="a.jpg")
    refused("find", tmp_path / "none", *command, match="none")


def test_a_model_without_a_tokenizer_and_a_mistyped_model_are_said_at_once(
    refused: Run, model: str, photos: str, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(model, tmp_path / "bare")
    for path in (tmp_path / "bare" / "tokenizer").iterdir():
        path.unlink()
    command = ("find", photos, "--noun", "cat", "-o", tmp_path / "a", *TINY, "--model")
    refused(*command, tmp_path / "bare", match="no vocabulary for tokenizer")
    refused(*command, tmp_path / "tyni", match="found no folder, file or local copy of")
