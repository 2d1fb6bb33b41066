"""Sources like one: by profile against plain NumPy, by image against the reference search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.errors import ReadingError
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Cartesian
from skysom.engine.reading.similar import SimilarProfiles, nearest_images, one_image_map
from skysom.engine.search import best_match
from skysom.engine.som import Som
from skysom.engine.transforms import transform


@given(st.integers(2, 30), st.integers(1, 8), st.integers(1, 9), st.booleans(), st.integers(1, 4))
def test_profiles_against_the_definition(rows, neurons, count, normalised, pieces):
    rng = np.random.default_rng([rows, neurons])
    distance = rng.random((rows, neurons)).astype(np.float32) + 0.1
    distance[rows // 2] = np.nan
    excluded = np.arange(neurons) == 1
    used = distance[:, ~excluded].astype(np.float64)
    lengths = np.linalg.norm(used, axis=1, keepdims=True) if normalised else 1.0
    apart = np.linalg.norm(used / lengths - (used / lengths)[0], axis=1)
    apart[0] = np.nan
    expected = [r for r in np.argsort(apart, kind="stable") if np.isfinite(apart[r])][:count]
    similar = SimilarProfiles(distance[0], count, normalised=normalised, excluded=excluded, leave_out=[0])
    for part in np.array_split(np.arange(rows), pieces):
        similar.update(int(part[0]) if len(part) else 0, distance[part])
    np.testing.assert_allclose(similar.distances, apart[expected], atol=1e-9)
    np.testing.assert_allclose(apart[similar.rows], apart[expected], atol=1e-9)


def test_a_source_is_most_like_itself_and_scale_does_not_count_where_normalised():
    profiles = np.array([[1, 2, 3], [2, 4, 6], [1, 2, 3.1], [3, 2, 1]], np.float32)
    plain, fair = SimilarProfiles(profiles[0], 2), SimilarProfiles(profiles[0], 2, normalised=True)
    for similar in (plain, fair):
        similar.update(10, profiles)
    assert plain.rows.tolist() == [10, 12]
    assert fair.rows.tolist() == [10, 11]
    np.testing.assert_allclose(fair.distances, 0, atol=1e-7)


def test_profiles_that_do_not_fit_are_refused():
    with pytest.raises(ReadingError, match="not mapped"):
        SimilarProfiles(np.array([1, np.nan]), 3)
    with pytest.raises(ReadingError, match=r"\(2,\).*\(3,\)"):
        SimilarProfiles(np.ones(2), 3, excluded=np.zeros(3, bool))
    with pytest.raises(ReadingError, match=r"map\.keep"):
        SimilarProfiles(np.ones(4), 3).update(0, np.ones((5, 2), np.float32))


def sources(count, side, seed=0):
    """(count, 1, side, side) float32 double sources of random angle, separation and flux ratio."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    images = rng.normal(0, 0.02, (count, 1, side, side))
    for image in images[:, 0]:
        angle, half, ratio = rng.uniform(0, 2 * np.pi), rng.uniform(0, side / 4), rng.uniform(0.3, 1)
        for sign, peak in ((-1, 1), (1, ratio)):
            a, b = x - sign * half * np.cos(angle), y - sign * half * np.sin(angle)
            image += peak * np.exp(-(a**2 + b**2) / 4)
    return images.astype(np.float32)


GEOMETRIES = [
    Geometry.derive(24, 16, True, "circular"),
    Geometry.derive(25, 16, True, "circular"),
    Geometry.derive(24, 16, True, "quadratic"),
    Geometry.derive(21, 8, False, "circular", 21),
    Geometry.derive(24, 1, False, "quadratic"),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: f"{g.region} {g.image_side} in {g.neuron_side}")
def test_an_image_is_at_distance_zero_of_its_own_map_and_others_as_the_reference_says(geometry):
    images = sources(40, geometry.image_side)
    usable = np.ones(40, bool)
    usable[7] = False
    blocks = [(100, images[:33], usable[:33]), (133, images[33:], usable[33:])]
    found = nearest_images(images[3], blocks, geometry, 39)
    assert found.rows[0] == 103
    assert found.distance[0] == 0
    assert (found.rotation[0], found.flip[0]) == (0, False)
    assert 107 not in found.rows
    som = Som(one_image_map(images[3], geometry), Cartesian(1))
    reference = best_match(
        images, som, geometry.rotations, geometry.flip, geometry.region, geometry.region_side, "reference"
    )
    order = found.rows - 100
    np.testing.assert_allclose(found.distance, reference.distance[order, 0], rtol=1e-5)
    chosen = found.flip * geometry.rotations + found.rotation
    region = geometry.region_mask
    for row, t in zip(order[:5], chosen[:5], strict=True):
        turned = transform(images[row], int(t), geometry)
        apart = np.sqrt((((turned - som.weights[0])[:, region]) ** 2).sum(dtype=np.float64))
        assert apart == pytest.approx(reference.distance[row, 0], rel=1e-5, abs=1e-6)
    assert (np.diff(found.distance) >= 0).all()


def test_turned_copies_of_an_image_come_first():
    geometry = Geometry.derive(24, 16, True, "circular")
    images = sources(30, 24)
    images[11], images[20] = np.rot90(images[4], axes=(1, 2)), images[4][:, ::-1]
    found = nearest_images(images[4], [(0, images, np.ones(30, bool))], geometry, 3, leave_out=[4])
    assert found.rows[:2].tolist() == [11, 20]
    np.testing.assert_allclose(found.distance[:2], 0, atol=1e-5)
    assert found.distance[2] > 0.1
    assert found.flip.tolist()[:2] == [False, True]
    assert found.rotation[0] == 4  # a quarter turn clockwise undoes one counter-clockwise


def test_images_that_do_not_fit_are_refused():
    geometry = Geometry.derive(24, 8, True, "circular")
    with pytest.raises(ReadingError, match=r"\(1, 20, 20\).*24"):
        one_image_map(np.zeros((1, 20, 20)), geometry)
    with pytest.raises(ReadingError, match="not finite"):
        one_image_map(np.full((1, 24, 24), np.nan), geometry)
    nothing = nearest_images(np.ones((1, 24, 24)), [], geometry, 3)
    assert len(nothing.rows) == 0
