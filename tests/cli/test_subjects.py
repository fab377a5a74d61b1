"""``cones find --subjects``: a table in, files, a log and an exit code out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cones
from cones.cli import console
from cones.errors import SubjectError
from fakes import tiny_concept, tiny_pipeline

Run = Callable[..., object]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Replace the search: the noun says what comes of it."""
    found: list[dict] = []

    def find(_: object, photos: Path, **options: object) -> cones.Concept:
        found.append({"photos": photos, **options})
        if options["noun"] == "jar":
            raise SubjectError("found no photos; expected some; add them")
        concept = tiny_concept(tiny_pipeline())
        concept.certificate["verdict"] = "not gained" if options["noun"] == "dog" else "gained"
        return concept

    monkeypatch.setattr(cones, "find", find, raising=False)
    return found


@pytest.fixture
def table(tmp_path: Path, photos: str) -> Callable[..., Path]:
    """Write a table of lines; photos are beside it."""

    def write(*lines: str, names: str = "photos,noun,out,identifier,steps,others") -> Path:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        (folder / "p").symlink_to(photos) if not (folder / "p").exists() else None
        path = folder / "subjects.csv"
        path.write_text("\n".join((names, *lines)))
        return path

    return write


def test_every_line_becomes_a_file_and_a_second_run_does_nothing(
    run: Run, table: Callable[..., Path], model: str, asked: list[dict]
) -> None:
    path = table("p, cat ,a.safetensors,,,", "p,cat,more/b.safetensors,W*,7,p")
    command = ["find", "--subjects", path, "--model", model, "--steps", 5, "--json"]
    found = json.loads(run(*command).stdout)
    assert [each["state"] for each in found["subjects"]] == ["done", "done"]
    assert [cones.load(path.parent / out) for out in ("a.safetensors", "more/b.safetensors")]
    assert [(a["noun"], a["identifier"], a["settings"].steps) for a in asked] == [
        ("cat", "V*", 5),
        ("cat", "W*", 7),
    ]
    assert [each["others"] for each in asked] == [None, (path.parent / "p").resolve()]
    again = run(*command[:-1])
    assert len(asked) == 2
    assert again.stdout.count("there   gained") == 2
    assert found["log"] == f"{path}.log"


def test_the_worst_of_all_is_the_exit_code_and_every_one_is_told(
    run: Run, table: Callable[..., Path], model: str
) -> None:
    path = table("p,jar,a.safetensors", "p,dog,b.safetensors", names="photos,noun,out")
    result = run("find", "--subjects", path, "--model", model, code=console.FAILED)
    first, second = result.stdout.splitlines()
    assert first.startswith("failed  -")
    assert first.endswith("a.safetensors: SubjectError: found no photos; expected some; add them")
    assert second.startswith("done    not gained")
    path = table("p,dog,b.safetensors", "p,cat,c.safetensors", names="photos,noun,out")
    run("find", "--subjects", path, "--model", model, code=console.REFUSED)


def test_a_file_that_is_there_but_not_known_is_an_error_of_its_subject(
    run: Run, table: Callable[..., Path], model: str, asked: list[dict]
) -> None:
    path = table("p,cat,a.safetensors", names="photos,noun,out")
    (path.parent / "a.safetensors").write_text("mine")
    command = ["find", "--subjects", path, "--model", model]
    assert "exists" in run(*command, code=console.FAILED).stdout
    run(*command, "--overwrite")
    assert len(asked) == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("line", "match"),
    [
        (",cat,a.s", "line 3: no photos; expected photos, noun, out"),
        ("p,cat,", "line 3: no out"),
        ("p,cat,b.s,a b", "line 3: the identifier is 'a b'"),
        ("p,cat,first.s", "line 3: out is 'first.s' again"),
        ("p,cat,b.s,V*,0", "line 3: steps is 0"),
        ("p,cat,b.s,V*,4,,x", "line 3: found the setting 'None'"),
    ],
)
def test_a_line_that_does_not_fit_is_refused_before_any_search(
    refused: Run, table: Callable[..., Path], line: str, match: str, asked: list[dict]
) -> None:
    path = table("p,cat,first.s", line)
    refused("find", "--subjects", path, match=match)
    assert not asked
    assert sorted(each.name for each in path.parent.iterdir()) == ["p", "subjects.csv"]


def test_an_empty_table_is_refused(refused: Run, table: Callable[..., Path]) -> None:
    refused("find", "--subjects", table(), match="names no subject")


@pytest.mark.parametrize(
    "words",
    [
        ["p", "--noun", "cat", "-o", "a", "--subjects", "s.csv"],
        ["--noun", "cat", "-o", "a"],
        ["p", "-o", "a"],
        ["p", "--noun", "cat"],
        ["p", "--noun", "cat", "-o", "a", "--ray", "local"],
        [],
    ],
)
def test_one_subject_or_a_table(run: Run, words: list[str]) -> None:
    assert "or --subjects without these" in run("find", *words, code=2).stderr
