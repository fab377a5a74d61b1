"""Laws of solids: distances bound, supports bound and touch, joins and cuts obey sets."""

import pytest
import torch

from pretraining.world.solids import (
    box,
    capsule,
    cylinder,
    ellipsoid,
    lathe,
    revolved,
    sphere,
    torus,
    turn,
    union,
)

SOLIDS = {
    "sphere": sphere(0.5).at(0.1, 0.9, -0.2),
    "ellipsoid": ellipsoid(0.5, 0.2, 0.3).at(0.0, 1.0, 0.1, turned=("z", 30)),
    "capsule": capsule((-0.4, 0.3, 0.0), (0.3, 1.1, 0.2), 0.3, 0.1),
    "box": box(0.5, 0.2, 0.3, rounding=0.0).at(0.0, 1.0, 0.0, turned=("y", 40)),
    "cylinder": cylinder(0.4, 0.3, rounding=0.0).at(0.0, 1.0, 0.0, turned=("x", 25)),
    "torus": torus(0.5, 0.15).at(0.0, 1.0, 0.0, turned=("x", 70)),
    "lathe": lathe([(0.0, 0.3), (0.7, 0.6), (1.2, 0.2), (1.5, 0.4)]),
    "union": union(sphere(0.3).at(0.3, 1.0, 0.0), sphere(0.3).at(-0.3, 1.0, 0.0), blend=0.1),
}


def cloud(count: int = 60_000) -> torch.Tensor:
    """Return points all over the place where the solids are."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, count, generator=generator) * 2.4 - torch.tensor([[1.2], [0.3], [1.2]])


@pytest.mark.parametrize("name", SOLIDS)
def test_a_support_is_how_far_the_solid_reaches(name: str) -> None:
    solid = SOLIDS[name]
    p = cloud()
    inside = p[:, solid.distance(p) < 0]
    directions = torch.nn.functional.normalize(torch.randn(3, 20), dim=0)
    reached = (directions.T @ inside).amax(1)
    support = solid.support(directions)
    assert (reached <= support + 1e-4).all()
    assert (reached >= support - 0.12).all()


@pytest.mark.parametrize("name", set(SOLIDS) - {"ellipsoid"})
def test_a_distance_never_overstates_how_far_the_solid_is(name: str) -> None:
    p = cloud(20_000)
    d = SOLIDS[name].distance(p)
    inside, outside = p[:, d < 0], p[:, d > 0][:, :500]
    nearest = torch.cdist(outside.T, inside.T).amin(1)
    assert (d[d > 0][:500] <= nearest + 1e-4).all()


def test_equal_radii_make_an_ellipsoid_a_sphere() -> None:
    p = cloud(1000)
    torch.testing.assert_close(
        ellipsoid(0.4, 0.4, 0.4).distance(p),
        sphere(0.4).distance(p),
    )


def test_a_capsule_bounds_balls_at_both_ends() -> None:
    p = cloud(1000)
    rod = capsule((0.0, 0.2, 0.0), (0.0, 1.2, 0.0), 0.3, 0.1).distance(p)
    for centre, radius in (((0.0, 0.2, 0.0), 0.3), ((0.0, 1.2, 0.0), 0.1)):
        assert (rod <= sphere(radius).at(*centre).distance(p) + 1e-5).all()


def test_a_union_never_lies_above_its_solids_and_rounds_only_the_seam() -> None:
    a, b, p = sphere(0.4).at(0.3, 1.0, 0.0), sphere(0.4).at(-0.3, 1.0, 0.0), cloud(5000)
    least = torch.minimum(a.distance(p), b.distance(p))
    joined = union(a, b, blend=0.1).distance(p)
    assert (joined <= least).all()
    assert (joined >= least - 0.025 - 1e-6).all()
    far = (a.distance(p) - b.distance(p)).abs() > 0.1
    assert torch.equal(joined[far], least[far])


def test_minus_leaves_what_is_in_the_solid_and_not_in_the_hole() -> None:
    solid, hole, p = SOLIDS["box"], SOLIDS["sphere"], cloud(5000)
    left = (solid - hole).distance(p) < 0
    assert torch.equal(left, (solid.distance(p) < 0) & (hole.distance(p) > 0))


def test_a_lathe_has_the_radii_of_its_keys() -> None:
    keys = [(0.0, 0.3), (0.7, 0.6), (1.2, 0.2), (1.5, 0.4)]
    heights, radii = torch.tensor(keys).T
    on_surface = torch.stack([radii, heights, torch.zeros(4)])
    assert lathe(keys).distance(on_surface).abs().max() < 0.01


def test_a_turn_keeps_lengths_and_hands() -> None:
    for axis in "xyz":
        matrix = turn(axis, 33)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3))
        torch.testing.assert_close(matrix.det(), torch.tensor(1.0))


def test_a_turned_solid_is_the_solid_seen_from_turned_points() -> None:
    straight, p = box(0.5, 0.2, 0.3, rounding=0.05), cloud(1000)
    turned = straight.at(0, 0, 0, turned=("z", 30))
    torch.testing.assert_close(turned.distance(turn("z", 30) @ p), straight.distance(p))


def test_a_revolved_solid_is_its_profile_on_every_side() -> None:
    profile = ellipsoid(0.3, 0.2).at(0.6, 0.5)
    solid, angle = revolved(profile), torch.linspace(0, 6, 50)
    across, height = torch.rand(2, 50, generator=torch.Generator().manual_seed(1))
    p = torch.stack([across * angle.sin(), height, across * angle.cos()])
    torch.testing.assert_close(solid.distance(p), profile.distance(torch.stack([across, height])))
