"""Backgrounds of the corpus: panoramas cut by trigonometry, painted places, and a whole build."""

import base64
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus import __main__ as command
from cones.mini.corpus.backgrounds import PLACES, crops, paintings
from cones.mini.corpus.build import FEWEST, MOST, WANTED, Build, views_of
from cones.mini.corpus.catalogue import LIBRARIES, PROPERTIES
from cones.mini.corpus.drawings import SETS
from cones.mini.corpus.painted import PAINTERS, noise
from cones.mini.corpus.panoramas import BRIGHTEST, crop, developed, read, repaired
from cones.mini.corpus.parts import Parts
from cones.mini.corpus.solids import solids
from cones.mini.data import Corpus
from cones.mini.sprites import rows_of


def marked(longitude: float, latitude: float) -> np.ndarray:
    """Paint a panorama that is dark but for a spot at the given degrees."""
    height, width = 180, 360
    panorama = np.full((height, width, 3), 0.1, np.float32)
    row, column = round(90 - latitude), round(180 + longitude)
    panorama[row - 1 : row + 1, np.arange(column - 1, column + 1) % width] = 50
    return panorama


@pytest.mark.parametrize(
    ("azimuth", "pitch", "spot"),
    [(0, 0, (10, 0)), (0, 0, (0, 20)), (90, -20, (75, -10)), (175, 10, (-170, 25))],
)
def test_a_spot_lands_where_trigonometry_says(azimuth, pitch, spot):
    side, field = 101, 70.0
    picture, _ = crop(marked(*spot), azimuth, pitch, field, side)
    row, column = np.unravel_index(picture[..., 0].argmax(), (side, side))
    lon, lat, tilt = np.radians((spot[0] - azimuth, spot[1], pitch))
    ahead = np.sin(tilt) * np.sin(lat) + np.cos(tilt) * np.cos(lat) * np.cos(lon)
    x = np.cos(lat) * np.sin(lon) / ahead
    y = (np.cos(tilt) * np.sin(lat) - np.sin(tilt) * np.cos(lat) * np.cos(lon)) / ahead
    scale = side / (2 * np.tan(np.radians(field / 2)))
    assert column == pytest.approx(side / 2 + x * scale, abs=1.6)
    assert row == pytest.approx(side / 2 - y * scale, abs=1.6)


def test_the_horizon_is_where_sky_meets_ground():
    panorama = np.full((180, 360, 3), 0.2, np.float32)
    panorama[:90] = 1.0
    for pitch in (-20.0, -5.0, 8.0):
        picture, horizon = crop(panorama, 33.0, pitch, 65.0, 200)
        rows = np.flatnonzero(picture[:, 100, 0] < 0.6)
        assert rows[0] / 200 == pytest.approx(horizon, abs=0.01)


def test_the_seam_does_not_show():
    ramp = np.cos(np.radians(np.arange(360)))[None, :, None]
    panorama = np.broadcast_to(1 + 0.5 * ramp, (180, 360, 3)).astype(np.float32)
    picture, _ = crop(panorama, 180.0, 0.0, 40.0, 64)
    assert np.abs(np.diff(picture[32, :, 0])).max() < 0.02


def test_what_no_light_can_be_is_replaced_by_its_neighbours():
    panorama = np.full((8, 16, 3), 2.0, np.float32)
    panorama[2:4, 3:6, 0] = -1.0
    panorama[5, 5] = np.nan
    panorama[6, 6] = np.inf
    panorama[1, 1] = 1e6
    found = repaired(panorama)
    assert (found[2:4, 3:6] == 2).all()
    assert np.isfinite(found).all()
    assert found[1, 1].tolist() == [BRIGHTEST] * 3
    assert found.min() >= 0
    with pytest.raises(SubjectError, match="without light"):
        repaired(np.full((4, 8, 3), -1.0, np.float32))


def test_development_keeps_the_order_and_meets_the_brightness():
    linear = np.geomspace(0.01, 100, 64, dtype=np.float32).reshape(8, 8, 1).repeat(3, axis=2)
    found = developed(linear).astype(int)
    assert (np.diff(found[..., 0].ravel()) >= 0).all()
    even = developed(np.full((4, 4, 3), 7.0, np.float32), 0.35)
    assert even[0, 0, 0] / 255 == pytest.approx(1.055 * 0.35 ** (1 / 2.4) - 0.055, abs=0.01)


def exr(values: np.ndarray, file: Path) -> bytes:
    """Write an EXR file and give its bytes."""
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, {"RGB": values.astype(np.float32)}) as made:
        made.write(str(file))
    return file.read_bytes()


def hdri(folder: Path, names: tuple[str, ...]) -> Path:
    """Lay panoramas out as the package does."""
    place = folder / "package" / "hdri"
    place.mkdir(parents=True)
    values = np.full((16, 32, 3), 0.5)
    values[:8] = 1.0
    text = base64.b64encode(exr(values, folder / "a.exr")).decode()
    for name in names:
        line = f"export default 'data:application/exr;base64,{text}'"
        (place / f"{name}.exr.js").write_text(line)
    return folder


def test_panoramas_are_read_from_their_modules(tmp_path):
    found = read(hdri(tmp_path, ("park",)))
    assert found["park"].shape == (16, 32, 3)
    assert found["park"][0, 0].tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(SubjectError, match="found no panorama"):
        read(tmp_path / "gone")


def test_crops_name_their_place_and_go_all_around():
    panorama = np.random.default_rng(0).random((16, 32, 3)).astype(np.float32)
    made = list(crops({"park": panorama, "unknown": panorama}, 0, count=3))
    assert [row["file"] for row, _ in made] == [f"hdr_park_{k:02d}.webp" for k in range(3)]
    assert {row["label"] for row, _ in made} == {"park"}
    assert made[0][1].tobytes() == next(crops({"park": panorama}, 0, count=3))[1].tobytes()
    assert made[0][1].tobytes() != next(crops({"park": panorama}, 1, count=3))[1].tobytes()
    assert len({image.tobytes() for _, image in made}) == 3


def test_painted_places_are_pictures_with_ground_below_the_horizon():
    made = list(paintings(0, count=2))
    assert len(made) == 2 * len(PAINTERS)
    assert len({image.tobytes() for _, image in made}) == len(made)
    for row, image in made:
        assert image.size == (128, 128)
        assert row["kind"] == "procedural"
        assert 0 < row["horizon"] < row["ground_from"] < row["ground_to"] < 1
    for name, painter in PAINTERS.items():
        picture, _, _ = painter(np.random.default_rng(0), 64)
        assert picture.min() >= 0, name
        assert picture.max() <= 1, name
    dark, light = (
        np.mean([PAINTERS[n](np.random.default_rng(k), 32)[0].mean() for k in range(5)])
        for n in ("night", "snow")
    )
    assert dark < 0.25 < 0.7 < light


def test_noise_is_smooth_and_full():
    found = noise(np.random.default_rng(0), 64, 96, (4, 6))
    assert found.shape == (64, 96)
    assert 0 <= found.min() < 0.3 < 0.7 < found.max() <= 1
    assert np.abs(np.diff(found, axis=0)).max() < 0.15


def test_few_models_are_seen_from_more_sides():
    assert [views_of(count) for count in (1, 15, 1000)] == [MOST, WANTED // 15, FEWEST]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Lay out all packages, nearly empty: one emoji of each set, no model."""
    pytest.importorskip("mitsuba")
    pytest.importorskip("resvg_py")
    folders = {}
    for drawn in SETS:
        package = tmp_path / "packages" / drawn.package / "package"
        package.mkdir(parents=True)
        icons = {
            "width": 8,
            "height": 8,
            "icons": {"top-hat": {"body": '<path d="M1 1h6v6H1z"/>'}},
        }
        (package / "icons.json").write_text(json.dumps(icons))
        (package / "chars.json").write_text('{"1": "top-hat"}')
        folders[drawn.package] = package.parent
    assets = folders["fluent3d"] / "package" / "assets"
    assets.mkdir()
    Image.new("RGBA", (9, 9), (200, 0, 0, 255)).save(assets / "1.webp")
    library = tmp_path / "packages" / "furniture" / "usr/share/sweethome3d/furniture"
    library.mkdir(parents=True)
    for name in LIBRARIES:
        with zipfile.ZipFile(library / f"{name}.sh3f", "w") as opened:
            opened.writestr(PROPERTIES, "id=nothing\n")
    folders["furniture"] = tmp_path / "packages" / "furniture"
    folders["panoramas"] = hdri(tmp_path / "packages" / "panoramas", ("park", "city"))
    monkeypatch.setattr("cones.mini.corpus.scene.SIDE", 24)
    monkeypatch.setattr("cones.mini.corpus.render.SAMPLES", 2)
    return folders


def build(folders, parts: Path, nouns=frozenset({"hat"})) -> Build:
    return Build(folders, Parts(parts / "sprites"), Parts(parts / "backgrounds"), 0, nouns)


def test_an_interrupted_build_goes_on_to_the_same_parts(packages, tmp_path):
    def run(build, stop=None):
        jobs = [job for _, jobs in build.stages() for job in jobs]
        for job in jobs[:stop]:
            job()
        return build.sprites.rows()

    whole = run(build(packages, tmp_path / "whole"))
    wanted = len(SETS) + FEWEST * sum(s.noun == "hat" for s in solids(0).values())
    assert len(whole) == wanted
    run(build(packages, tmp_path / "cut"), stop=-3)
    assert run(build(packages, tmp_path / "cut")) == whole
    one, two = (tmp_path / name / "sprites" for name in ("whole", "cut"))
    assert all(
        (two / row["file"]).read_bytes() == (one / row["file"]).read_bytes() for row in whole
    )


def test_the_command_packs_a_corpus_that_training_reads(packages, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "fetch", lambda package, kept: packages[package])
    monkeypatch.setattr(command, "PACKAGES", {name: name for name in packages})
    out = tmp_path / "corpus"
    monkeypatch.setattr(sys, "argv", ["corpus", str(out), "--noun", "hat"])
    command.main()
    assert {"ATTRIBUTION.csv", "README.md", "backgrounds.jsonl", "sprites.jsonl"} <= {
        f.name for f in out.iterdir()
    }
    assert not (out / ".parts").exists()
    assert {row["label"] for row in rows_of(out, "backgrounds.jsonl")} >= {
        "park",
        "street",
        "beach",
    }
    corpus = Corpus(out)
    assert set(corpus.sprites) == {"hat"}
    assert set(corpus.sprites["hat"]) == {True, False}
    assert "Poly Haven" in (out / "ATTRIBUTION.csv").read_text()
    monkeypatch.setattr(command, "fetch", lambda package, kept: tmp_path / "gone")
    with pytest.raises(SystemExit):
        command.main()
    assert "error: found no panorama" in capsys.readouterr().err


def test_places_are_those_of_the_panoramas_and_paintings():
    labels = {label for label, _, _ in PLACES.values()}
    assert len(labels) == len(PLACES)
    assert {"beach", "desert", "grass", "lake", "night", "plain", "road", "snow"} <= set(PAINTERS)
