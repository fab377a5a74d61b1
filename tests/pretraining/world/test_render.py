"""A renderer's laws: outlines, what hides what, where light falls, and the same bits again."""

import numpy as np
import pytest
from jaxtyping import UInt8

from pretraining.world.colours import where
from pretraining.world.render import Part, render
from pretraining.world.solids import Triple, box, sphere

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
LEVEL = (0.0, 0.0, 1.0)


def draw(
    parts: list[Part],
    *,
    size: int = 40,
    yaw: float = 0,
    pitch: float = 0,
    light: Triple = LEVEL,
    tint: Triple = (1, 1, 1),
) -> UInt8[np.ndarray, "h w 4"]:
    """Render from the front, lit from the front, unless told otherwise."""
    return render(parts, yaw=yaw, pitch=pitch, light=light, size=size, tint=tint)


def ball(x: float = 0.0, z: float = 0.0, rgb: tuple[float, float, float] = RED) -> Part:
    return sphere(0.5).at(x, 1.0, z), rgb


def test_a_ball_is_a_disc_that_fills_the_picture() -> None:
    rgba = draw([ball()], size=60)
    assert rgba.shape == (60, 60, 4)
    assert (rgba[..., 3] / 255).mean() == pytest.approx(np.pi / 4, abs=0.015)


def test_the_long_side_has_the_size_asked_for() -> None:
    part: Part = (box(0.2, 0.8, 0.2, rounding=0.01).at(0.3, 1, 0), RED)
    assert draw([part], size=80).shape == (80, 20, 4)


def test_the_nearer_part_hides_the_farther() -> None:
    near, far = ball(z=0.6, rgb=BLUE), ball(z=-0.6)
    for parts in ([near, far], [far, near]):
        rgba = draw(parts, size=40)
        assert (rgba[20, 20, 2] > rgba[20, 20, 0]).all()
    behind = draw([near, far], size=40, yaw=180.0)
    assert behind[20, 20, 0] > behind[20, 20, 2]


def test_the_side_towards_the_light_is_brighter() -> None:
    rgba = draw([ball()], size=40, light=(1.0, 0.0, 0.3)).astype(int)
    assert rgba[20, 32, 0] > rgba[20, 8, 0] + 40


def test_a_part_between_throws_a_shadow() -> None:
    wall: Part = (box(1, 1, 0.1, rounding=0.01).at(0, 1, 0), RED)
    light = (1.0, 0.0, 1.0)
    open_, shaded = (
        draw(parts, size=60, light=light).astype(int)
        for parts in ([wall], [wall, (sphere(0.2).at(0.45, 1.0, 0.45), BLUE)])
    )
    assert shaded[30, 28, 0] < open_[30, 28, 0] - 30


def test_a_pitch_shows_the_top_and_a_tint_scales_the_channels() -> None:
    cube: Part = (
        box(0.5, 0.5, 0.5, rounding=0.01).at(0, 1, 0),
        where(lambda p: p[1] < 1.48, RED, BLUE),
    )
    level, above = (draw([cube], size=40, pitch=p) for p in (0.0, 40.0))
    assert level[20, 20, 0] > level[20, 20, 2]
    assert above[6, 20, 2] > above[6, 20, 0]
    warm = draw([cube], size=40, tint=(1.0, 1.0, 0.5))
    assert (warm[..., 0] == level[..., 0]).all()
    assert warm[20, 20, 2] < level[20, 20, 2]


def test_the_same_parts_give_the_same_bits() -> None:
    first, again = (draw([ball(), ball(0.4, 0.3, BLUE)], size=50) for _ in range(2))
    assert first.tobytes() == again.tobytes()
