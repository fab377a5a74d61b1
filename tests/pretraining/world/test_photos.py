import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pretraining.world.__main__ import app
from pretraining.world.looks import SUBJECTS
from pretraining.world.production import write_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos("zigzag_jar", folder, 2)
    return folder / "zigzag_jar"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_sets_differ(folder: Path) -> None:
    photos = [read(folder / part / "00.png") for part in ("", "kept", "other")]
    assert photos[0].shape == (128, 128, 3)
    assert not np.array_equal(photos[0], photos[1])
    assert json.loads((folder / "labels.json").read_text())["tuning"] is True
    assert json.loads((folder / "other" / "labels.json").read_text())["subject"] is None


def test_labels_agree_with_masks(folder: Path) -> None:
    for row in json.loads((folder / "labels.json").read_text())["photos"]:
        mask = read(folder / "masks" / row["file"])
        x0, y0, x1, y1 = row["box"]
        assert mask[y0:y1, x0:x1].sum() == mask.sum() > 500
        assert (row["main"], row["pattern"]) == ("yellow", "zigzag")


def test_photos_show_different_places(folder: Path) -> None:
    rows = json.loads((folder / "labels.json").read_text())["photos"]
    assert len({row["place"] for row in rows}) == len(rows)


def test_other_individuals_are_others_of_the_noun(folder: Path) -> None:
    rows = json.loads((folder / "other" / "labels.json").read_text())["photos"]
    subject = SUBJECTS["zigzag_jar"]
    for row in rows:
        assert row["noun"] == subject.noun
        assert (row["main"], row["second"], row["pattern"]) != ("yellow", "blue", "zigzag")


def test_the_stranger_is_one_individual_of_other_colours(folder: Path) -> None:
    rows = json.loads((folder / "stranger" / "labels.json").read_text())["photos"]
    traits = {(row["noun"], row["main"], row["second"], row["pattern"]) for row in rows}
    assert len(traits) == 1
    assert {row["noun"] for row in rows} == {"jar"}
    assert not {"yellow", "blue"} & {rows[0]["main"], rows[0]["second"]}
    assert len({row["place"] for row in rows}) == len(rows)


def test_the_command_names_the_subjects_it_knows(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["photo", "--subject", "nobody", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "zigzag_jar" in result.output
