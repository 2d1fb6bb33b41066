"""Inputs of a collation from the peer's own files: equal to what it made of them, and refusals of what does not fit."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from skysom.engine.collation.neighbours import neighbour_pairs, unit_vectors
from skysom.engine.collation.projection import Frames, project
from skysom.engine.errors import CollationError
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
from skysom.jobs.collation.pyink import inputs_from_pyink
from skysom.jobs.errors import ConfigError
from skysom.storage.annotation_set import AnnotationError
from skysom.storage.catalogue import ROW_NUMBER
from skysom.storage.errors import CatalogueError, PinkFormatError
from skysom.storage.pinkfile import map_writer, open_map, open_som, write_som

ACTIONS = '"Related Radio" = "LINK"\n"IR Host" = "DATA_ATTACH"\n"Sidelobe" = "false_attach"\n'


class Golden:
    """A set of the peer's files, copied so that a test may change one."""

    def __init__(self, shared, folder, where, scale, limit, catalogues):
        self.scale, self.limit, self.truth = scale, limit, shared(folder)
        for name in ("som.bin", "map.bin", "transform.bin", "som.bin.results.pkl", *catalogues):
            shutil.copyfile(self.truth / name, where / name)
        (where / "actions.toml").write_text(ACTIONS)
        self.folder, self.catalogues = where, [where / name for name in catalogues]

    def inputs(self, **changed):
        files = [CatalogueChoice(path) for path in self.catalogues]
        given = {
            "catalogues": tuple(files),
            "actions": str(self.folder / "actions.toml"),
            "pixel_scale_arcsec": (self.scale, self.scale),
            "separation_limit_arcsec": self.limit,
            "float32_angles": True,
        }
        names = ("som.bin", "map.bin", "transform.bin", "som.bin.results.pkl")
        return inputs_from_pyink(*(self.folder / name for name in names), CollateOptions(**(given | changed)))


def golden(shared, where, single=False):
    if single:
        return Golden(shared, "goldens/pyink/single_channel", where, 1.0, 27.0, ["radio_catalogue.csv"])
    return Golden(shared, "goldens/pyink", where, 1.5, 49.0, ["radio_catalogue.csv", "ir_catalogue.csv"])


@pytest.fixture
def two(shared, tmp_path):
    return golden(shared, tmp_path)


@pytest.fixture(params=[False, True], ids=["two channels", "one channel"])
def either(request, shared, tmp_path):
    return golden(shared, tmp_path, request.param)


def test_best_units_turns_and_masks_are_the_peers(either):
    inputs, mapping = either.inputs(), np.load(either.truth / "mapping.npz")
    width = open_som(either.truth / "som.bin").som_dims[1]
    rows = len(mapping["bmu_ed"])
    assert inputs.base.rows == rows == len(inputs.mapped)
    assert np.array_equal(inputs.mapped.neuron, mapping["bmu"][:, 0] * width + mapping["bmu"][:, 1])
    assert np.array_equal(inputs.mapped.distance, mapping["bmu_ed"])
    masks = np.load(either.truth / "annotation_masks.npz")
    primes = json.loads((either.truth / "labels.json").read_text())
    assert list(inputs.labels) == sorted(primes, key=primes.get)
    for name, values in masks.items():
        first, second = (int(part[1:]) for part in name.split("_"))
        planes = inputs.planes[first * width + second]
        for bit, label in enumerate(inputs.labels):
            expected = (values != 0) & (values % primes[label] == 0)
            assert np.array_equal((planes >> np.uint64(bit)) & np.uint64(1) == 1, expected[: len(planes)])
    assert [action.name for action in inputs.actions] == ["LINK", "DATA_ATTACH", "FALSE_ATTACH"]


def test_projected_positions_and_labels_are_the_peers(either):
    inputs, truth = either.inputs(), np.load(either.truth / "filterset.npz")
    frames = Frames(inputs.mapped.neuron, inputs.mapped.angle_rad, inputs.mapped.flip)
    base = unit_vectors(*inputs.base.positions(inputs.base.read()))
    centres = inputs.base.positions(inputs.base.read())
    for channel, file in enumerate(inputs.catalogues):
        ra, dec = file.positions(file.read())
        pairs = neighbour_pairs(base, unit_vectors(ra, dec), either.limit)
        assert np.array_equal(pairs[1], truth[f"match_idx_c{channel}"])
        found = project(
            *centres, ra, dec, *pairs, frames, inputs.planes[:, channel], inputs.pixel_scale_arcsec, float32_angles=True
        )
        assert np.allclose(found.column, truth[f"ra_pix_c{channel}"], rtol=0, atol=2e-6)
        assert np.allclose(found.row, truth[f"dec_pix_c{channel}"], rtol=0, atol=2e-6)
        primes = np.array([2, 3, 5])
        expected = (truth[f"value_c{channel}"][:, None] % primes == 0) & (truth[f"value_c{channel}"][:, None] != 0)
        assert np.array_equal(found.bits, (expected * np.array([1, 2, 4], np.uint64)).sum(axis=1).astype(np.uint64))
        beyond = np.hypot(found.east_arcsec, found.north_arcsec) > inputs.limit_arcsec
        assert beyond.any()
        assert not found.bits[beyond].any()


def test_orders_are_the_peers(either):
    orders = json.loads((either.truth / "sorter_orders.json").read_text())
    channels = "" if len(either.catalogues) == 2 else ":second=0"
    asked = {
        "best_matching_first": "best_matching_first",
        "largest_first": "largest_first",
        "largest_first_nosort": "largest_first:within=row",
        "area_ratio": f"area_ratio{channels}",
        "area_ratio_inc_2_3_exc_5": f"area_ratio{channels}:include=Related Radio:include=IR Host:exclude=Sidelobe",
    }
    for name, sort in asked.items():
        if name in orders:
            order = np.argsort(either.inputs(sort=sort).rank).tolist()
            assert order == list(dict.fromkeys(orders[name])), name  # there every source of a neuron is listed twice


def test_an_excluded_neuron_is_replaced_by_the_next_best(two):
    before, distances = two.inputs(), open_map(two.truth / "map.bin").read(0, 10**6)
    worst = int(np.bincount(before.mapped.neuron).argmax())
    after = two.inputs(excluded=(worst,))
    distances[:, worst] = np.inf
    assert np.array_equal(after.mapped.neuron, distances.argmin(axis=1))
    assert np.array_equal(after.mapped.distance, distances.min(axis=1))
    assert (after.mapped.neuron != before.mapped.neuron).any()


# --- what is refused ------------------------------------------------------------------------------


def test_a_pixel_scale_is_needed(two):
    with pytest.raises(ConfigError, match="--pixel-scale ARCSEC"):
        two.inputs(pixel_scale_arcsec=None)
    for scale in (0.0, -1.0, np.nan):
        with pytest.raises(ConfigError, match=r"--pixel-scale is 1\.5, .*give arcsec a pixel"):
            two.inputs(pixel_scale_arcsec=(1.5, scale))


@pytest.mark.parametrize("rows", [199, 201])
def test_another_number_of_rows_than_images(two, rows):
    table = pd.read_csv(two.catalogues[0])
    pd.concat([table, table])[:rows].to_csv(two.catalogues[0], index=False)
    with pytest.raises(ConfigError, match=f"{rows} rows, .* is of 200 images; row i has to be image i"):
        two.inputs()


def test_repeated_ids_are_refused_where_rows_are_images(two):
    table = pd.read_csv(two.catalogues[0]).assign(name=[f"J{row // 2}" for row in range(200)])
    table.to_csv(two.catalogues[0], index=False)
    with pytest.raises(ConfigError, match=r"100 rows of .* repeat an id of column 'name', such as 'J0' in row 1"):
        two.inputs()
    choices = (CatalogueChoice(two.catalogues[0], id_column=ROW_NUMBER), CatalogueChoice(two.catalogues[1]))
    assert two.inputs(catalogues=choices).base.id_column == ROW_NUMBER


def test_files_of_another_map(two):
    file = open_map(two.folder / "map.bin")
    with map_writer(two.folder / "map.bin", 200, (3, 5), "cartesian") as writer:
        writer.write(file.read(0, 200)[:, :15])
    with pytest.raises(ConfigError, match=r"is of 15 neurons \(\(3, 5\)\), .*som.bin has 16"):
        two.inputs()


def test_another_number_of_images_in_the_transforms(two):
    file = open_map(two.folder / "map.bin")
    with map_writer(two.folder / "map.bin", 150, (4, 4), "cartesian") as writer:
        writer.write(file.read(0, 150))
    with pytest.raises(ConfigError, match=r"map.bin is of 150 images, .*transform.bin of 200"):
        two.inputs()


def test_annotations_of_another_map(two):
    som = open_som(two.folder / "som.bin")
    weights = som.read()
    weights[3] += 0.25
    write_som(two.folder / "som.bin", weights, som.som_dims, som.dims)
    with pytest.raises(
        AnnotationError, match=r"neuron \(0, 3\) in the file is not the map's: they differ by up to 0.25"
    ):
        two.inputs()


def test_a_pickle_that_would_run_something_is_refused_unread(two):
    (two.folder / "som.bin.results.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(AnnotationError, match="is refused, and nothing in it was executed"):
        two.inputs()


def test_a_damaged_file(two):
    content = (two.folder / "map.bin").read_bytes()
    (two.folder / "map.bin").write_bytes(content[:-7])
    with pytest.raises(PinkFormatError, match="payload"):
        two.inputs()


def test_channels_and_catalogues(two, tmp_path):
    first, second = (CatalogueChoice(path) for path in two.catalogues)
    with pytest.raises(ConfigError, match="no catalogue: give --catalogue FILE"):
        two.inputs(catalogues=())
    with pytest.raises(ConfigError, match=r"2 channels \(channel 0, channel 1\), 1 catalogue given, .*'channel 1'"):
        two.inputs(catalogues=(first,))
    with pytest.raises(ConfigError, match=r"has 2 channels .*, 3 catalogues are given"):
        two.inputs(catalogues=(first, second, second))
    twice = two.inputs(catalogues=(first, CatalogueChoice(str(two.folder / "." / "radio_catalogue.csv"))))
    assert twice.base_channels.tolist() == [True, True]
    assert two.inputs().base_channels.tolist() == [True, False]


def test_labels_and_actions_must_fit(two):
    (two.folder / "actions.toml").write_text('"Related Radio" = "LINK"\n"IR Host" = "DATA_ATTACH"\n')
    with pytest.raises(CollationError, match=r"\['Sidelobe'\] have no action.*\"Sidelobe\" = \"PASS\""):
        two.inputs()
    (two.folder / "actions.toml").write_text(f'{ACTIONS}"Lobe" = "LINK"\n')
    with pytest.raises(CollationError, match=r"actions on \['Lobe'\], the masks carry"):
        two.inputs()
    with pytest.raises(ConfigError, match=r"""(?s)under 'Sidelobe'.*"IR Host" = "DATA_ATTACH".*"Sidelobe" = "PASS"""):
        two.inputs(actions=None)


def test_the_separation_limit_is_that_of_the_masks(two, capsys):
    reach = two.inputs().limit_arcsec
    assert "beyond 42.95 no neighbour can have a label" in capsys.readouterr().err
    assert two.inputs(separation_limit_arcsec=None).limit_arcsec == reach
    assert two.inputs(separation_limit_arcsec=20.0).limit_arcsec == 20
    assert "what lies under them beyond --separation-limit 20 is not looked up" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--separation-limit is -3 arcsec; give one above 0"):
        two.inputs(separation_limit_arcsec=-3.0)


def test_positions_that_are_missing_or_in_other_units(two, capsys):
    table = pd.read_csv(two.catalogues[0])
    table.loc[[4, 9], "RA"] = np.nan
    table.loc[12, "DEC"] = 123.0
    table.to_csv(two.catalogues[0], index=False)
    inputs = two.inputs()
    assert "3 of 200 rows of radio_catalogue.csv have no position (1 of them are off the sky" in capsys.readouterr().err
    assert np.flatnonzero(inputs.status_names() == "no_position").tolist() == [4, 9, 12]
    assert (inputs.rank[[4, 9, 12]] == -1).all()
    assert sorted(inputs.rank.tolist())[3:] == list(range(197))
    assert np.flatnonzero(~inputs.matchable()).tolist() == [4, 9, 12]
    table["RA"] = "12:30:45.5"
    table.to_csv(two.catalogues[0], index=False)
    with pytest.raises(CatalogueError, match="'RA' is sexagesimal"):
        two.inputs()
    table["RA"], table["DEC"] = 650_000.0, 100_000.0
    table.to_csv(two.catalogues[0], index=False)
    with pytest.raises(ConfigError, match="200 of 200 rows have no position in degrees"):
        two.inputs()
    two.catalogues[0].unlink()
    with pytest.raises(ConfigError, match=r"radio_catalogue.csv: there is no such file"):
        two.inputs()
