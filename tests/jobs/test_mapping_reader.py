"""A mapping read lazily and in blocks: what is stored, whatever the blocks; other maps refused."""

import importlib.util
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.engine.reading.units import best_units, excluded_mask, nth_best
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.mapping_reader import AHEAD, Block, MappingReader, mapping_name, read_ahead
from skysom.jobs.output import Output
from skysom.storage.errors import SurveyError
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("mapping_files", Path(__file__).with_name("mapping_files.py"))
mapping_files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mapping_files)

LATTICE = Cartesian(3, 2)
DISTANCE = np.random.default_rng(0).integers(1, 9, (300, 6)).astype(np.float32)
DISTANCE[[5, 70, 299]] = np.nan


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return mapping_files.make_output(tmp_path_factory.mktemp("all"), DISTANCE, LATTICE)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return mapping_files.make_output(tmp_path_factory.mktemp("kept"), DISTANCE, LATTICE, keep=2)


def test_what_a_mapping_says_of_itself(output, kept):
    reader = MappingReader(output, "main")
    assert (len(reader), reader.neurons, reader.lattice, reader.keep) == (300, 6, LATTICE, None)
    assert (reader.geometry.image_side, reader.geometry.region) == (mapping_files.SIDE, "circular")
    assert reader.exact_neurons is None
    assert reader.check_map()
    assert MappingReader(kept, "main").keep == 2
    assert "neuron" in MappingReader(kept, "main").arrays


def test_the_dataset_is_lazy_and_knows_where_neurons_lie(output, kept):
    found = MappingReader(output, "main").dataset(block_rows=130)
    assert found["distance"].chunks[0] == (128, 128, 44)
    assert found["distance"].dims == ("image", "neuron")
    assert found["bmu_row"].values.tolist() == [0, 0, 1, 1, 2, 2]
    assert found["bmu_col"].values.tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(found["distance"].values, DISTANCE)
    assert int((found["distance"].mean("neuron") > 4).sum()) > 0
    few = MappingReader(kept, "main").dataset()
    assert few["neuron"].dims == ("image", "rank")
    assert "bmu_row" not in few


def test_best_units_of_the_lazy_arrays(output):
    """The engine's functions work on blocks of rows, so Dask may call them."""
    distance = MappingReader(output, "main").dataset(block_rows=64)["distance"].data
    second = distance.map_blocks(lambda block: nth_best(block, 1)[0], dtype=np.int64, drop_axis=1)
    assert np.array_equal(second.compute(scheduler="synchronous"), nth_best(DISTANCE, 1)[0])


def test_rows_an_interrupted_append_left_over_are_not_read(tmp_path):
    output = mapping_files.make_output(tmp_path / "out", DISTANCE[:100], LATTICE)
    Survey(output.survey, "r+")["mappings/main/distance"].resize((164, 6))
    reader = MappingReader(output, "main")
    assert reader.dataset().sizes["image"] == 100
    assert list(reader.blocks())[-1].stop == 100


@pytest.mark.parametrize("rows", [1, 64, 100, 128, 1000, None])
def test_blocks_are_whole_shards_in_order(output, rows):
    blocks = list(MappingReader(output, "main").blocks(["distance", "bmu"], rows=rows))
    assert blocks[0].start == 0
    assert blocks[-1].stop == 300
    assert all(a.stop == b.start and a.stop % 64 == 0 for a, b in itertools.pairwise(blocks))
    np.testing.assert_array_equal(np.concatenate([b["distance"] for b in blocks]), DISTANCE)
    assert sum(len(b["bmu"]) for b in blocks) == 300


def test_a_part_of_the_rows(output):
    blocks = list(MappingReader(output, "main").blocks(rows=64, start=70, stop=200))
    assert [(b.start, b.stop) for b in blocks] == [(70, 128), (128, 192), (192, 200)]
    np.testing.assert_array_equal(np.concatenate([b["distance"] for b in blocks]), DISTANCE[70:200])


@pytest.mark.parametrize("exclude", [None, [0, 3]])
def test_units_of_blocks_are_those_of_the_whole(output, kept, exclude):
    excluded = excluded_mask(6, exclude)
    expected = best_units(DISTANCE, 2, excluded=excluded)
    units = list(MappingReader(output, "main").units(2, excluded=excluded, rows=64))
    np.testing.assert_array_equal(np.concatenate([u.neuron for u in units]), expected[0])
    np.testing.assert_array_equal(np.concatenate([u.distance for u in units]), expected[1])
    assert not any(u.lost.any() for u in units)
    few = list(MappingReader(kept, "main").units(2, excluded=excluded, rows=64))
    neuron = np.concatenate([u.neuron for u in few])
    lost = np.concatenate([u.lost for u in few])
    stored = best_units(DISTANCE, 2)[0]
    for row, (own, all_) in enumerate(zip(neuron, stored, strict=True)):
        left = [n for n in all_ if n >= 0 and n not in (exclude or [])]
        assert own.tolist() == [*left, -1, -1][:2]
        assert lost[row] == (not left and all_[0] >= 0)


def test_single_rows_in_any_order(output):
    rows = np.array([200, 3, 200, 64])
    reader = MappingReader(output, "main")
    np.testing.assert_array_equal(reader.rows("distance", rows), DISTANCE[rows])
    assert reader.rows("distance", np.array([], int)).shape == (0, 6)


def test_reading_stays_two_blocks_ahead_and_stops_with_its_reader():
    read, gate = [], threading.Event()

    def block(first):
        read.append(first)
        if first == AHEAD:
            gate.set()
        return Block(first, first + 1, {})

    blocks = read_ahead(block, range(100))
    assert next(blocks).start == 0
    assert gate.wait(5)
    assert read == [0, 1, 2]
    assert next(blocks).start == 1
    blocks.close()
    assert len(read) <= 4


def test_an_error_of_reading_comes_where_its_block_is_due():
    def block(first):
        if first == 1:
            raise SurveyError("damaged")
        return Block(first, first + 1, {})

    blocks = read_ahead(block, range(3))
    assert next(blocks).start == 0
    with pytest.raises(SurveyError, match="damaged"):
        next(blocks)


def test_a_map_that_is_not_the_mappings_is_refused(tmp_path):
    output = mapping_files.make_output(tmp_path / "other", DISTANCE[:70], LATTICE, sha256="f" * 64)
    with pytest.raises(ConfigError, match=r"soms/main") as refused:
        MappingReader(output, "main").check_map()
    assert "f" * 64 in str(refused.value)
    assert Survey(output.survey).load_som_attrs("main")["sha256"] in str(refused.value)
    assert "--redo map" in str(refused.value)


def test_a_map_that_is_not_in_the_store_cannot_be_compared(tmp_path):
    output = mapping_files.make_output(tmp_path / "none", DISTANCE[:70], LATTICE, weights=False)
    assert not MappingReader(output, "main").check_map()


def test_mappings_that_are_not_there_are_refused(output, tmp_path):
    with pytest.raises(MissingStageError, match="map:finer"):
        MappingReader(output, "finer")
    with pytest.raises(MissingStageError):
        MappingReader(Output(tmp_path), "main")
    reader = MappingReader(output, "main")
    with pytest.raises(SurveyError, match="no array"):
        list(reader.blocks(["nothing"]))
    with pytest.raises(ReadingError, match="mask"):
        list(reader.units(2, excluded=np.zeros(5, bool)))


def test_the_mapping_that_is_meant(output, tmp_path):
    assert mapping_name(output, None) == "main"
    assert mapping_name(output, "finer") == "finer"
    one = mapping_files.make_output(tmp_path / "one", DISTANCE[:70], LATTICE, name="finer")
    assert mapping_name(one, None) == "finer"
    survey = Survey(one.survey, "r+")
    mapping_files.write_mapping(survey, "mappings/coarse", DISTANCE[:70], None)
    with pytest.raises(MissingStageError, match="coarse, finer"):
        mapping_name(one, None)
