"""A renderer's laws: outlines, what hides what, where light falls, and the same bits again."""

import numpy as np
import pytest

from pretraining.world.colours import flat
from pretraining.world.render import Part, render
from pretraining.world.solids import box, sphere

RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
FRONT = {"yaw": 0.0, "pitch": 0.0, "light": (0.0, 0.0, 1.0)}


def ball(x: float = 0.0, z: float = 0.0, rgb: tuple[float, float, float] = RED) -> Part:
    return sphere((x, 1.0, z), 0.5), flat(rgb)


def test_a_ball_is_a_disc_that_fills_the_picture() -> None:
    rgba = render([ball()], size=60, **FRONT)
    assert rgba.shape == (60, 60, 4)
    assert (rgba[..., 3] / 255).mean() == pytest.approx(np.pi / 4, abs=0.015)


def test_the_long_side_has_the_size_asked_for() -> None:
    part: Part = (box((0.3, 1.0, 0.0), (0.2, 0.8, 0.2), 0.01), flat(RED))
    assert render([part], size=80, **FRONT).shape == (80, 20, 4)


def test_the_nearer_part_hides_the_farther() -> None:
    near, far = ball(z=0.6, rgb=BLUE), ball(z=-0.6)
    for parts in ([near, far], [far, near]):
        rgba = render(parts, size=40, **FRONT)
        assert (rgba[20, 20, 2] > rgba[20, 20, 0]).all()
    behind = render([near, far], size=40, **FRONT | {"yaw": 180.0})
    assert behind[20, 20, 0] > behind[20, 20, 2]


def test_the_side_towards_the_light_is_brighter() -> None:
    rgba = render([ball()], size=40, **FRONT | {"light": (1.0, 0.0, 0.3)}).astype(int)
    assert rgba[20, 32, 0] > rgba[20, 8, 0] + 40


def test_a_part_between_throws_a_shadow() -> None:
    wall: Part = (box((0.0, 1.0, 0.0), (1.0, 1.0, 0.1), 0.01), flat(RED))
    light = {"light": (1.0, 0.0, 1.0)}
    open_, shaded = (
        render(parts, size=60, **FRONT | light).astype(int)
        for parts in ([wall], [wall, (sphere((0.45, 1.0, 0.45), 0.2), flat(BLUE))])
    )
    assert shaded[30, 28, 0] < open_[30, 28, 0] - 30


def test_a_pitch_shows_the_top_and_a_tint_scales_the_channels() -> None:
    cube: Part = (
        box((0.0, 1.0, 0.0), (0.5, 0.5, 0.5), 0.01),
        lambda p: flat(RED)(p).where((p[1] < 1.48)[:, None], flat(BLUE)(p)),
    )
    level, above = (render([cube], size=40, **FRONT | {"pitch": p}) for p in (0.0, 40.0))
    assert level[20, 20, 0] > level[20, 20, 2]
    assert above[6, 20, 2] > above[6, 20, 0]
    warm = render([cube], size=40, tint=(1.0, 1.0, 0.5), **FRONT)
    assert (warm[..., 0] == level[..., 0]).all()
    assert warm[20, 20, 2] < level[20, 20, 2]


def test_the_same_parts_give_the_same_bits() -> None:
    first, again = (render([ball(), ball(0.4, 0.3, BLUE)], size=50, **FRONT) for _ in range(2))
    assert first.tobytes() == again.tobytes()
