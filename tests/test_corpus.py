"""The corpus builder without a network: packages, drawings, colours, solids, shards, photos."""

import csv
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus.drawings import LONG_SIDE, MARGIN, SETS, sprites, svg_picture, trimmed
from cones.mini.corpus.nouns import collapsed, drawings, models
from cones.mini.corpus.packages import PACKAGES, Package, fetch
from cones.mini.corpus.parts import Parts, attribution, pack
from cones.mini.corpus.recolour import COLOURS, recoloured
from cones.mini.corpus.shapes import Piece, box, ellipsoid, turned
from cones.mini.corpus.sheets import CELL, COLUMNS, contact_sheet
from cones.mini.corpus.solids import COUNTS, MAKERS, obj_text, solids
from cones.mini.corpus.subjects import folder_name, write_subjects
from cones.mini.data import Corpus
from cones.mini.world import NOUNS

MADE = {"ball", "barrel", "cup", "doll", "guitar", "hat", "jar", "rabbit", "sunglasses"}
MADE |= {"teddy bear", "train"}


def archive(folder: Path, files: dict[str, bytes]) -> Package:
    """Make an npm archive with these files and the package that names it."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "toy-1.0.tgz", "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256((folder / "toy-1.0.tgz").read_bytes()).hexdigest()
    return Package("npm", "toy", "1.0", "toy-1.0.tgz", digest)


def no_client(command, folder):
    raise AssertionError(command)


def test_a_package_is_fetched_once_by_its_client(tmp_path):
    package = archive(tmp_path / "far", {"package/a.txt": b"a"})
    said = []

    def client(command, folder):
        said.append(list(command))
        shutil.copy(tmp_path / "far" / package.archive, folder)

    found = fetch(package, tmp_path / "near", run=client)
    assert (found / "package" / "a.txt").read_bytes() == b"a"
    assert said == [["npm", "pack", "--silent", "toy@1.0"]]
    assert fetch(package, tmp_path / "near", run=no_client) == found


def test_an_archive_of_another_digest_is_not_unpacked(tmp_path):
    package = archive(tmp_path, {"package/a.txt": b"a"})
    with pytest.raises(SubjectError, match="expected toy 1.0 with SHA-256"):
        fetch(replace(package, digest="0" * 64), tmp_path, run=no_client)
    assert [file.name for file in tmp_path.iterdir()] == [package.archive]


def test_a_client_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubjectError, match="found no npm"):
        fetch(PACKAGES["noto"], tmp_path / "new")


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    package = archive(tmp_path / "near", {"../../outside.txt": b"a"})
    with pytest.raises(tarfile.FilterError):
        fetch(package, tmp_path / "near", run=no_client)
    assert not (tmp_path / "outside.txt").exists()


def test_no_share_alike_set_is_fetched():
    assert not {"openmoji", "emojione-v1"} & {*PACKAGES, *(drawn.package for drawn in SETS)}
    assert all("SA" not in drawn.licence for drawn in SETS)


def test_every_noun_of_the_built_in_model_has_drawings_and_models_or_solids():
    shown = {known.noun for known in models().values() if known.split == "train"}
    assert set(NOUNS) <= shown | {solid.noun for solid in solids(0).values()}
    assert set(NOUNS) <= set(drawings().values())
    assert len([known for known in models().values() if known.split == "subject"]) == 15


def test_slugs_of_all_sets_meet():
    assert collapsed("Hot-Air_Balloon 2") == "hotairballoon2"
    assert drawings()[collapsed("guide-dog")] == "dog"
    assert all(slug == collapsed(slug) for slug in drawings())


def test_a_trimmed_picture_has_its_long_side_and_margin():
    picture = Image.new("RGBA", (300, 200), (255, 0, 0, 0))
    picture.paste((10, 200, 30, 255), (100, 20, 150, 180))
    found = np.asarray(trimmed(picture))
    assert found.shape[0] == LONG_SIDE
    assert found.shape[1] == round(50 * (LONG_SIDE - 2 * MARGIN) / 160) + 2 * MARGIN
    alpha = found[..., 3]
    assert alpha[:MARGIN].max() == alpha[:, :MARGIN].max() == alpha[-MARGIN:].max() == 0
    assert (found[alpha > 200][:, :3] == (10, 200, 30)).all()  # hidden red does not shine through
    with pytest.raises(SubjectError, match="without any opaque pixel"):
        trimmed(Image.new("RGBA", (20, 20)))


def test_svgs_are_drawn_at_their_place():
    pytest.importorskip("resvg_py")
    body = '<path fill="#00f" d="M0 0h10v20H0z"/>'
    pixels = np.asarray(svg_picture(body, 40, 20))
    columns = np.flatnonzero(pixels[..., 3].any(axis=0))
    assert columns[0] == 0
    assert columns[-1] + 1 == pixels.shape[1] // 4
    assert (pixels[:, columns[3]] == (0, 0, 255, 255)).all()


def icons(folder: Path, slugs: dict[str, str]) -> None:
    """Write a set of iconify whose drawings are squares."""
    square = {"body": '<path d="M8 8h48v48H8z"/>'}
    package = folder / "package"
    package.mkdir(parents=True)
    held = {"width": 64, "height": 64, "icons": {slug: square for slug in slugs.values()}}
    (package / "icons.json").write_text(json.dumps(held))
    (package / "chars.json").write_text(json.dumps(slugs))


def test_drawings_come_with_their_noun_creator_and_licence(tmp_path):
    pytest.importorskip("resvg_py")
    folders = {drawn.package: tmp_path / drawn.package for drawn in SETS}
    for name, folder in folders.items():
        icons(folder, {"1f415": "guide-dog", "2122": "trade-mark"} if name != "fluent3d" else {})
    assets = folders["fluent3d"] / "package" / "assets"
    assets.mkdir()
    for stem in ("1f415", "2122"):
        Image.new("RGBA", (32, 32), (9, 9, 9, 255)).save(assets / f"{stem}.webp")
    rows = [row for row, _ in sprites(folders)]
    assert [row["model"] for row in rows] == [f"{s.package}#guide-dog" for s in SETS]
    assert {row["class"] for row in rows} == {"dog"}
    assert {row["licence"] for row in rows} == {"Apache-2.0", "CC BY 4.0", "MIT"}
    assert rows[-1]["style"] == "emoji:fluent-3d"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_coat_takes_the_middle_shade_and_keeps_the_order_of_shades(colour):
    shades = np.linspace(40, 200, 9).round().astype(np.uint8)
    pixels = np.full((1, 10, 4), 255, dtype=np.uint8)
    pixels[0, :9, :3] = shades[:, None]
    pixels[0, 9] = (1, 2, 3, 0)
    found = np.asarray(recoloured(Image.fromarray(pixels, "RGBA"), colour))
    assert np.allclose(found[0, 4, :3] / 255, COLOURS[colour], atol=0.01)
    assert (np.diff(found[0, :9, :3].astype(int).sum(axis=1)) >= 0).all()
    assert (found[..., 3] == pixels[..., 3]).all()


def test_solids_are_closed_upright_and_differ():
    made = solids(0)
    assert len(made) == sum(COUNTS.get(kind, 8) for kind in MAKERS)
    assert {solid.noun for solid in made.values()} == MADE <= set(NOUNS)
    assert len({obj_text(solid) for solid in made.values()}) == len(made)
    assert obj_text(solids(0)["procedural#jar3"]) == obj_text(made["procedural#jar3"])
    assert obj_text(solids(1)["procedural#jar3"]) != obj_text(made["procedural#jar3"])
    for name, solid in made.items():
        corners = np.concatenate([piece.corners for piece in solid.pieces])
        assert -2 < corners[:, 1].min() < 2, name  # stands on the ground
        left, right = corners[:, 0].min(), corners[:, 0].max()
        assert abs(left + right) < 0.5 * (right - left), name
        for piece in solid.pieces:
            assert piece.triangles.min() == 0
            assert piece.triangles.max() == len(piece.corners) - 1


def volume(piece: Piece) -> float:
    """Sum the signed volumes of a mesh's tetrahedra: positive if its faces look outwards."""
    a, b, c = (piece.corners[piece.triangles[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_meshes_hold_the_volume_of_their_solids():
    assert volume(box((5, 6, 7), (2, 3, 4), (0, 0, 0))) == pytest.approx(24)
    ball = volume(ellipsoid((5, 6, 7), (2, 3, 4), (0, 0, 0)))
    assert ball == pytest.approx(4 / 3 * np.pi * 24, rel=0.02)
    cone = volume(turned([(0, 0), (3, 0), (0, 5)], (0, 0, 0)))
    assert cone == pytest.approx(np.pi * 9 * 5 / 3, rel=0.02)


def test_an_obj_file_holds_every_piece_in_its_colour():
    solid = solids(0)["procedural#ball0"]
    text, materials = obj_text(solid)
    lines = text.splitlines()
    assert sum(line.startswith("v ") for line in lines) == sum(
        len(p.corners) for p in solid.pieces
    )
    faces = [line.split()[1:] for line in lines if line.startswith("f ")]
    numbers = np.array(faces, dtype=int)
    assert numbers.min() == 1
    assert numbers.max() == sum(len(p.corners) for p in solid.pieces)
    assert [line for line in lines if line.startswith("usemtl")] == [
        "usemtl piece0",
        "usemtl piece1",
    ]
    assert materials.count("newmtl") == 2


def row(file: str, **changes) -> dict:
    return {
        "file": file,
        "class": "cat",
        "name": "cat",
        "colour": None,
        "style": "photo",
        "source": "toy",
        "creator": "Somebody, with a comma",
        "licence": "CC0 1.0",
        "model": "toy#siameseCat",
        "size_cm": None,
        "drop_on_top_cm": None,
        "azimuth": 0.0,
        "split": "train",
        **changes,
    }


@pytest.fixture
def parts(tmp_path) -> tuple[Parts, Parts]:
    made = Parts(tmp_path / "parts" / "sprites"), Parts(tmp_path / "parts" / "backgrounds")
    for k, noun in enumerate(NOUNS):
        made[0].add(
            row(f"train_{k}.webp", **{"class": noun}), Image.new("RGBA", (96, 40), (k, 9, 9))
        )
    for k in range(6):
        changes = {"split": "subject", "azimuth": 30.0 * k}
        made[0].add(
            row(f"subject_{k}.webp", **changes), Image.new("RGBA", (60, 96), (250, 40 * k, 0))
        )
    for kind, label in (("hdr", "park"), ("painted", "beach")):
        place = row(
            f"{kind}.webp", label=label, kind=kind, horizon=0.4, ground_from=0.5, ground_to=0.95
        )
        made[1].add(place, Image.new("RGB", (128, 128), (0, 0, 255)))
    return made


def test_a_packed_corpus_is_read_by_the_training_and_packs_alike(parts, tmp_path):
    for out in (tmp_path / "one", tmp_path / "two"):
        rows = pack(parts[0], out, "sprites")
        pack(parts[1], out, "backgrounds")
    one, two = (
        {f.name: f.read_bytes() for f in (tmp_path / n).rglob("*.*") if f.is_file()}
        for n in ("one", "two")
    )
    assert one == two
    assert {"photo-000.tar", "subject-000.tar", "sprites.jsonl"} <= set(one)
    assert {r["shard"] for r in rows if r["split"] == "subject"} == {"sprites/subject-000.tar"}
    corpus = Corpus(tmp_path / "one")
    assert set(corpus.sprites) == set(NOUNS)
    models = [s for kinds in corpus.sprites.values() for looks in kinds.values() for s in looks]
    assert len(models) == len(NOUNS)  # none of the subject's views
    image, words = corpus.picture(0, seed=0)
    assert image.shape == (64, 64, 3)
    assert words


def test_shards_are_begun_anew(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("cones.mini.corpus.parts.SHARD", 3000)
    rows = pack(parts[0], tmp_path / "one", "sprites")
    assert len({r["shard"] for r in rows}) > 5
    for found in rows:
        with tarfile.open(tmp_path / "one" / found["shard"]) as tar:
            data = tar.extractfile(found["file"]).read()
        assert Image.open(io.BytesIO(data)).size == (found["width"], found["height"])


def test_an_interrupted_part_is_not_taken_for_done(parts, tmp_path):
    assert "train_0.webp" in parts[0]
    (tmp_path / "parts" / "sprites" / "torn.webp").write_bytes(b"RIFF")
    assert "torn.webp" not in parts[0]
    assert "torn.webp" not in [r["file"] for r in parts[0].rows()]
    with pytest.raises(SubjectError, match="found no sprites"):
        pack(Parts(tmp_path / "empty"), tmp_path / "out", "sprites")


def test_attribution_names_every_model_once(parts, tmp_path):
    count = attribution(parts[0].rows() * 2, tmp_path / "ATTRIBUTION.csv")
    table = list(csv.DictReader((tmp_path / "ATTRIBUTION.csv").read_text().splitlines()))
    assert len(table) == count == 2  # the model is in two splits here
    assert {line["creator"] for line in table} == {"Somebody, with a comma"}


def test_photos_show_the_subject_in_its_box_from_the_front(parts, tmp_path):
    assert folder_name({"model": "toy#siameseCat"}) == "siamese_cat"
    assert write_subjects(*parts, tmp_path / "out", seed=0) == ["siamese_cat"]
    folder = tmp_path / "out" / "subjects" / "siamese_cat"
    told = json.loads((folder / "subject.json").read_text())
    assert told["noun"] == "cat"
    assert len(told["sprites"]) == 6
    assert len(told["photos"]) == 5
    assert {photo["background"] for photo in told["photos"]} == {"park"}  # no painted place
    for photo in told["photos"]:
        pixels = np.asarray(Image.open(folder / photo["file"])).astype(int)
        assert pixels.shape == (128, 128, 3)
        left, top, right, bottom = photo["box"]
        assert pixels[(top + bottom) // 2, (left + right) // 2, 0] > 150
        assert pixels[5, 5, 2] > 200
        view = int(photo["sprite"].removeprefix("subject_").removesuffix(".webp"))
        assert 30 * view <= 80
    before = (folder / "00.jpg").read_bytes()
    write_subjects(*parts, tmp_path / "out", seed=0)
    assert (folder / "00.jpg").read_bytes() == before


def test_a_contact_sheet_shows_every_picture_once(parts, tmp_path):
    rows = [r for r in parts[0].rows() if r["split"] == "subject"]
    assert contact_sheet(parts[0], rows, tmp_path / "sheet.png") == 6
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert sheet.shape == (CELL, COLUMNS * CELL, 3)
    reds = [sheet[40, CELL * k + 20, 0] for k in range(COLUMNS)]
    assert all(red > 235 for red in reds[:6])
    assert set(reds[6:]) == {225}
    assert contact_sheet(parts[0], rows, tmp_path / "few.png", most=2) == 2
