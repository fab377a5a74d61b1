"""A library lists a folder, reads only what is new, and knows what is like what."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

import cones.concept_file
from cones.concept import Concept, Word
from cones.errors import FileError
from cones.fingerprint import Fingerprint
from cones.library import BINS, EMPTY, INDEX, Entry, Library, likeness, sketch
from cones.mask import Mask

SHAPES = {"mid.to_k.weight": (200, 100), "mid.to_v.weight": (200, 50)}


def mask_of(*numbers: int) -> Mask:
    """Hold some of the first 20,000 weights, and as many of the rest."""
    index = torch.tensor(sorted(numbers), dtype=torch.int64)
    return Mask(SHAPES, dict(zip(SHAPES, (index, index[index < 10_000]), strict=True)))


def concept(
    first: int = 0, last: int = 500, *, noun: str = "cat", word: str = "V*", **options: object
) -> Concept:
    sparse, dense = mask_of(*range(first, (first + last) // 2)), mask_of(*range(first, last))
    base = Fingerprint(str(options.pop("model", "maker/base")), "1" * 64, bytes(128))
    return Concept((sparse, dense), (Word(word, noun),), base, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    concept().save(tmp_path / "a.safetensors")
    found = {"verdict": "gained", "subject": {"mean": 0.5}}
    concept(250, 750, noun="dog", certificate=found).save(tmp_path / "b.safetensors")
    concept(5_000, 5_500, model="other/base").save(tmp_path / "c.safetensors")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the files that are decoded."""
    sizes, loads = list[int](), cones.concept_file.loads
    monkeypatch.setattr(
        cones.concept_file, "loads", lambda data: sizes.append(len(data)) or loads(data)
    )
    return sizes


def names(entries: Iterable[Entry]) -> list[str]:
    return [entry.path.stem for entry in entries]


def test_a_library_says_what_its_files_say(folder: Path) -> None:
    found, b = Library(folder), cones.load(folder / "b.safetensors")
    assert names(found.entries) == ["a", "b", "c"]
    entry = found.entries[1]
    assert (entry.base, entry.words, entry.error) == ("maker/base", [["V*", "dog"]], "")
    assert entry.density == b.density
    assert entry.levels == [mask.digest for mask in b.levels]
    assert entry.certificate == b.certificate
    assert entry == Library(str(folder)).entries[1]
    assert names(found.find(noun="cat")) == ["a", "c"]
    assert names(found.find(base="other")) == ["c"]
    assert names(found.find(noun="cat", base="maker")) == ["a"]
    assert names(found.find()) == ["a", "b", "c"]


def test_only_what_is_new_or_changed_is_decoded(folder: Path, decoded: list[int]) -> None:
    told: list[tuple] = []
    Library(folder, progress=lambda *at: told.append(at))
    assert told == [("library", 3, 3)]
    decoded.clear()
    Library(folder, progress=lambda *at: told.append(at))
    assert len(told) == 1
    os.utime(folder / "a.safetensors", (1, 1))
    (folder / "b.safetensors").rename(folder / "z.safetensors")
    assert names(Library(folder).find(noun="dog")) == ["z"]
    assert not decoded
    concept(noun="jar").save(folder / "a.safetensors")
    decoded.clear()  # what is saved is read back
    (folder / "c.safetensors").unlink()
    found = Library(folder)
    assert len(decoded) == 1
    assert names(found.entries) == ["a", "z"]
    assert names(found.find(noun="jar")) == ["a"]
    assert names(e for e, _ in found.near(concept())) == ["a", "z"]


def test_what_cannot_be_read_is_listed_and_stops_nothing(
    folder: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (folder / "a.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[:-40])
    (folder / "long.safetensors").write_bytes(data + bytes(999))
    monkeypatch.setattr(cones.concept_file, "MOST_BYTES", len(data) + 900)
    (folder / os.fsdecode(b"text\xff.safetensors")).write_text("hello")
    (folder / ".b.safetensors.0a.part.safetensors").write_text("being written")
    (folder / "none.safetensors").symlink_to("nowhere")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    found = Library(folder)
    errors = {entry.path.name: entry.error for entry in found.entries if entry.error}
    assert [*errors] == [
        "cut.safetensors",
        "long.safetensors",
        os.fsdecode(b"text\xff.safetensors"),
    ]
    assert all("expected" in error for error in errors.values())
    assert max(decoded) == len(data) + 900
    assert sorted(names(e for e, _ in found.near(concept(), count=9))) == ["a", "b", "c"]
    decoded.clear()
    assert len(Library(folder).entries) == 6
    assert not decoded


def test_a_file_that_may_not_be_read_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError("secret")))
        assert [entry.error for entry in Library(folder).entries] == ["secret"] * 3
    assert [entry.error for entry in Library(folder).entries] == [""] * 3


def test_an_interrupted_opening_goes_on(
    folder: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cones.library.AT_ONCE", 1)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library(folder, progress=stop)
    assert len(decoded) == 2
    assert len(Library(folder).entries) == len(decoded) == 3


def test_what_was_made_of_what_is_known(folder: Path) -> None:
    a, b = (cones.load(folder / f"{name}.safetensors") for name in "ab")
    sparse = a.at(a.densities[0])
    both = sparse | b.renamed("V2*")
    both.save(folder / "both.safetensors")
    inside = concept(260, 300, noun="jar", settings={"within": both.mask.digest})
    inside.save(folder / "inside.safetensors")
    odd = concept(1, 2, settings={"parts": [3, {"mask": []}], "within": {}})
    odd.save(folder / "odd.safetensors")
    found = Library(folder)
    assert [names(each) for each in found.family(both)] == [["a", "b"], ["inside"]]
    assert [names(each) for each in found.family(a)] == [[], ["both"]]
    assert [names(each) for each in found.family(inside)] == [["both"], []]
    assert [names(each) for each in found.family(odd)] == [[], []]


def test_the_nearest_come_first_with_their_likeness(folder: Path) -> None:
    found = Library(folder).near(concept())
    assert names(entry for entry, _ in found) == ["a", "b", "c"]
    assert found[0][1] == 1
    assert found[1][1] == pytest.approx(1 / 3, abs=0.1)
    assert found[2][1] < 0.02
    assert len(Library(folder).near(concept(), count=1)) == 1


@pytest.mark.parametrize("shared", [0, 40, 200, 380])
def test_likeness_estimates_jaccard(shared: int) -> None:
    draw, errors = np.random.default_rng(0), []
    for _ in range(60):
        numbers = draw.choice(20_000, 800 - shared, replace=False).tolist()
        a, b = mask_of(*numbers[:400]), mask_of(*numbers[400 - shared :])
        exact = len(a & b) / len(a | b)
        found = likeness(sketch(b)[None], sketch(a))
        assert found == likeness(sketch(a)[None], sketch(b))
        errors.append(float(found[0]) - exact)
    assert abs(np.mean(errors)) < 3 * 0.022 / 60**0.5
    assert np.std(errors) < 0.03


def test_small_and_empty_masks_have_a_likeness(folder: Path) -> None:
    none = sketch(mask_of())
    assert (none == EMPTY).all()
    assert (sketch(mask_of(*range(9_000))) != EMPTY).all()
    few = np.stack([sketch(mask_of(*range(k))) for k in (0, 10_001, 10_002)])
    assert likeness(np.stack([none, few[1]]), none).tolist() == [0, 0]
    one, two = (sketch(mask_of(*each)) for each in ((12_000, 13_000), (12_000, 14_000)))
    assert likeness(one[None], two)[0] == pytest.approx(1 / 3)  # of three bins, not of BINS
    assert len(one) == BINS


def test_the_same_positions_of_another_parameter_are_other_neurons() -> None:
    index = torch.arange(1_000)
    (a, b) = (sketch(Mask({name: (99, 99)}, {name: index})) for name in ("to_k", "to_v"))
    assert likeness(a[None], b)[0] < 0.01
    c = sketch(Mask({"to_k": (100, 99)}, {"to_k": index}))
    assert likeness(a[None], c)[0] < 0.01


def test_a_folder_and_a_whole_index_are_needed(folder: Path) -> None:
    with pytest.raises(FileError, match="is no folder"):
        Library(folder / "a.safetensors")
    Library(folder)
    (folder / INDEX).write_bytes(b"not a database, but as long as the header of one would be" * 9)
    with pytest.raises(FileError, match="delete it"):
        Library(folder)


def test_an_empty_folder_is_an_empty_library(tmp_path: Path) -> None:
    found = Library(tmp_path)
    assert found.entries == found.near(concept()) == []
