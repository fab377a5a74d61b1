"""3D models of the corpus: libraries, meshes, views, and what a render shows where."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cones.errors import SubjectError
from cones.mini.corpus.catalogue import PROPERTIES, Model, catalogue
from cones.mini.corpus.mesh import GREY, Material, read_mtl, read_obj
from cones.mini.corpus.render import _developed, model_parts, render, smoothed, solid_parts
from cones.mini.corpus.solids import solids
from cones.mini.corpus.views import FRONT, HIGHEST, LOWEST, View, view

ENTRY = """# a comment
id#1=Toy#box
name#1=Bo\\u00eete \\: \\
    rouge
category#1=Toys
model#1=/toys/box/box.obj
width#1=40.0
depth#1=10.0
height#1=20.0
dropOnTopElevation#1=20.0
modelRotation#1={rotation}
creator#1=Somebody
id#2=Toy#nothing
name#2=No model
"""
UPRIGHT = "1 0 0 0 1 0 0 0 1"
# A square in front (z = 1), its texture's left half red and right half blue.
SQUARE = """mtllib box.mtl
v -1 0 1
v 1 0 1
v 1 2 1
v -1 2 1
v -1 0 -1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl painted
f 1/1 2/2 3/3 4/4
usemtl unknown
f 1 2 -1
"""
FRONTAL = View(azimuth=0.0, elevation=0.0, light="", turn=0.0)


def halves() -> bytes:
    """Paint a texture: red on the left, blue on the right, its upper half darker."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0] = pixels[:, 4:, 2] = 255
    pixels[:4] //= 3
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def library(tmp_path):
    def make(rotation=UPRIGHT, obj=SQUARE, **more):
        path = tmp_path / "Scopia.sh3f"
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr(PROPERTIES, ENTRY.format(rotation=rotation))
            opened.writestr("toys/box/box.obj", obj)
            opened.writestr("toys/box/box.mtl", "newmtl painted\nKd 1 1 1\nmap_Kd Halves.png\n")
            opened.writestr("toys/box/halves.png", halves())
        return path

    return make


def test_a_catalogue_entry_is_read_with_its_escapes(library):
    (model,) = catalogue(library())
    assert (model.identity, model.name, model.creator) == ("Toy#box", "Boîte : rouge", "Somebody")
    assert (model.licence, model.source) == ("CC BY 3.0", "sweethome3d:Scopia")
    assert model.size_cm == (40.0, 10.0, 20.0)
    assert model.drop_on_top_cm == 20.0
    assert model.file == "toys/box/box.obj"


def test_what_is_no_library_is_refused(tmp_path):
    (tmp_path / "torn.sh3f").write_bytes(b"PK")
    for name in ("gone.sh3f", "torn.sh3f"):
        with pytest.raises(SubjectError, match="found no furniture library"):
            catalogue(tmp_path / name)


def test_faces_of_a_material_are_one_part_cut_into_fans():
    parts = read_obj(SQUARE, {"painted": Material(colour=(1, 0, 0))})
    painted, unknown = parts
    assert painted.material.colour == (1, 0, 0)
    assert unknown.material.colour == GREY
    expected = [(-1, 0, 1), (1, 0, 1), (1, 2, 1), (-1, 0, 1), (1, 2, 1), (-1, 2, 1)]
    assert painted.corners.tolist() == [list(map(float, each)) for each in expected]
    assert painted.uv.tolist() == [[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]]
    assert unknown.uv is None
    assert unknown.corners[2].tolist() == [-1, 0, -1]  # counted from the last
    with pytest.raises(SubjectError, match="missing corners"):
        read_obj("v 0 0 0\nf 1 2 3\n", {})
    with pytest.raises(SubjectError, match="without triangles"):
        read_obj("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", {})


def test_materials_are_read():
    text = (
        "newmtl a b\nKd .1 .2 .3\nd 0.5\nKs 0.3 0.3 0.3\nNs 20\nnewmtl c\nTr 0.25\nmap_Kd x y.png"
    )
    found = read_mtl(text)
    assert found["a b"] == Material((0.1, 0.2, 0.3), None, 0.5, 20.0, pytest.approx(0.3))
    assert found["c"] == Material(GREY, "x y.png", 0.75)


@pytest.mark.parametrize("turned", [False, True])
def test_a_model_is_turned_upright_and_sized(library, turned):
    rotation = "0 -1 0 1 0 0 0 0 1" if turned else UPRIGHT
    (model,) = catalogue(library(rotation))
    parts, texture = model_parts(model)
    corners = np.concatenate([part.corners for part in parts])
    assert np.ptp(corners, axis=0).tolist() == pytest.approx([40, 20, 10])
    assert corners.min(axis=0).tolist() == pytest.approx([0, 0, 0])
    first = (40, 0, 10) if turned else (0, 0, 10)  # (-1, 0, 1) turned left by a right angle
    assert parts[0].corners[0].tolist() == pytest.approx(first)
    assert texture("Halves.png").size == (8, 8)  # whatever the letters' case
    assert texture("gone.png") is None


def test_a_missing_mesh_is_named(library):
    (model,) = catalogue(library())
    with pytest.raises(SubjectError, match="found no toys/gone.obj"):
        model_parts(replace(model, file="toys/gone.obj"))


def test_views_depend_on_seed_model_and_number_alone():
    lights = ("park", "night", "room")
    assert view(0, "a", 3, lights) == view(0, "a", 3, lights)
    drawn = {view(s, m, k, lights) for s in (0, 1) for m in ("a", "b") for k in range(40)}
    assert len(drawn) == 160
    assert {each.light for each in drawn} == set(lights)
    assert all(LOWEST <= each.elevation <= HIGHEST for each in drawn)
    front = [view(0, "a", k, lights).azimuth for k in range(400) if k % 4 != 3]
    assert max(map(abs, front)) <= FRONT
    around = [abs(view(0, "a", k, lights).azimuth) for k in range(3, 400, 4)]
    assert np.mean(np.array(around) > FRONT) == pytest.approx(1 - FRONT / 180, abs=0.12)


def test_smooth_normals_stop_at_creases():
    cube, ball = (solids(0)[name].pieces[0] for name in ("procedural#train0", "procedural#ball0"))
    normals = smoothed(cube.corners, cube.triangles)
    assert np.sort(np.abs(normals), axis=1).round(6).tolist() == [[0, 0, 1]] * len(normals)
    corners = ball.corners[ball.triangles.ravel()] - ball.corners.mean(axis=0)
    outwards = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    cosines = (smoothed(ball.corners, ball.triangles) * outwards).sum(axis=1)
    assert np.quantile(cosines, 0.1) > 0.99


def lit(*, above=1.0) -> np.ndarray:
    light = np.full((16, 32, 3), 1.0, np.float32)
    light[:8] *= above
    return light


def test_a_render_shows_the_texture_the_right_way_round(library):
    pytest.importorskip("mitsuba")
    (model,) = catalogue(library())
    parts, texture = model_parts(model)
    image = np.asarray(render(parts[:1], texture, FRONTAL, lit())).astype(int)
    assert image.shape[1] == 96
    assert image.shape[0] == pytest.approx(92 / 2 + 4, abs=2)  # 40 cm by 20 cm
    height, width = image.shape[:2]
    left, right = image[height // 4, width // 4], image[height // 4, 3 * width // 4]
    assert left[0] > 1.5 * left[2]
    assert right[2] > 1.5 * right[0]
    assert image[3 * height // 4, width // 4, 0] > 1.2 * left[0]  # the lower half is brighter
    assert (image[:2, :, 3] == 0).all()
    assert image[height // 2, width // 2, 3] == 255


def test_a_render_turns_with_the_view_and_repeats():
    pytest.importorskip("mitsuba")
    parts, texture = solid_parts(solids(0)["procedural#cup0"])

    def seen(azimuth):
        return np.asarray(render(parts, texture, View(azimuth, 10.0, "", 0.0), lit()))

    front = seen(0.0)
    assert (front == seen(0.0)).all()
    handle = np.flatnonzero(front[..., 3].any(axis=0))
    assert front.shape[1] > seen(90.0).shape[1] * 96 / 100  # the handle is to the right
    assert handle[0] == 2
    behind = seen(180.0)
    weight = [(p[..., 3] > 0)[:, : p.shape[1] // 3].sum() for p in (front, behind)]
    assert weight[0] > weight[1]  # and to the left from behind


def test_light_comes_from_where_the_panorama_has_it():
    pytest.importorskip("mitsuba")
    parts, texture = solid_parts(solids(0)["procedural#ball0"])
    ratios = []
    for light in (lit(above=20.0), lit(above=0.05)):
        image = np.asarray(render(parts[:1], texture, FRONTAL, light)).astype(float)
        ratios.append(image[10:30, 30:66, :3].mean() / image[66:86, 30:66, :3].mean())
    assert ratios[0] > 1.2
    assert ratios[1] < 0.8


def test_an_empty_render_is_refused():
    pytest.importorskip("mitsuba")
    parts, texture = solid_parts(solids(0)["procedural#cup0"])
    glass = [replace(part, material=Material(opacity=0.0)) for part in parts]
    with pytest.raises(SubjectError, match="found nothing in the render"):
        render(glass, texture, FRONTAL, lit())
    traced = np.zeros((20, 20, 4), np.float32)
    traced[5:15, 5:15, 3] = 1
    with pytest.raises(SubjectError, match="found blackness"):
        _developed(traced, lit())
    black = [replace(part, material=Material((0, 0, 0))) for part in parts]
    assert np.asarray(render(black, texture, FRONTAL, lit()))[..., :3].max() > 10


def test_the_model_type_names_its_source(library):
    (model,) = catalogue(library())
    assert isinstance(model, Model)
    assert model.rotation.tolist() == np.eye(3).tolist()
