"""The peer's files: round trips, refusals with their place, and nothing left of an interrupted file."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skysom.storage import pinkfile
from skysom.storage.errors import PinkFormatError


def write_images(path, images, dims=None):
    dims = dims or images.shape[2:]
    with pinkfile.data_writer(path, len(images), dims) as writer:
        for start in range(0, len(images), 2):
            writer.write(images[start : start + 2])
    return path


def values(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


floats = hnp.from_dtype(np.dtype("float32"))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(1, 5), channels=st.integers(1, 3), side=st.integers(1, 6))
def test_images_round_trip_in_blocks_and_any_order(tmp_path_factory, data, count, channels, side):
    images = data.draw(hnp.arrays(np.float32, (count, channels, side, side), elements=floats))
    dims = (channels, side, side)
    path = write_images(tmp_path_factory.mktemp("f") / "i.bin", images, dims)
    opened = pinkfile.open_data(path)
    assert (opened.count, opened.dims, opened.shape) == (count, dims, dims)
    start = data.draw(st.integers(0, count))
    np.testing.assert_array_equal(opened.read(start, start + 2), images[start : start + 2])
    rows = data.draw(st.lists(st.integers(0, count - 1), max_size=6))
    np.testing.assert_array_equal(opened.take(rows), images[rows])


@pytest.mark.parametrize(
    ("som_dims", "layout", "neurons"),
    [
        ((4,), "cartesian", 4),
        ((4, 3), "cartesian", 12),
        ((2, 3, 4), "cartesian", 24),
        ((5, 5), "hexagonal", 19),
    ],
)
def test_maps_round_trip_and_the_layout_is_recognised(tmp_path, som_dims, layout, neurons):
    weights = values((neurons, 2, 3, 3))
    pinkfile.write_som(tmp_path / "s.bin", weights, som_dims, (2, 3, 3), b"# made by hand\n")
    som = pinkfile.open_som(tmp_path / "s.bin")
    assert (som.layout, som.som_dims, som.shape) == (layout, som_dims, (2, 3, 3))
    assert som.comment == b"# made by hand\n"
    np.testing.assert_array_equal(som.read(), weights)
    np.testing.assert_array_equal(som.read(1, 3), weights[1:3])

    distance, flip = values((7, neurons)), values((7, neurons), 1) > 0.5
    with pinkfile.map_writer(tmp_path / "m.bin", 7, som_dims, layout) as writer:
        writer.write(distance[:4])
        writer.write(distance[4:])
    with pinkfile.transform_writer(tmp_path / "t.bin", 7, som_dims, layout) as writer:
        writer.write(pinkfile.transform_entries(flip, distance))
    opened = pinkfile.open_map(tmp_path / "m.bin")
    assert (opened.layout, opened.som_dims) == (layout, som_dims)
    np.testing.assert_array_equal(opened.read(2, 6), distance[2:6])
    entries = pinkfile.open_transforms(tmp_path / "t.bin")
    assert (entries.layout, entries.neurons) == (layout, neurons)
    np.testing.assert_array_equal(entries.read(3, 7)[0], flip[3:7])
    np.testing.assert_array_equal(entries.read(3, 7)[1], distance[3:7])


def test_bytes_of_small_files_are_those_of_the_format(tmp_path):
    one = np.ones((1, 1, 1, 1), np.float32)
    write_images(tmp_path / "i.bin", one)
    assert (tmp_path / "i.bin").read_bytes() == struct.pack("<8if", 2, 0, 0, 1, 0, 2, 1, 1, 1.0)
    pinkfile.write_som(tmp_path / "s.bin", one, (1,), (1, 1))
    assert (tmp_path / "s.bin").read_bytes() == struct.pack("<10if", 2, 1, 0, 0, 1, 1, 0, 2, 1, 1, 1.0)
    with pinkfile.transform_writer(tmp_path / "t.bin", 1, (1,), "cartesian") as writer:
        writer.write(pinkfile.transform_entries(np.array([[1]]), np.array([[0.5]])))
    assert (tmp_path / "t.bin").read_bytes() == struct.pack("<6ibf", 2, 3, 1, 0, 1, 1, 1, 0.5)


@pytest.mark.parametrize(
    ("comment", "kept"),
    [
        (b"# a\n# b\n", b"# a\n# b\n"),
        (b"# a\n# END OF HEADER\n", b"# a\n# END OF HEADER\n"),
    ],
)
def test_comments_before_the_header(tmp_path, comment, kept):
    images = values((2, 1, 3, 3))
    path = write_images(tmp_path / "i.bin", images)
    path.write_bytes(comment + path.read_bytes())
    assert pinkfile.open_data(path).comment == kept
    np.testing.assert_array_equal(pinkfile.open_data(path).read(0, 2), images)


def test_comments_that_do_not_end_are_refused(tmp_path):
    (tmp_path / "i.bin").write_bytes(b"#" * (3 << 20))
    with pytest.raises(PinkFormatError, match=r"comment is unended.*1 MiB"):
        pinkfile.open_data(tmp_path / "i.bin")


DATA = (2, 0, 0, 2, 0, 2, 3, 3)


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, 1, r"byte 0: the format version is 1, expected 2"),
        (0, 2 << 24, r"byte 0: the format version is 33554432, expected 2"),
        (1, 1, r"byte 4: the file type is 1, expected 0; give a data file"),
        (2, 1, r"byte 8: the data type is 1, expected 0"),
        (3, 0, r"byte 12: the number of images is 0, expected at least 1"),
        (3, -5, r"byte 12: the number of images is -5"),
        (3, 3, r"byte 104: the payload is 72 bytes, expected 108; the file is too short"),
        (3, 1, r"byte 68: the payload is 72 bytes, expected 36; the file is too long"),
        (3, 2**31 - 1, r"byte 104: the payload is 72 bytes, expected 77309411292"),
        (4, 1, r"byte 16: the data layout is 1, expected 0"),
        (5, 1, r"byte 20: the number of image dimensions is 1, expected 2 or 3"),
        (5, 4, r"byte 20: the number of image dimensions is 4"),
        (6, 0, r"byte 24: the image dimension 1 is 0, expected 1 to 65536"),
        (7, 1 << 30, r"byte 28: the image dimension 2 is 1073741824"),
        (7, 4, r"byte 28: the image width is 4, expected 3 as the height"),
    ],
)
def test_a_wrong_header_is_refused_with_its_place(tmp_path, index, value, message):
    header = list(DATA)
    header[index] = value
    path = tmp_path / "i.bin"
    path.write_bytes(struct.pack("<8i", *header) + bytes(72))
    with pytest.raises(PinkFormatError, match=message) as caught:
        pinkfile.open_data(path)
    assert str(path) in str(caught.value)


def test_every_truncation_and_every_surplus_is_refused(tmp_path):
    whole = tmp_path / "whole.bin"
    part = tmp_path / "part.bin"
    weights = values((7, 1, 2, 2))
    with pinkfile.map_writer(whole, 2, (3, 3), "hexagonal") as writer:
        writer.write(values((2, 7)))
    files = {pinkfile.open_map: whole.read_bytes()}
    with pinkfile.transform_writer(whole, 2, (3, 3), "hexagonal") as writer:
        writer.write(pinkfile.transform_entries(np.zeros((2, 7), bool), values((2, 7))))
    files[pinkfile.open_transforms] = whole.read_bytes()
    pinkfile.write_som(whole, weights, (3, 3), (2, 2))
    files[pinkfile.open_som] = whole.read_bytes()
    files[pinkfile.open_data] = write_images(whole, weights).read_bytes()
    for reader, data in files.items():
        for length in [*range(len(data)), len(data) + 1, len(data) + 4]:
            part.write_bytes((data + bytes(8))[:length])
            with pytest.raises(PinkFormatError):
                reader(part)
        part.write_bytes(data)
        reader(part)


@pytest.mark.parametrize(("layout", "expected"), [("cartesian", "36"), ("hexagonal", "28"), ("auto", "36 or 28")])
def test_a_map_of_neither_length_is_refused(tmp_path, layout, expected):
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<8i", 2, 2, 0, 1, 0, 2, 3, 3) + bytes(32))
    with pytest.raises(PinkFormatError, match=f"payload is 32 bytes, expected {expected};"):
        pinkfile.open_map(path, layout)


def test_a_hexagonal_map_that_cannot_be_is_refused(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<8i", 2, 2, 0, 1, 0, 2, 3, 4) + bytes(48))
    assert pinkfile.open_map(path).neurons == 12
    with pytest.raises(PinkFormatError, match=r"hexagonal map is \(3, 4\), expected an odd width"):
        pinkfile.open_map(path, "hexagonal")


def test_a_strange_flip_is_refused(tmp_path):
    with pinkfile.transform_writer(tmp_path / "t.bin", 2, (2,), "cartesian") as writer:
        writer.write(pinkfile.transform_entries(np.array([[0, 1], [1, 7]]), np.zeros((2, 2))))
    with pytest.raises(PinkFormatError, match="byte 39: flip is 7, expected 0 or 1"):
        pinkfile.open_transforms(tmp_path / "t.bin").read(0, 2)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(PinkFormatError, match="cannot be opened"):
            pinkfile.open_data(path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")
    for reader in (pinkfile.open_data, pinkfile.open_som, pinkfile.open_map, pinkfile.open_transforms):
        with pytest.raises(PinkFormatError, match="not a regular file"):
            reader(tmp_path / "pipe.bin")


def test_a_map_that_is_not_finite_is_refused_with_its_place(tmp_path):
    weights = values((4, 1, 3, 3))
    pinkfile.write_som(tmp_path / "s.bin", weights, (2, 2), (3, 3))
    np.testing.assert_array_equal(pinkfile.open_som(tmp_path / "s.bin").read_finite(), weights)
    for bad in (np.nan, np.inf):
        weights[2, 0, 1, 2] = bad
        pinkfile.write_som(tmp_path / "s.bin", weights, (2, 2), (3, 3))
        message = f"byte 136: the weight of neuron 2, channel 0, row 1, column 2 is {bad}, expected a finite number"
        with pytest.raises(PinkFormatError, match=message):
            pinkfile.open_som(tmp_path / "s.bin").read_finite()


def test_a_file_that_shrinks_or_rows_beyond_it_are_refused(tmp_path):
    path = write_images(tmp_path / "i.bin", values((4, 1, 3, 3)))
    data = pinkfile.open_data(path)
    with pytest.raises(PinkFormatError, match="has no image 4"):
        data.take([0, 4])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PinkFormatError, match="became shorter"):
        data.read(2, 4)
    with pytest.raises(PinkFormatError, match="has no image 3"):
        data.take([3])


def write_half_and_fail(path):
    with pinkfile.data_writer(path, 4, (3, 3)) as writer:
        writer.write(values((2, 1, 3, 3)))
        raise KeyboardInterrupt


def test_an_interrupted_or_incomplete_file_leaves_the_old_one(tmp_path):
    path = write_images(tmp_path / "i.bin", values((1, 1, 3, 3)))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_half_and_fail(path)
    with (
        pytest.raises(PinkFormatError, match="2 rows were written, the header says 4"),
        pinkfile.data_writer(path, 4, (3, 3)) as writer,
    ):
        writer.write(values((2, 1, 3, 3)))
    with (
        pytest.raises(PinkFormatError, match=r"rows have shape \(1, 3, 4\), expected \(1, 3, 3\)"),
        pinkfile.data_writer(path, 4, (3, 3)) as writer,
    ):
        writer.write(values((2, 1, 3, 4)))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_more_rows_than_the_format_holds_are_refused(tmp_path):
    for count in (0, 2**31):
        with pytest.raises(PinkFormatError, match="rows cannot be written"):
            pinkfile.data_writer(tmp_path / "i.bin", count, (3, 3))
    assert not list(tmp_path.iterdir())
