"""The peer's files into a survey store and out again: the same bytes, and rows that keep their places."""

import csv
import json
import shutil
import tracemalloc

import numpy as np
import pytest

from skysom.jobs.errors import ConfigError
from skysom.jobs.pink_convert import export_pink, import_pink
from skysom.storage import pinkfile
from skysom.storage.errors import PinkFormatError, SurveyError
from skysom.storage.survey import Survey


def images(count=70, channels=1, side=6):
    return np.random.default_rng(1).random((count, channels, side, side), dtype=np.float32)


def write(path, values):
    dims = values.shape[1:] if values.shape[1] > 1 else values.shape[2:]
    with pinkfile.data_writer(path, len(values), dims) as writer:
        writer.write(values)
    return path


def write_mapping(folder, count, som_dims=(3, 3), layout="hexagonal", rotations=8):
    """Map and transform files of random values; returns distance, k, flip."""
    rng = np.random.default_rng(2)
    shape = (count, pinkfile.neuron_count(som_dims, layout))
    distance, k, flip = (
        rng.random(shape, np.float32),
        rng.integers(0, rotations, shape),
        rng.random(shape) < 0.5,
    )
    step = np.float32(2 * np.pi) / np.float32(rotations)
    with pinkfile.map_writer(folder / "m.bin", count, som_dims, layout) as writer:
        writer.write(distance)
    with pinkfile.transform_writer(folder / "t.bin", count, som_dims, layout) as writer:
        writer.write(pinkfile.transform_entries(flip, k.astype(np.float32) * step))
    return distance, k, flip


@pytest.mark.parametrize("case", ["02_rot8_random", "05_two_channels", "06_hex5", "11_flip_off", "16_prefdir_hex7"])
def test_the_peers_files_come_back_byte_for_byte(shared, tmp_path, case):
    golden = shared("goldens/pink") / case
    parameters = json.loads((golden / "case.json").read_text())["parameters"]
    names = {"images": "images.bin", "som": "som.bin", "mapping": "map.bin", "transforms": "transform.bin"}
    survey = tmp_path / "survey.zarr"
    options = {key: parameters[key] for key in ("flip",)} | {"region": parameters["shape"]}
    files = {key: golden / name for key, name in names.items()}
    import_pink(survey, **files, rotations=parameters["numrot"], shard_images=64, **options)
    export_pink(survey, **{key: tmp_path / name for key, name in names.items()})
    for name in names.values():
        assert (tmp_path / name).read_bytes() == (golden / name).read_bytes(), name

    store = Survey(survey)
    weights, attrs = store.load_som("main")
    assert attrs["lattice"]["kind"] == parameters["layout"]
    assert attrs["geometry"]["neuron_side"] == weights.shape[3] == 46
    mapping = store.group["mappings/main"]
    assert mapping.attrs["lattice"] == attrs["lattice"]
    distance = store["mappings/main/distance"][:]
    bmu = store["mappings/main/bmu"][:]
    np.testing.assert_array_equal(bmu, distance.argmin(axis=1))
    np.testing.assert_array_equal(store["mappings/main/bmu_distance"][:], distance.min(axis=1))
    turned = store["mappings/main/rotation"][:]
    np.testing.assert_array_equal(store["mappings/main/bmu_rotation"][:], turned[np.arange(len(bmu)), bmu])
    angle = pinkfile.open_transforms(golden / "transform.bin").read(0, 16)[1]
    np.testing.assert_allclose(turned * (2 * np.pi / parameters["numrot"]), angle, rtol=1e-6)


def test_images_with_holes_keep_their_row_and_are_left_out_of_files(tmp_path):
    values = images(70)
    values[3, 0, 2, 2] = np.nan
    values[66] = np.nan
    good = np.delete(np.arange(70), [3, 66])
    survey = tmp_path / "survey.zarr"
    import_pink(survey, images=write(tmp_path / "i.bin", values), shard_images=64)
    store = Survey(survey)
    np.testing.assert_array_equal(np.flatnonzero(~store["ok"][:]), [3, 66])
    assert store.statuses()[[0, 3, 66]].tolist() == ["ok", "not_finite", "all_nan"]
    np.testing.assert_array_equal(store["images"][:], values)
    assert not store["prepared"][3].any()
    assert store["coverage"][3] == np.float32(35 / 36)

    # A mapping of the usable images finds its rows; the others stay empty.
    distance, k, flip = write_mapping(tmp_path, 68)
    import_pink(survey, mapping=tmp_path / "m.bin", transforms=tmp_path / "t.bin", rotations=8, name="other")
    np.testing.assert_array_equal(store["mappings/other/distance"][:][good], distance)
    np.testing.assert_array_equal(store["mappings/other/rotation"][:][good], k)
    np.testing.assert_array_equal(store["mappings/other/flip"][:][good], flip)
    assert store["mappings/other/bmu"][:][[3, 66]].tolist() == [-1, -1]
    assert np.isnan(store["mappings/other/distance"][:][[3, 66]]).all()

    out = tmp_path / "out"
    out.mkdir()
    export_pink(survey, images=out / "i.bin", mapping=out / "m.bin", transforms=out / "t.bin", name="other")
    np.testing.assert_array_equal(pinkfile.open_data(out / "i.bin").read(0, 70), values[good])
    for name in ("m.bin", "t.bin"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes()
    with (out / "i.bin.rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == good.tolist()
    assert rows[3] == {"row": "4", "source_id": "4"}


def test_a_mapping_of_all_images_has_nan_where_the_peer_had(tmp_path):
    survey = tmp_path / "survey.zarr"
    import_pink(survey, images=write(tmp_path / "i.bin", images(5)), shard_images=64)
    distance = np.ones((5, 4), np.float32)
    distance[:, 2] = 0.5
    distance[1] = np.nan
    with pinkfile.map_writer(tmp_path / "m.bin", 5, (2, 2), "cartesian") as writer:
        writer.write(distance)
    import_pink(survey, mapping=tmp_path / "m.bin", rotations=8)
    store = Survey(survey)
    assert store["mappings/main/bmu"][:].tolist() == [2, -1, 2, 2, 2]
    assert "mappings/main/rotation" not in store
    assert store.mapping_names() == ["main"]


def test_what_does_not_fit_is_refused(tmp_path):
    survey = tmp_path / "survey.zarr"
    data = write(tmp_path / "i.bin", images(5))
    with pytest.raises(SurveyError, match="no survey store"):
        import_pink(survey, som=tmp_path / "s.bin")
    import_pink(survey, images=data, shard_images=64)
    with pytest.raises(ConfigError, match="exists; images make a new store"):
        import_pink(survey, images=data)
    write_mapping(tmp_path, 4)
    mapping, transforms = tmp_path / "m.bin", tmp_path / "t.bin"
    with pytest.raises(ConfigError, match="has 4 rows, the survey 5 images of which 5 are usable"):
        import_pink(survey, mapping=mapping)
    with pytest.raises(ConfigError, match="alone has no distances"):
        import_pink(survey, transforms=transforms)
    write_mapping(tmp_path, 5)
    with pytest.raises(ConfigError, match="is no multiple of 2 pi / 4 below 2 pi"):
        import_pink(survey, mapping=mapping, transforms=transforms, rotations=4)
    with pytest.raises(ConfigError, match="has flipped images"):
        import_pink(survey, mapping=mapping, transforms=transforms, rotations=8, flip=False)
    pinkfile.write_som(tmp_path / "s.bin", images(4, 2, 9), (2, 2), (2, 9, 9))
    with pytest.raises(ConfigError, match="neurons of 2 channels, the survey has 1"):
        import_pink(survey, som=tmp_path / "s.bin")
    pinkfile.write_som(tmp_path / "s.bin", images(4, 1, 9), (2, 2), (9, 9))
    import_pink(survey, som=tmp_path / "s.bin", rotations=8)
    with pytest.raises(ConfigError, match=r"give the mapping another name"):
        import_pink(survey, mapping=mapping, transforms=transforms, rotations=8)
    assert Survey(survey).mapping_names() == []
    with pytest.raises(ConfigError, match="has no mapping 'main'"):
        export_pink(survey, mapping=tmp_path / "out.bin")
    with pytest.raises(SurveyError, match="no map 'none'"):
        export_pink(survey, som=tmp_path / "out.bin", name="none")
    assert not (tmp_path / "out.bin").exists()


def a_survey(folder):
    """A survey with a map and a mapping ``main`` (files s.bin, m.bin and t.bin), and its path."""
    survey = folder / "survey.zarr"
    write_mapping(folder, 5, (2, 2), "cartesian")
    pinkfile.write_som(folder / "s.bin", images(4, 1, 9), (2, 2), (9, 9))
    files = {"som": folder / "s.bin", "mapping": folder / "m.bin", "transforms": folder / "t.bin"}
    import_pink(survey, images=write(folder / "i.bin", images(5)), rotations=8, shard_images=64, **files)
    return survey


def test_a_map_or_mapping_of_that_name_is_not_replaced(tmp_path):
    survey = a_survey(tmp_path)
    other = pinkfile.open_som(tmp_path / "s.bin").read() + 1
    pinkfile.write_som(tmp_path / "other.bin", other, (2, 2), (9, 9))
    with pytest.raises(ConfigError, match=r"has a map 'main' already.*give another --som-name"):
        import_pink(survey, som=tmp_path / "other.bin", rotations=8)
    with pytest.raises(ConfigError, match=r"has a mapping 'main' already.*give another --som-name"):
        import_pink(survey, mapping=tmp_path / "m.bin", rotations=8)
    np.testing.assert_array_equal(Survey(survey).load_som("main")[0] + 1, other)
    import_pink(survey, som=tmp_path / "other.bin", mapping=tmp_path / "m.bin", rotations=8, name="other")
    np.testing.assert_array_equal(Survey(survey).load_som("other")[0], other)


def test_a_map_whose_mapping_is_refused_is_not_kept(tmp_path):
    survey = a_survey(tmp_path)
    files = {"som": tmp_path / "s.bin", "mapping": tmp_path / "m.bin", "transforms": tmp_path / "t.bin"}
    with pytest.raises(ConfigError, match="is no multiple"):
        import_pink(survey, **files, rotations=4, name="other")
    assert Survey(survey).som_names() == ["main"]
    import_pink(survey, **files, rotations=8, name="other")
    assert Survey(survey).som_names() == ["main", "other"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(tmp_path, bad):
    survey = a_survey(tmp_path)
    weights = images(4, 1, 9)
    weights[1, 0, 2, 3] = bad
    pinkfile.write_som(tmp_path / "s.bin", weights, (2, 2), (9, 9))
    with pytest.raises(PinkFormatError, match=r"neuron 1, channel 0, row 2, column 3 is (nan|inf)"):
        import_pink(survey, som=tmp_path / "s.bin", rotations=8, name="other")
    assert Survey(survey).som_names() == ["main"]


@pytest.mark.parametrize("name", ["a/b", "../../x", "", ".hidden", "a\n", "/x"])
def test_names_that_are_no_names_are_refused(tmp_path, name):
    survey = a_survey(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="--som-name is"):
        import_pink(survey, som=tmp_path / "s.bin", rotations=8, name=name)
    with pytest.raises(ConfigError, match="--som-name is"):
        export_pink(survey, som=tmp_path / "out.bin", name=name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"images": "o.bin", "som": "o.bin"}, "would be written twice"),
        ({"mapping": "o.bin", "transforms": "./x/../o.bin"}, "would be written twice"),
        ({"images": "o.bin", "som": "o.bin.rows.csv"}, "would be written twice"),
        ({"som": "survey.zarr/zarr.json"}, "lies in the survey store"),
        ({"images": "survey.zarr"}, "lies in the survey store"),
    ],
)
def test_outputs_that_would_replace_something_are_refused(tmp_path, outputs, message):
    survey = a_survey(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=message):
        export_pink(survey, **{key: tmp_path / name for key, name in outputs.items()})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unfinished_mapping_is_not_exported(tmp_path):
    survey = a_survey(tmp_path)
    store = Survey(survey, "r+")
    store["mappings/main/bmu"][3:] = -1
    store["mappings/main/bmu_distance"][2] = np.nan
    before = sorted(path.name for path in tmp_path.iterdir())
    for outputs in ({"mapping": "om.bin", "som": "os.bin"}, {"transforms": "ot.bin", "images": "oi.bin"}):
        with pytest.raises(ConfigError, match="lacks a result for 3 of 5 usable rows; finish it"):
            export_pink(survey, **{key: tmp_path / name for key, name in outputs.items()})
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_transforms_that_were_not_imported_are_not_exported(tmp_path):
    survey = a_survey(tmp_path)
    import_pink(survey, mapping=tmp_path / "m.bin", name="other")
    with pytest.raises(ConfigError, match="without transforms"):
        export_pink(survey, mapping=tmp_path / "om.bin", transforms=tmp_path / "ot.bin", name="other")
    assert not (tmp_path / "om.bin").exists()


def test_a_broken_data_file_makes_no_store(tmp_path):
    data = write(tmp_path / "i.bin", images(5))
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(PinkFormatError, match="too short"):
        import_pink(tmp_path / "survey.zarr", images=data)
    assert [path.name for path in tmp_path.iterdir()] == ["i.bin"]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (64, 64, 640):
        survey = tmp_path / "survey.zarr"
        shutil.rmtree(survey, ignore_errors=True)
        write(tmp_path / "i.bin", images(count, 1, 40))
        write_mapping(tmp_path, count)
        tracemalloc.start()
        files = {"mapping": tmp_path / "m.bin", "transforms": tmp_path / "t.bin"}
        import_pink(survey, images=tmp_path / "i.bin", rotations=8, shard_images=64, **files)
        export_pink(survey, images=tmp_path / "o.bin", **files)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 576 more images are 3.7 MB.
    assert peaks[2] < peaks[1] + 1e6
