"""Sizes, position angles and paths of groups: equal to the peer's, to astropy's, and to brute force."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from skysom.engine.collation.shapes import Shapes, group_shapes, ranked_by_separation
from skysom.engine.collation.shapes_kernels import EXACT_MEMBERS, PAIRS_MEMBERS
from skysom.engine.collation.shapes_paths import NEAREST_MEMBERS
from skysom.engine.errors import CollationError

ARCSEC = 1e-9
"""Rounding of separations of a degree, in arcsec."""


def one(ra: np.ndarray, dec: np.ndarray) -> Shapes:
    return group_shapes(np.asarray(ra, float), np.asarray(dec, float), np.array([0, len(ra)]))


def separations(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    sky = SkyCoord(ra, dec, unit="deg")
    return sky[:, None].separation(sky[None, :]).arcsec


def length(distances: np.ndarray, path: list[int]) -> float:
    return sum(distances[a, b] for a, b in itertools.pairwise(path))


def around(seed: int, members: int, centre: tuple[float, float], spread_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions scattered about any point of the sky, poles included."""
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 360, members) * u.deg
    sky = SkyCoord(*centre, unit="deg").directional_offset_by(angle, random.uniform(0, spread_deg, members) * u.deg)
    return sky.ra.deg, sky.dec.deg


@pytest.mark.parametrize("which", [".", "single_channel"])
def test_equals_the_peer_on_its_goldens(which: str, shared) -> None:
    folder = shared(f"goldens/pyink/{which}/skypath.json").parent
    wanted = json.loads((folder / "skypath.json").read_text())
    table = pd.read_csv(folder / "radio_catalogue.csv")
    rows = [entry["idx"] for entry in wanted]
    starts = np.concatenate([[0], np.cumsum([len(some) for some in rows])])
    flat = np.concatenate(rows)
    found = group_shapes(table["RA"].to_numpy()[flat], table["DEC"].to_numpy()[flat], starts)
    assert len(wanted) == 13
    for g, entry in enumerate(wanted):
        assert [found.first[g], found.second[g]] == entry["max_pair"]
        if len(entry["idx"]) > 1:  # the peer's path of one member goes from it to itself
            assert found.order[starts[g] : starts[g + 1]].tolist() == entry["shortest_path"]
        np.testing.assert_allclose(found.size_arcsec[g], entry["max_arcsec"], rtol=0, atol=ARCSEC)
        np.testing.assert_allclose(found.path_arcsec[g], entry["shortest_len_arcsec"], rtol=0, atol=ARCSEC)
        np.testing.assert_allclose(found.position_angle_deg[g], entry["pa_deg"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.curvature[g], entry["curliness"], rtol=0, atol=1e-10)
    assert not found.approximate.any()


CENTRES = [(0.0, 0.0), (0.0, 90.0), (123.0, -90.0), (359.9999, 45.0), (180.0, 89.99), (10.0, -30.0)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 7),
    centre=st.sampled_from(CENTRES),
    spread=st.sampled_from([1e-4, 0.01, 1.0, 80.0]),
)
def test_equals_brute_force_anywhere_on_the_sky(
    seed: int, members: int, centre: tuple[float, float], spread: float
) -> None:
    ra, dec = around(seed, members, centre, spread)
    found, distances = one(ra, dec), separations(ra, dec)
    first, second = int(found.first[0]), int(found.second[0])
    assert found.size_arcsec[0] == pytest.approx(distances.max(), abs=ARCSEC)
    assert distances[first, second] == pytest.approx(distances.max(), abs=ARCSEC)
    if members == 1:
        assert (first, second, found.path_arcsec[0], found.curvature[0]) == (0, 0, 0, 0)
        return
    inner = [k for k in range(members) if k not in (first, second)]
    paths = [[first, *some, second] for some in itertools.permutations(inner)]
    assert found.path_arcsec[0] == pytest.approx(min(length(distances, path) for path in paths), abs=ARCSEC)
    assert found.order.tolist() in paths
    angle = SkyCoord(ra[first], dec[first], unit="deg").position_angle(SkyCoord(ra[second], dec[second], unit="deg"))
    turn = (found.position_angle_deg[0] - angle.deg + 180) % 360 - 180
    assert abs(turn) * np.radians(1) * found.size_arcsec[0] < 1e-7  # arcsec across the line
    ratio = found.path_arcsec[0] / found.size_arcsec[0]
    assert found.curvature[0] == (pytest.approx(ratio) if members > 2 else 0)


def test_the_first_of_equal_separations_is_taken() -> None:
    ra, dec = np.array([0.0, 0.01, 0.0, -0.01]), np.array([0.01, 0.0, -0.01, 0.0])
    found = one(ra, dec)
    assert (found.first[0], found.second[0]) == (0, 2)
    assert found.position_angle_deg[0] == pytest.approx(180)
    many = np.tile(ra, PAIRS_MEMBERS), np.tile(dec, PAIRS_MEMBERS)
    again = one(*many)
    assert (again.first[0], again.second[0]) == (0, 2)


def test_members_at_one_place() -> None:
    for members in (2, 5, 20, PAIRS_MEMBERS + 6):
        found = one(np.full(members, 200.0), np.full(members, -45.0))
        assert (found.size_arcsec[0], found.path_arcsec[0], found.curvature[0]) == (0, 0, 0)
        assert (found.first[0], found.second[0]) == (0, 1)


def test_members_without_a_position_are_left_out() -> None:
    ra, dec = np.array([10.0, np.nan, 10.1, 10.05]), np.array([0.0, 0.0, 0.0, 0.0])
    found, without = one(ra, dec), one(ra[[0, 2, 3]], dec[[0, 2, 3]])
    assert found.size_arcsec[0] == without.size_arcsec[0]
    assert found.path_arcsec[0] == without.path_arcsec[0]
    assert (found.first[0], found.second[0]) == (0, 2)
    assert found.order.tolist() == [0, 3, 2, 1]
    none = one(np.array([np.nan]), np.array([5.0]))
    assert np.isnan([none.size_arcsec[0], none.path_arcsec[0], none.position_angle_deg[0], none.curvature[0]]).all()
    assert (none.first[0], none.second[0]) == (-1, -1)
    single = one(np.array([np.nan, 3.0, np.nan]), np.array([np.nan, 4.0, 1.0]))
    assert (single.first[0], single.second[0], single.size_arcsec[0]) == (1, 1, 0)


def test_groups_do_not_depend_on_each_other() -> None:
    random = np.random.default_rng(5)
    sizes = random.integers(1, 20, 300)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ra, dec = random.normal(0, 0.1, starts[-1]), random.normal(0, 0.1, starts[-1])
    together = group_shapes(ra, dec, starts)
    assert together.approximate.tolist() == (sizes > EXACT_MEMBERS).tolist()
    for g, (begin, stop) in enumerate(itertools.pairwise(starts)):
        alone = one(ra[begin:stop], dec[begin:stop])
        for name in ("size_arcsec", "path_arcsec", "position_angle_deg", "curvature", "first", "second"):
            assert getattr(alone, name)[0] == getattr(together, name)[g], name
        assert alone.order.tolist() == together.order[begin:stop].tolist()


def test_no_groups() -> None:
    found = group_shapes(np.zeros(0), np.zeros(0), np.zeros(1, int))
    assert len(found.size_arcsec) == len(found.order) == 0


def test_twelve_members_are_exact() -> None:
    ra, dec = around(3, EXACT_MEMBERS, (0.0, 60.0), 0.1)
    found, distances = one(ra, dec), separations(ra, dec)
    assert found.path_arcsec[0] == pytest.approx(shortest(distances, found.first[0], found.second[0]), abs=ARCSEC)
    assert not found.approximate[0]


def shortest(distances: np.ndarray, first: int, second: int) -> float:
    """Shortest path from first to second through all, over sets of visited members."""
    others = frozenset(range(len(distances))) - {first, second}
    ways = {(frozenset([k]), k): distances[first, k] for k in others}
    for _ in range(len(others) - 1):
        onward: dict = {}
        for (visited, last), way in ways.items():
            for k in others - visited:
                key = (visited | {k}, k)
                onward[key] = min(onward.get(key, np.inf), way + distances[last, k])
        ways = onward
    return min(way + distances[last, second] for (_, last), way in ways.items())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), members=st.integers(EXACT_MEMBERS + 1, PAIRS_MEMBERS + 40))
def test_long_groups_get_a_short_path(seed: int, members: int) -> None:
    ra, dec = around(seed, members, (0.0, 89.9), 0.2)
    found, distances = one(ra, dec), separations(ra, dec)
    path = found.order.tolist()
    assert found.approximate[0]
    assert found.size_arcsec[0] == pytest.approx(distances.max(), abs=ARCSEC)
    assert sorted(path) == list(range(members))
    assert (path[0], path[-1]) == (found.first[0], found.second[0])
    assert found.path_arcsec[0] == pytest.approx(length(distances, path), abs=1e-7)
    for i in range(members - 3):  # no run of it is shorter the other way round
        for k in range(i + 2, members - 1):
            now = distances[path[i], path[i + 1]] + distances[path[k], path[k + 1]]
            turned = distances[path[i], path[k]] + distances[path[i + 1], path[k + 1]]
            assert turned >= now - 1e-6


def test_a_path_beyond_the_exact_limit_is_near_the_shortest() -> None:
    ratios = []
    for seed in range(3):
        ra, dec = around(seed, EXACT_MEMBERS + 2, (300.0, -20.0), 0.05)
        found = one(ra, dec)
        best = shortest(separations(ra, dec), found.first[0], found.second[0])
        ratios.append(found.path_arcsec[0] / best)
    assert min(ratios) >= 1 - 1e-12
    assert max(ratios) < 1.25


def test_a_group_of_thousands() -> None:
    ra, dec = around(11, NEAREST_MEMBERS + 900, (0.0, 0.0), 2.0)
    found = one(ra, dec)
    i = int(np.argmax(SkyCoord(ra, dec, unit="deg").separation(SkyCoord(0, 0, unit="deg"))))
    from_outermost = SkyCoord(ra[i], dec[i], unit="deg").separation(SkyCoord(ra, dec, unit="deg")).arcsec.max()
    ends = SkyCoord(ra[[found.first[0], found.second[0]]], dec[[found.first[0], found.second[0]]], unit="deg")
    assert found.size_arcsec[0] == pytest.approx(ends[0].separation(ends[1]).arcsec, abs=ARCSEC)
    assert found.size_arcsec[0] >= from_outermost - ARCSEC
    assert sorted(found.order.tolist()) == list(range(len(ra)))
    assert found.approximate[0]
    # The shortest path of n random positions in an area A grows as sqrt(n A) (Beardwood, Halton and Hammersley 1959).
    assert found.path_arcsec[0] < 1.2 * np.sqrt(len(ra) * np.pi) * 7200


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), ring=st.booleans(), spread=st.sampled_from([0.001, 1.0, 120.0, 180.0]))
def test_the_largest_separation_of_many_members(seed: int, ring: bool, spread: float) -> None:
    random = np.random.default_rng(seed)
    members = PAIRS_MEMBERS + int(random.integers(1, 200))
    offsets = np.full(members, spread) if ring else spread * random.uniform(0, 1, members)
    sky = SkyCoord(0, 90, unit="deg").directional_offset_by(random.uniform(0, 360, members) * u.deg, offsets * u.deg)
    found = one(sky.ra.deg, sky.dec.deg)
    assert found.size_arcsec[0] == pytest.approx(separations(sky.ra.deg, sky.dec.deg).max(), abs=1e-6)
    assert found.first[0] < found.second[0]


def test_wrong_groups_are_refused() -> None:
    with pytest.raises(CollationError, match="3 members"):
        group_shapes(np.zeros(3), np.zeros(3), np.array([0, 2]))
    with pytest.raises(CollationError, match="declinations"):
        group_shapes(np.zeros(3), np.zeros(2), np.array([0, 3]))


def test_a_position_angle_that_rounds_up_to_a_turn_is_0() -> None:
    for east in (-1e-30, -1e-16, -1e-14):
        found = one([0, east], [0, 1])
        assert 0 <= found.position_angle_deg[0] < 360
        assert (found.position_angle_deg[0] + 180) % 360 == pytest.approx(180, abs=1e-10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_tie": np.zeros(2, int)}, "ties of entries"),
        ({"second_tie": np.zeros(10, int)}, "ties of entries"),
        ({"dec_deg": np.zeros(2)}, "ties of entries"),
        ({"first_tie": np.zeros((3, 1), int)}, "ties of entries"),
        ({"starts": np.array([0, 1, 10**9])}, "do not run from 0 to 3 members"),
        ({"starts": np.array([0, 4, 3])}, "do not run from 0 to 3 members"),
        ({"starts": np.array([-1, 1, 3])}, "do not run from 0 to 3 members"),
        ({"starts": np.array([0, 1, 2, 3])}, "are given for 3 groups"),
        ({"group_ra_deg": np.zeros(1)}, "are given for 2 groups"),
    ],
)
def test_entries_that_do_not_fit_are_refused(changed: dict, message: str) -> None:
    given = {name: np.zeros(3) for name in ("ra_deg", "dec_deg")}
    given |= {name: np.zeros(2) for name in ("group_ra_deg", "group_dec_deg")}
    given |= {"starts": np.array([0, 1, 3]), "first_tie": np.array([0, 2, 1]), "second_tie": np.zeros(3, int)}
    assert ranked_by_separation(**given)[1].tolist() == [0, 2, 1]
    with pytest.raises(CollationError, match=message):
        ranked_by_separation(**given | changed)


def test_equal_entries_without_a_second_tie_go_by_place() -> None:
    nothing, middle = np.zeros(40), np.zeros(1)
    found = ranked_by_separation(nothing, nothing, middle, middle, np.array([0, 40]), np.arange(40) % 2)
    assert found[1].tolist() == [*range(0, 40, 2), *range(1, 40, 2)]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), longest=st.sampled_from([3, 60]), centre=st.sampled_from(CENTRES))
def test_entries_are_ranked_by_separation(seed: int, longest: int, centre: tuple[float, float]) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(0, longest, 6)
    starts, count = np.concatenate([[0], np.cumsum(sizes)]), int(sizes.sum())
    ra, dec = around(seed, max(count, 1), centre, 0.01)
    ra, dec = ra[:count], dec[:count]
    twice = random.random(count) < 0.5  # equal separations, told apart by row, then channel
    ra[twice], dec[twice] = centre[0], np.clip(centre[1] + 0.001, -90, 90)
    ra[random.random(count) < 0.1] = np.nan
    row, channel = random.integers(0, 4, count), random.permutation(count)
    group_ra, group_dec = np.full(6, centre[0]), np.full(6, centre[1])
    group_ra[5] = np.nan
    separation, order = ranked_by_separation(ra, dec, group_ra, group_dec, starts, row, channel)
    for g, (begin, stop) in enumerate(itertools.pairwise(starts)):
        middle = SkyCoord(*centre, unit="deg") if g < 5 else SkyCoord(np.nan, np.nan, unit="deg")
        far = SkyCoord(ra[begin:stop], dec[begin:stop], unit="deg").separation(middle).arcsec
        np.testing.assert_allclose(separation[begin:stop], far, rtol=0, atol=ARCSEC)
        keys = [(np.isnan(d), 0 if np.isnan(d) else d) for d in separation[begin:stop]]
        wanted = sorted(range(begin, stop), key=lambda k, begin=begin, keys=keys: (keys[k - begin], row[k], channel[k]))
        assert order[begin:stop].tolist() == wanted
