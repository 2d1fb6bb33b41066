"""Neighbours in the masks of their sources' neurons: against the peer's outputs, and compiled against plain."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.engine.collation import (
    Carried,
    Frames,
    bits_of_offsets,
    carried_bits,
    carried_of_channel,
    label_planes,
    mask_bits,
    mask_reach_arcsec,
    neighbour_pairs,
    neuron_offsets,
    partition_sky,
    project,
    separations_arcsec,
    sky_offsets_arcsec,
    unit_vectors,
)
from skysom.engine.errors import CollationError
from skysom.engine.reading.masks import pack, planes_from_products
from skysom.storage import pinkfile

SETS = {"goldens/pyink/": (1.5, 49.0), "goldens/pyink/single_channel/": (1.0, 27.0)}
seeds = st.integers(0, 2**32 - 1)
GOLDEN_COLUMNS = {
    "ang_x": "east_arcsec",
    "ang_y": "north_arcsec",
    "pix_x": "pixel_x",
    "pix_y": "pixel_y",
    "neu_x": "neuron_x",
    "neu_y": "neuron_y",
    "ra_pix": "column",
    "dec_pix": "row",
}


# --- the peer's outputs ---------------------------------------------------------------------------


class Golden:
    """One set of outputs: catalogues, frames and masks going in, what each channel's pairs became."""

    def __init__(self, folder, scale, limit):
        self.scale, self.limit = scale, limit
        self.found = np.load(folder / "filterset.npz")
        masks = np.load(folder / "annotation_masks.npz")
        primes = json.loads((folder / "labels.json").read_text())
        self.primes = tuple(primes.values())
        places = sorted(tuple(int(part[1:]) for part in name.split("_")) for name in masks)
        products = np.stack([masks[f"y{y}_x{x}"] for y, x in places])
        self.planes = label_planes(planes_from_products(products, self.primes), len(primes))
        self.catalogues = [pd.read_csv(folder / f"{name}_catalogue.csv") for name in ("radio", "ir")]
        self.catalogues = self.catalogues[: products.shape[1]]
        rows = len(self.catalogues[0])
        neuron = pinkfile.open_map(folder / "map.bin").read(0, rows).argmin(axis=1)
        turns = pinkfile.open_transforms(folder / "transform.bin").read(0, rows)
        flip, angle = (values[np.arange(rows), neuron] for values in turns)
        self.frames = Frames(neuron, angle, flip)

    def vectors(self, channel):
        return unit_vectors(self.catalogues[channel]["RA"], self.catalogues[channel]["DEC"])

    def pairs(self, channel):
        starts = self.found[f"ptr_c{channel}"]
        return np.repeat(np.arange(len(starts) - 1), np.diff(starts)), self.found[f"match_idx_c{channel}"]

    def positions(self, channel):
        base, other = self.catalogues[0], self.catalogues[channel]
        return base["RA"], base["DEC"], other["RA"], other["DEC"]

    def bits(self, channel):
        words = planes_from_products(self.found[f"value_c{channel}"], self.primes)
        return label_planes(words[None, None, None], len(self.primes))[0, 0, 0]


@pytest.fixture(scope="module", params=SETS, ids=["two_channels", "single_channel"])
def golden(request, shared):
    return Golden(shared(request.param), *SETS[request.param])


def test_pairs_and_their_order_are_the_peers(golden):
    for channel in range(len(golden.catalogues)):
        found = neighbour_pairs(golden.vectors(0), golden.vectors(channel), golden.limit)
        np.testing.assert_array_equal(found, golden.pairs(channel))


@pytest.mark.parametrize("float32_angles", [False, True])
def test_every_step_of_the_projection_is_the_peers(golden, float32_angles):
    for channel in range(len(golden.catalogues)):
        arguments = (*golden.positions(channel), *golden.pairs(channel), golden.frames, golden.planes[:, channel])
        steps = project(*arguments, golden.scale, float32_angles=float32_angles)
        for name, ours in GOLDEN_COLUMNS.items():
            turned = name not in ("ang_x", "ang_y", "pix_x", "pix_y") and not float32_angles
            largest = np.abs(getattr(steps, ours) - golden.found[f"{name}_c{channel}"]).max()
            assert largest < (2e-6 if turned else 2e-10), name
        expected = golden.bits(channel)
        assert np.count_nonzero(expected) > 100
        np.testing.assert_array_equal(steps.bits, expected)
        bits = carried_bits(*arguments, golden.scale, float32_angles=float32_angles)
        np.testing.assert_array_equal(bits, expected)


def test_what_is_carried_is_what_has_a_value(golden):
    for channel, catalogue in enumerate(golden.catalogues):
        rows = np.arange(len(golden.catalogues[0])) * 10
        carried = carried_of_channel(
            channel,
            rows,
            *golden.positions(channel)[:2],
            golden.frames,
            np.arange(len(catalogue)) + 5,
            *golden.positions(channel)[2:],
            golden.planes[:, channel],
            golden.scale,
            golden.limit,
        )
        source, row = golden.pairs(channel)
        kept = golden.found[f"value_c{channel}"] > 0
        np.testing.assert_array_equal(carried.source, source[kept] * 10)
        np.testing.assert_array_equal(carried.row, row[kept] + 5)
        np.testing.assert_array_equal(carried.bits, golden.bits(channel)[kept])
        assert (carried.channel == channel).all()
        offset = np.hypot(*(golden.found[f"ang_{axis}_c{channel}"][kept] for axis in "xy"))
        np.testing.assert_allclose(carried.separation_arcsec, offset, rtol=1e-6, atol=1e-9)


# --- compiled and plain ---------------------------------------------------------------------------


def field(seed, rows, neighbours, side, neurons=3):
    """Base rows and neighbours about a place, frames, and masks of 64 labels."""
    rng = np.random.default_rng(seed)
    place = [(0.0, 0.0), (359.999, -60.0), (12.0, 89.999), (200.0, -90.0), (40.0, 30.0)][seed % 5]
    spread = 40 / 3600

    def positions(count):
        dec = np.clip(place[1] + rng.uniform(-spread, spread, count), -90, 90)
        ra = place[0] + rng.uniform(-spread, spread, count) / max(np.cos(np.radians(place[1])), 1e-3)
        ra[rng.random(count) < 0.05] = np.nan
        return ra % 360, dec

    neuron = rng.integers(-1, neurons, rows)
    frames = Frames(neuron, rng.uniform(-7, 7, rows), rng.integers(0, 2, rows))
    masks = rng.random((64, neurons, 1, side, side)) < rng.choice([0.02, 0.5, 1.0])
    planes = label_planes(pack(masks), 64)[:, 0]
    return (*positions(rows), *positions(neighbours)), frames, planes


@given(seeds, st.integers(1, 12), st.integers(1, 40), st.integers(1, 30), st.booleans())
def test_the_compiled_projection_is_the_plain_one_bit_for_bit(seed, rows, neighbours, side, float32_angles):
    positions, frames, planes = field(seed, rows, neighbours, side)
    i, j = (index.ravel() for index in np.indices((rows, neighbours)))
    for scale in (1.0, (0.7, 3.0)):
        arguments = (*positions, i, j, frames, planes, scale)
        plain = project(*arguments, float32_angles=float32_angles)
        found = carried_bits(*arguments, float32_angles=float32_angles)
        assert found.dtype == np.uint64
        np.testing.assert_array_equal(found, plain.bits)
        of_offsets = bits_of_offsets(plain.pixel_x, plain.pixel_y, i, frames, planes, float32_angles=float32_angles)
        np.testing.assert_array_equal(of_offsets, plain.bits)
    assert not plain.bits[(frames.neuron[i] < 0) | np.isnan(plain.east_arcsec)].any()


@given(seeds, st.integers(1, 40), st.integers(1, 60), st.integers(1, 10))
def test_what_is_carried_does_not_depend_on_boxes(seed, rows, neighbours, per_box):
    positions, frames, planes = field(seed, rows, neighbours, 20)
    base, other = np.arange(rows) + 100, np.arange(neighbours) * 3
    limit = 30.0

    def part(mine, theirs):
        ra, dec, other_ra, other_dec = positions
        ours, near = (ra[mine], dec[mine]), (other_ra[theirs], other_dec[theirs])
        return carried_of_channel(1, base[mine], *ours, frames.take(mine), other[theirs], *near, planes, 1.5, limit)

    boxes = partition_sky(*positions[:2], per_box)
    own = boxes.box_of(*positions[:2])
    index, box = boxes.with_margin(*positions[2:], limit)
    parts = [part(np.flatnonzero(own == number), index[box == number]) for number in range(boxes.count)]
    whole, joined = part(np.arange(rows), np.arange(neighbours)), Carried.concatenate(parts[::-1])
    for column in ("source", "channel", "row", "bits", "separation_arcsec"):
        np.testing.assert_array_equal(getattr(joined, column), getattr(whole, column))
    vectors = [unit_vectors(*positions[:2]), unit_vectors(*positions[2:])]
    i, j = neighbour_pairs(*vectors, limit)
    bits = carried_bits(*positions, i, j, frames, planes, 1.5)
    np.testing.assert_array_equal(whole.source, base[i[bits > 0]])
    np.testing.assert_array_equal(whole.row, other[j[bits > 0]])
    separation = separations_arcsec(*vectors, i, j)[bits > 0].astype(np.float32)
    np.testing.assert_array_equal(whole.separation_arcsec, separation)


@given(seeds, st.integers(1, 60), st.integers(1, 60), st.sampled_from([9.0, 25.0, 1000.0]))
def test_searching_no_further_than_masks_reach_changes_nothing(seed, rows, neighbours, limit):
    positions, frames, planes = field(seed, rows, neighbours, 30, neurons=6)
    for neuron, shrunk in enumerate((0, 3, 8, 13, 15)):  # the last one has no label at all
        planes[neuron, :shrunk] = planes[neuron, :, :shrunk] = 0
        planes[neuron, 30 - shrunk :] = planes[neuron, :, 30 - shrunk :] = 0
    reach = mask_reach_arcsec(planes, (0.9, 1.1))
    assert reach[4] == 0
    assert (np.diff(reach[:5]) <= 0).all()
    arguments = (2, np.arange(rows), *positions[:2], frames, np.arange(neighbours), *positions[2:], planes, (0.9, 1.1))
    far = carried_of_channel(*arguments, limit)
    near = carried_of_channel(*arguments, limit, reach_arcsec=reach)
    for column in ("source", "channel", "row", "bits", "separation_arcsec"):
        np.testing.assert_array_equal(getattr(near, column), getattr(far, column))


def test_a_grid_of_whole_pixels_meets_every_pixel_once():
    side = 11
    planes = np.arange(side * side, dtype=np.uint64).reshape(1, side, side)
    y, x = np.indices((side, side)) - side // 2
    index, middle = np.zeros(side * side, np.int64), side // 2
    for angle, flip, row, column in (
        (0.0, 0, y, x),
        (0.0, 1, -y, x),
        (np.pi / 2, 0, x, -y),
        (np.pi / 2, 1, -x, -y),
        (np.pi, 0, -y, -x),
    ):
        found = bits_of_offsets(x.ravel(), y.ravel(), index, Frames([0], [angle], [flip]), planes)
        np.testing.assert_array_equal(found.reshape(side, side), planes[0][middle + row, middle + column])


def test_out_of_the_neuron_there_is_no_label():
    side = 10
    planes = np.full((1, side, side), 7, np.uint64)
    frames = Frames([0], [0.0], [0])
    x = np.array([-1e300, -100, -6.0, -5.5, -5, 4.999, 5.0, 6.0, 100, np.inf, -np.inf, np.nan])
    expected = np.where((x > -6) & (x < 5), 7, 0)
    zero = np.zeros(len(x), np.int64)
    for offsets in ((x, 0.0 * zero), (0.0 * zero, x)):
        np.testing.assert_array_equal(bits_of_offsets(*offsets, zero, frames, planes), expected)
        np.testing.assert_array_equal(mask_bits(*offsets, zero, planes), expected)


def test_the_centre_of_a_source_is_the_pixel_at_half_the_side():
    rng = np.random.default_rng(8)
    ra, dec, n = rng.uniform(0, 360, 400), rng.uniform(-90, 90, 400), np.arange(400)
    for side in (10, 11):
        planes = np.zeros((1, side, side), np.uint64)
        planes[0, side // 2, side // 2] = 1
        frames = Frames(np.zeros(400), rng.uniform(0, 6.3, 400), n % 2)
        assert carried_bits(ra, dec, ra, dec, n, n, frames, planes, 1.0).all()


# --- frames ---------------------------------------------------------------------------------------


@given(seeds)
def test_images_that_lie_otherwise_enter_the_frames(seed):
    rng = np.random.default_rng(seed)
    frames = Frames(np.arange(20), rng.uniform(0, 6.3, 20), rng.integers(0, 2, 20))
    turn, mirrored = rng.uniform(-7, 7, 20), rng.integers(0, 2, 20).astype(bool)
    x, y = rng.uniform(-30, 30, (2, 20))
    in_image = neuron_offsets(x, y, turn, mirrored)
    expected = neuron_offsets(*in_image, frames.angle_rad, frames.flip)
    both = frames.seen_through(turn, mirrored)
    np.testing.assert_allclose(neuron_offsets(x, y, both.angle_rad, both.flip), expected, atol=1e-4)
    np.testing.assert_array_equal(both.neuron, frames.neuron)


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(CollationError, match="give one of each a base row"):
        Frames([0, 1], [0.0], [0, 0])
    with pytest.raises(CollationError, match="2 rows have a neuron but no turn"):
        Frames([0, 1, 2], [0.0, np.nan, 0.0], [0, 0, 2])
    unmapped = Frames([-1, 4], [np.nan, 1.0], [-1, 1])
    assert len(unmapped) == 2
    with pytest.raises(CollationError, match="have a neuron but no turn"):
        unmapped.seen_through([np.nan, np.nan], False)


def test_masks_that_do_not_fit_are_refused():
    frames, one = Frames([3], [0.0], [0]), np.zeros(1, np.int64)
    with pytest.raises(CollationError, match="neuron 3, the masks have 0 to 1"):
        bits_of_offsets([0.0], [0.0], one, frames, np.zeros((2, 3, 3), np.uint64))
    with pytest.raises(CollationError, match="a channel of label_planes"):
        bits_of_offsets([0.0], [0.0], one, frames, np.zeros((4, 3, 3), np.uint8))
    with pytest.raises(CollationError, match="1 rows for 2 positions"):
        carried_bits([1.0, 2.0], [1.0, 2.0], [1.0], [1.0], one, one, frames, np.zeros((4, 3, 3), np.uint64), 1.0)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([10**9, 0], r"has the rows 0 to 1000000000, there are 0 to 2"),
        ([0, 3], r"has the rows 0 to 3, there are 0 to 2"),
        ([0, -1], r"has the rows -1 to 0, there are 0 to 2"),
        (np.array([0, 2**64 - 1], np.uint64), r"has the rows 0 to 18446744073709551615"),
        ([[0, 1]], r"shape \(1, 2\)"),
        (0, r"shape \(\)"),
        ([0.0, 1.0], r"type float64; give \(P,\) whole numbers"),
        ([True, False], "type bool"),
    ],
)
def test_rows_that_there_are_not_are_refused(index, message):
    three, good = np.zeros(3), np.array([0, 2])
    frames, planes = Frames([0, 0, 0], three, three), np.ones((1, 3, 3), np.uint64)
    for function in (carried_bits, project):
        for name, pairs in (("base_index", (index, good)), ("other_index", (good, index))):
            with pytest.raises(CollationError, match=f"{name} .*{message}"):
                function(three, three, three, three, *pairs, frames, planes, 1.0)
    with pytest.raises(CollationError, match=f"base_index .*{message}"):
        bits_of_offsets([0.0, 0.0], [0.0, 0.0], index, frames, planes)


def test_arrays_of_other_lengths_are_refused():
    three, good = np.zeros(3), np.array([0, 2])
    frames, planes = Frames([0, 0, 0], three, three), np.ones((1, 3, 3), np.uint64)
    for function in (carried_bits, project):
        with pytest.raises(CollationError, match="2 base rows and 1 neighbours; give them in pairs"):
            function(three, three, three, three, good, good[:1], frames, planes, 1.0)
    for x, y in (([0.0], [0.0, 0.0]), ([0.0, 0.0], [0.0]), ([0.0], [0.0]), ([[0.0, 0.0]], [[0.0, 0.0]])):
        with pytest.raises(CollationError, match="give one of each a pair"):
            bits_of_offsets(x, y, good, frames, planes)
    rows, two = np.arange(3), np.arange(2)
    for base, other, reach, message in (
        (two, rows, np.ones(1), r"row numbers of sources of shape \(2,\) for 3 positions"),
        (rows, two, np.ones(1), r"row numbers of neighbours of shape \(2,\) for 3 positions"),
        (rows, rows[:, None], np.ones(1), r"row numbers of neighbours of shape \(3, 1\) for 3 positions"),
        (rows, rows, np.ones(2), r"reaches of shape \(2,\) for 1 neurons"),
    ):
        with pytest.raises(CollationError, match=message):
            carried_of_channel(0, base, three, three, frames, other, three, three, planes, 1.0, 9.0, reach_arcsec=reach)


def test_without_pairs_there_are_no_bits():
    none, frames = np.empty(0, np.int64), Frames([0], [0.0], [0])
    planes = np.ones((1, 3, 3), np.uint64)
    assert len(carried_bits([1.0], [1.0], [], [], none, none, frames, planes, 1.0)) == 0
    assert len(carried_bits([], [], [1.0], [1.0], none, none, frames.take(none), planes, 1.0)) == 0
    assert len(carried_of_channel(0, none, [], [], frames.take(none), none, [], [], planes, 1.0, 60.0)) == 0
    unmapped, nothing = Frames([-1], [0.0], [0]), np.empty((0, 3, 3), np.uint64)
    for reach in (None, np.empty(0)):
        one = carried_of_channel(
            0, [7], [1.0], [1.0], unmapped, [7], [1.0], [1.0], nothing, 1.0, 9.0, reach_arcsec=reach
        )
        assert len(one) == 0
    itself = carried_of_channel(0, [7], [1.0], [1.0], frames, [7], [1.0], [1.0], planes, 1.0, 0.0)
    assert (itself.source.tolist(), itself.row.tolist(), itself.bits.tolist()) == ([7], [7], [1])
    with pytest.raises(CollationError, match="separation limit is nan"):
        carried_of_channel(
            0, [7], [1.0], [1.0], frames, [7], [1.0], [1.0], planes, 1.0, np.nan, reach_arcsec=np.ones(1)
        )
    assert all(len(offset) == 0 for offset in sky_offsets_arcsec([], [], [], []))
