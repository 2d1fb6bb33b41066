import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from skysom.engine import Geometry
from skysom.engine.certified import CertifiedSearch
from skysom.engine.coarse import GROUPS, LOWEST_ORDERS, CoarseScores
from skysom.engine.errors import GeometryError


def pictures(count, channels, side, seed, width):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, channels, side, side), np.float32)
    return gaussian_filter(images, (0, 0, width, width)) if width else images


def every_score(search, images):
    """Scores (N, T, B) of all neurons at all transforms, base rotation 0 set to infinity, and coarse scores."""
    asked = np.ones((len(search.scores.norms), len(images)), bool)
    scored = search.score(images, np.ones(len(images), bool), asked)
    values = search.values(scored).reshape(*asked.shape, -1).transpose(0, 2, 1)
    values[:, :: search.geometry.base_rotations] = np.inf
    inner = np.ascontiguousarray(images.reshape(*images.shape[:2], -1).transpose(1, 2, 0))
    spectra = search.scores.spectra(inner)
    apart = np.ascontiguousarray(spectra.transpose(3, 0, 1, 2))
    return values, search.coarse(spectra, apart, scored.energies)


@given(
    st.integers(8, 24),
    st.sampled_from([8, 12, 20, 180, 360, 364, 720]),
    st.booleans(),
    st.sampled_from(["quadratic", "circular", "annular"]),
    st.integers(1, 2),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 2**31),
)
def test_no_score_is_below_the_bound(side, rotations, flip, region, channels, width, seed):
    try:
        geometry = Geometry.derive(side, rotations, flip, region, inner_side=side // 3 if region == "annular" else 0)
        _ = geometry.region_mask
    except GeometryError:
        assume(False)
    images = pictures(32, channels, side, seed, width)
    weights = pictures(3, channels, geometry.neuron_side, seed + 1, width)
    search = CertifiedSearch(weights, geometry)
    values, coarse = every_score(search, images)
    rounding = 1e-5 * np.sqrt(search.scores.norms[:, None] * (images.astype(float) ** 2).sum(axis=(1, 2, 3)))
    assert (values.min(axis=1) >= coarse.squared - coarse.bound - rounding).all()
    assert coarse.squared.shape == coarse.transform.shape == coarse.bound.shape == (3, 32)
    assert ((coarse.transform >= 0) & (coarse.transform < geometry.transforms)).all()


def test_the_bound_says_something_of_sources():
    """Wide sources have little beyond the lowest orders: the bound is a few hundredths of |T x| |w|."""
    geometry = Geometry.derive(64, 360, region="circular")
    images, weights = pictures(32, 1, 64, 0, 6), pictures(4, 1, geometry.neuron_side, 1, 6)
    search = CertifiedSearch(weights, geometry)
    values, coarse = every_score(search, images)
    offset = np.arange(64) - 31.5
    disc = images[..., np.hypot(offset[:, None], offset) < 32].astype(float)
    size = np.sqrt(np.outer(search.scores.norms, (disc**2).sum(axis=(1, 2))))
    assert (coarse.bound < 0.05 * size).all()
    # What is named as the best transform is near the best one.
    chosen = np.take_along_axis(values, coarse.transform[:, None], axis=1)[:, 0]
    turned = coarse.transform % geometry.base_rotations > 0
    assert turned.mean() > 0.8
    assert (np.abs(chosen - coarse.squared)[turned] < 0.02 * size[turned]).all()


def test_all_orders_at_all_angles_leave_nothing_to_bound():
    geometry = Geometry.derive(12, 8)
    weights = pictures(2, 1, geometry.neuron_side, 1, 1)
    search = CertifiedSearch(weights, geometry, band=8)
    assert LOWEST_ORDERS > 8
    values, coarse = every_score(search, pictures(32, 1, 12, 0, 1))
    assert not coarse.bound.any()
    np.testing.assert_allclose(coarse.squared, values.min(axis=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_groups_of_rings_do_not_mix_channels(channels):
    geometry = Geometry.derive(40, 8)
    search = CertifiedSearch(pictures(2, channels, geometry.neuron_side, 1, 1), geometry)
    coarse = CoarseScores(search.scores)
    count = len(search.scores.table)
    assert len(coarse.groups) <= GROUPS * channels
    assert set(range(0, channels * count, count)) <= set(coarse.groups.tolist())
