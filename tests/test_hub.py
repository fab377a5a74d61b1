"""Concepts come from the hub and go there: a fake one, as tests have no network."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
)
from typer.testing import CliRunner

import cones
from cones import hub
from cones.cli import app
from cones.concept import Concept
from cones.concept_file import dumps
from cones.errors import FileError
from fakes import tiny_concept, tiny_pipeline

RESPONSE = httpx.Response(401, request=httpx.Request("POST", "https://hub"))
INTERVAL = {"mean": 0.01234, "low": -0.5, "high": 0.25, "n": 256}


class Hub:
    """Repositories as folders; the owner of what is named without one is ``me``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: list[bool] = []

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> object:
        name = name if "/" in name else f"me/{name}"
        (self.folder / name).mkdir(parents=True, exist_ok=exist_ok)
        (self.folder / name / ".gitattributes").touch()
        self.private.append(private)
        return type("Url", (), {"repo_id": name})()

    def list_repo_files(self, name: str) -> list[str]:
        return [path.name for path in (self.folder / name).iterdir()]

    def create_commit(self, name: str, operations: list, *, commit_message: str) -> None:
        for each in operations:
            (self.folder / name / each.path_in_repo).write_bytes(each.path_or_fileobj)

    def download(self, name: str, file: str, *, revision: str | None) -> str:
        path = self.folder / name / (revision or "") / file
        if not path.exists():
            raise EntryNotFoundError(name)
        return str(path)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(hub, "HfApi", lambda: found)
    monkeypatch.setattr(hub, "hf_hub_download", found.download)
    return found


@pytest.fixture(scope="module")
def concept() -> Concept:
    found = tiny_concept(tiny_pipeline())
    told = {"verdict": "gained", "photos": "kept out", "subject": INTERVAL}
    base = replace(found.base, model="them/small")
    return replace(found, base=base, certificate=told, settings={"steps": 300})


def test_what_was_pushed_is_loaded_from_there(remote: Hub, concept: Concept) -> None:
    assert cones.push(concept, "cat", private=True) == "hub:me/cat"
    assert remote.private == [True]
    for source in ("hub:me/cat", Path("hub:me/cat")):
        assert dumps(cones.load(source)) == dumps(concept)
    (remote.folder / "me/cat/old").mkdir()
    (remote.folder / "me/cat/old" / hub.FILE).write_bytes(dumps(concept.renamed("W*")))
    assert cones.load("hub:me/cat@old").words[0].identifier == "W*"


def test_a_local_file_is_not_asked_for(concept: Concept, tmp_path: Path) -> None:
    concept.save(tmp_path / "cat.safetensors")
    assert cones.load(tmp_path / "cat.safetensors").mask == concept.mask
    assert cones.load(str(tmp_path / "cat.safetensors")).mask == concept.mask


def test_the_card_tells_base_model_use_and_certificate(remote: Hub, concept: Concept) -> None:
    cones.push(concept, "me/cat")
    card = ModelCard.load(remote.folder / "me/cat" / "README.md")
    assert card.data.base_model == "them/small"
    assert card.data.library_name == "cones"
    assert 'cones generate -c hub:me/cat "a V* cat on a beach" --model them/small' in card.text
    assert "Verdict: **gained** (photos kept out)" in card.text
    assert "| subject | 0.0123 | -0.5 | 0.25 | 256 |" in card.text
    assert f"{len(concept.mask):,} key and value weights" in card.text
    assert json.loads(card.text.split("```json")[1].split("```")[0]) == {"steps": 300}


def test_a_combination_says_that_it_has_no_certificate(concept: Concept) -> None:
    local = replace(concept.base, model="cones-builtin")
    both = replace(concept | concept.renamed("W*"), base=local)
    text = hub.card(both, "me/both")
    assert "None: what was measured on its parts" in text
    assert "`V*` (cat), `W*` (cat)" in text
    assert "--model" not in text
    assert ModelCard(text).data.base_model is None


def test_another_repository_is_never_written_to(remote: Hub, concept: Concept) -> None:
    cones.push(concept, "me/cat")
    with pytest.raises(FileError, match="'me/cat' on the hub holds README.md, concept.safe"):
        cones.push(concept, "me/cat")
    cones.push(concept.renamed("W*"), "me/cat", overwrite=True)
    assert cones.load("hub:me/cat").words[0].identifier == "W*"
    (remote.folder / "me/model").mkdir()
    (remote.folder / "me/model/README.md").write_text("mine")
    with pytest.raises(FileError, match="holds README.md; expected a new name, or an older"):
        cones.push(concept, "me/model", overwrite=True)
    assert (remote.folder / "me/model/README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (
            ConnectionError(),
            r"did not answer \(ConnectionError\); .*connect, or run 'hf auth login'",
        ),
        (LocalEntryNotFoundError("x"), "did not answer"),
        (LocalTokenNotFoundError("x"), "did not answer .LocalTokenNotFoundError.*hf auth login"),
        (EntryNotFoundError("x"), "'me/cat', which does not know it, or hides it"),
        (
            HfHubHTTPError("401 Client Error\n\nYou must log in.", response=RESPONSE),
            r"which refused \(You must log in.\); expected owner/name",
        ),
        (HFValidationError("x"), "does not know it, or hides it; .*as 'hub:me/striped-cat'"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    error: Exception, match: str, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(hub, "HfApi", fail)
    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(FileError, match=match):
        cones.load("hub:me/cat")
    with pytest.raises(FileError, match=match):
        cones.push(concept, "me/cat")


def test_commands_push_and_read(
    remote: Hub, concept: Concept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    concept.save("cat.safetensors")
    run: Callable = CliRunner().invoke
    pushed = run(app, ["push", "me/cat", "cat.safetensors", "--private", "--json"])
    assert json.loads(pushed.stdout) == {"concept": "hub:me/cat"}
    assert remote.private == [True]
    assert "a V* cat" in run(app, ["show", "hub:me/cat"]).stdout
    assert run(app, ["combine", "hub:me/cat", "-o", "copy.safetensors"]).exit_code == 0
    assert cones.load("copy.safetensors").mask == concept.mask
    again = run(app, ["push", "me/cat", "cat.safetensors"])
    assert (again.exit_code, "--overwrite" in again.stderr) == (1, True)
    assert run(app, ["push", "me/cat", "cat.safetensors", "--overwrite"]).exit_code == 0
    refused = run(app, ["show", "hub:me/dog"])
    assert refused.exit_code == 1
    assert "'me/dog', which does not know it" in refused.stderr
