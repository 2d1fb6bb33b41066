"""Files that say what to do with labels and with single groups, expressions that order, catalogues of any format."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Table

from skysom.engine.collation.groups import Corrections
from skysom.engine.errors import CollationError
from skysom.jobs.collation.inputs_catalogue import (
    CatalogueChoice,
    check_positions,
    checked_positions,
    fingerprint,
    open_catalogue,
    repeated,
)
from skysom.jobs.collation.inputs_files import read_actions, read_corrections
from skysom.jobs.collation.inputs_masks import reach_arcsec
from skysom.jobs.collation.inputs_order import Sources, ranks, sort_columns
from skysom.jobs.errors import ConfigError
from skysom.storage.catalogue import ROW_NUMBER, duplicate_rows, read_catalogue, source_ids
from skysom.storage.errors import CatalogueError

LABELS = ("Related Radio", "IR Host")


def written(folder, text, name="file.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- actions --------------------------------------------------------------------------------------


def test_actions_by_label(tmp_path, capsys):
    path = written(tmp_path, '\ufeff# what to do\n"Related Radio" = "link"\n"IR Host" = "Data_Attach"\n')
    actions, names = read_actions(path, LABELS)
    assert [action.name for action in actions] == ["LINK", "DATA_ATTACH"]
    assert names == {"Related Radio": "LINK", "IR Host": "DATA_ATTACH"}
    assert [action.name for action in read_actions(None, LABELS)[0]] == ["LINK", "DATA_ATTACH"]
    assert "collate: actions Related Radio: LINK, IR Host: DATA_ATTACH (no --actions)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"Related Radio": "LINK"', "is no TOML .*its lines look like"),
        ('"Related Radio" = "LINK"\n"Related Radio" = "PASS"', "is no TOML"),
        ("[actions]\nLobe = 'LINK'", '\'actions\' is .*every line is "label" = "ACTION", without tables'),
        ('"Related Radio" = ["LINK"]', "without tables"),
        ('"Related Radio" = true', "'Related Radio' is True"),
    ],
)
def test_actions_that_are_not_flat_toml(tmp_path, text, words):
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        read_actions(written(tmp_path, text), LABELS)


def test_actions_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file; write one in TOML"):
        read_actions(tmp_path / "none.toml", LABELS)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is no TOML"):
        read_actions(tmp_path / "binary.toml", LABELS)
    path = written(tmp_path, '"Related Radio" = "GLUE"\n"IR Host" = "PASS"')
    with pytest.raises(CollationError, match='"Related Radio" = "GLUE": there is no such action; use one of LINK'):
        read_actions(path, LABELS)
    with pytest.raises(
        ConfigError, match=r'(?s)under .5" ring.\? .*such as\n  "Related Radio" = "LINK"\n  "5\\" ring"'
    ):
        read_actions(None, ("Related Radio", '5" ring'))


# --- corrections ----------------------------------------------------------------------------------


def test_corrections_by_id_and_by_row(tmp_path):
    ids = pa.array(["a", "b", "c", "a", "d"], pa.large_string())
    path = written(tmp_path, 'together = [["b", "c"], [0, 3, "d"]]\napart = ["c", 1]')
    assert read_corrections(path, ids, 5) == Corrections(((1, 2), (0, 3, 4)), (2, 1))
    assert read_corrections(written(tmp_path, "apart = [2]"), None, 5) == Corrections((), (2,))
    assert read_corrections(written(tmp_path, ""), None, 5) == Corrections()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('together = [["a", "b"]]', "names 'a', which rows 0 and 3 share; give the row number"),
        ('apart = ["x", "b", "y"]', "2 of 3 ids are not in the base, such as 'x'"),
        ("apart = [5]", "there is no row 5; the base has rows 0 to 4"),
        ("apart = [-1]", "there is no row -1"),
        ('together = ["b", "c"]', "is not understood; give together ="),
        ("apart = [1.5]", "1.5 is not understood"),
        ("apart = [true]", "True is not understood"),
        ('split = ["b"]', "'split' is not understood"),
        ("together", "is no TOML"),
    ],
)
def test_corrections_that_do_not_fit(tmp_path, text, words):
    ids = pa.array(["a", "b", "c", "a", "d"], pa.large_string())
    with pytest.raises(ConfigError, match=words):
        read_corrections(written(tmp_path, text), ids, 5)


def test_corrections_of_one_row_or_without_ids(tmp_path):
    with pytest.raises(CollationError, match="name at least two different ones"):
        read_corrections(written(tmp_path, "together = [[1, 1]]"), None, 5)
    with pytest.raises(ConfigError, match="names 'a', the base has no ids; give row numbers"):
        read_corrections(written(tmp_path, 'apart = ["a"]'), None, 5)


# --- orders ---------------------------------------------------------------------------------------


@pytest.fixture
def sources():
    planes = np.zeros((3, 2, 4, 4), np.uint64)
    planes[0, 0, 1, 1:3], planes[1, 0, 0], planes[:, 1, 2, 2] = 1, 3, 2
    neuron, distance = np.array([0, 1, 2, 1, -1]), np.array([4.0, 3, 1, 2, np.nan], np.float32)
    return Sources(neuron, distance, np.array([True, True, True, True, False]), planes, LABELS)


def no_table(columns):
    raise AssertionError(f"{columns} are not needed")


def test_orders_of_neurons_and_distances(sources):
    def order(sort):
        rank = ranks(sort, sources, no_table)
        return np.argsort(np.where(rank < 0, 99, rank), kind="stable")[: (rank >= 0).sum()].tolist()

    assert order("best_matching_first") == [2, 3, 1, 0]
    assert order("largest_first") == [3, 1, 0, 2]
    assert order("largest_first:within=row") == [1, 3, 0, 2]
    assert order("largest_first:channel=1") == [0, 3, 1, 2]
    assert order("area_ratio") == [3, 1, 0, 2]
    assert order("area_ratio:include=IR Host") == [3, 1, 0, 2]
    assert sorted(order("random:3")) == [0, 1, 2, 3]


def test_orders_of_columns(sources):
    table = pd.DataFrame(
        {
            "flux": [2.0, np.nan, 5.0, 1.0, 9.0],
            "n": pd.array([3, 1, None, 2, 0], "Int32"),
            "small": np.array([1, 0, 200, 3, 7], np.uint8),
            "good": [True, False, True, False, True],
            "odd name": np.arange(5),
            "text": list("abcde"),
        },
        index=np.arange(10, 15),
    )

    def rank(sort):
        assert set(sort_columns(sort)) <= set(table.columns)
        return ranks(sort, sources, lambda columns: table[columns]).tolist()

    assert rank("flux") == [1, 3, 2, 0, -1]
    assert rank("-flux") == [1, 3, 0, 2, -1]
    assert rank("n") == [2, 0, 3, 1, -1]
    assert rank("-small") == [2, 3, 0, 1, -1]
    assert rank("-good") == [0, 2, 1, 3, -1]
    assert rank("-(`odd name` * 2)") == [3, 2, 1, 0, -1]
    assert rank("flux > 1.5") == [2, 0, 3, 1, -1]
    for sort, words in (
        ("-text", "column 'text' holds .*an order needs numbers"),
        ("peak", "no column 'peak'"),
        ("flux.max()", "which is not evaluated"),
        ("7", "names no column"),
        ("-flux )", "is no expression"),
    ):
        with pytest.raises(CatalogueError, match=words):
            ranks(sort, sources, lambda columns: table)


@pytest.mark.parametrize(
    ("sort", "words"),
    [
        ("random:x", "the seed is a whole number from 0, as in random:7"),
        ("best_matching_first:within=row", "is no option of best_matching_first; its options are none"),
        ("largest_first:chanel=1", "'chanel=1' is no option of largest_first; its options are channel=, within="),
        ("largest_first:channel=2", r"looks at channel 2 \(channel=\), the masks have the channels 0 to 1"),
        ("largest_first:within=flux", "sources of one neuron go by distance or row"),
        ("area_ratio:include=Lobe", "there is no label 'Lobe'; the masks carry"),
    ],
)
def test_orders_with_options_they_have_not(sources, sort, words):
    with pytest.raises(ConfigError, match=words):
        ranks(sort, sources, no_table)


# --- how far masks reach --------------------------------------------------------------------------


def test_masks_reach_as_far_as_the_corner_of_their_furthest_pixel():
    planes = np.zeros((2, 1, 5, 5), np.uint64)
    assert reach_arcsec(planes, (1.0, 1.0)) == 0
    planes[0, 0, 2, 2] = 1
    assert reach_arcsec(planes, (2.0, 2.0)) == pytest.approx(2 * np.hypot(0.5, 0.5))
    planes[1, 0, 4, 2] = 4
    assert reach_arcsec(planes, (1.0, 3.0)) == pytest.approx(3 * np.hypot(2.5, 0.5))
    planes[1, 0, 0, 2] = 4  # which also holds what lies a pixel before it
    assert reach_arcsec(planes, (1.0, 1.0)) == pytest.approx(np.hypot(3.5, 0.5))


# --- catalogues -----------------------------------------------------------------------------------


def table_of(rows=7):
    return pd.DataFrame(
        {
            "Name": [f"J{row:03d}" for row in range(rows)],
            "RAJ2000": np.linspace(359, 360, rows),
            "DEJ2000": np.linspace(-1, 1, rows),
            "flux": np.arange(rows) * 1.5,
        }
    )


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.fits", "a.vot"])
def test_catalogues_of_every_format_are_read_alike_in_parts(tmp_path, name):
    table, path = table_of(), tmp_path / name
    if name == "a.csv.gz":
        path.write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    elif name.endswith("parquet"):
        table.to_parquet(path, row_group_size=3)
    elif name.endswith("csv"):
        table.to_csv(path, index=False)
    else:
        Table.from_pandas(table).write(path, format="votable" if name.endswith("vot") else "fits")
    file = open_catalogue(CatalogueChoice(path))
    assert (file.ra_column, file.dec_column, file.id_column, file.rows) == ("RAJ2000", "DEJ2000", "Name", 7)
    assert file.columns() == list(table.columns)
    blocks = list(file.blocks(file.needed, 3))
    assert [first for first, _ in blocks] == list(np.cumsum([0, *(len(block) for _, block in blocks[:-1])]))
    assert max(len(block) for _, block in blocks) <= 3
    for first, block in blocks:
        assert block.index[0] == first
        assert file.ids(block, first).tolist() == table["Name"][first : first + len(block)].tolist()
    whole = file.read()
    assert np.allclose(whole["flux"], table["flux"])
    ra, dec = checked_positions(file, whole)
    assert np.allclose(ra, table["RAJ2000"])
    assert np.allclose(dec, table["DEJ2000"])


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_rows_are_chosen_by_position(tmp_path, name):
    table = table_of(50)
    (table.to_parquet if name.endswith("parquet") else table.to_csv)(tmp_path / name, index=False)
    file = open_catalogue(CatalogueChoice(tmp_path / name))
    found = file.selected(["flux"], lambda ra, dec: np.flatnonzero(np.abs(dec) < 0.1))
    expected = table[table["DEJ2000"].abs() < 0.1]
    assert len(expected) > 2
    assert found.index.tolist() == expected.index.tolist()
    assert found["flux"].tolist() == expected["flux"].tolist()
    assert list(found.columns) == ["flux"]


def test_a_catalogue_without_names_has_row_numbers(tmp_path):
    table_of().drop(columns="Name").to_csv(tmp_path / "a.csv", index=False)
    file = open_catalogue(CatalogueChoice(tmp_path / "a.csv"))
    assert file.id_column == ROW_NUMBER
    assert file.ids(file.read(file.needed)[2:4], 2).tolist() == ["2", "3"]


@pytest.mark.parametrize(
    "values",
    [
        ["b ", "a", "", None, "b", "row-2"],
        pd.array([3, 1, None, 3, 4, 5], "Int64"),
        [1.0, 2.0, None, 1.0, 3.0, 3.0],
        [0.5, 2.0, None, 1.0, 0.5, 3.0],
        [7, 7, 1, 1, 0, 7],
    ],
)
def test_ids_are_those_of_ingest_and_repeated_ones_are_found(tmp_path, values):
    table = pd.DataFrame({"source_id": values, "ra": 1.0, "dec": 2.0})
    table.to_parquet(tmp_path / "a.parquet")
    file = open_catalogue(CatalogueChoice(tmp_path / "a.parquet"))
    found = file.read(file.needed)
    texts = file.id_texts(found)
    assert texts.to_pylist() == source_ids(read_catalogue(tmp_path / "a.parquet"))[0].tolist()
    assert texts.to_pylist() == file.ids(found, 0).tolist()
    assert repeated(texts).tolist() == duplicate_rows(texts.to_pylist()).tolist()


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.csv"
    table_of().to_csv(path, index=False)
    before = fingerprint(path)
    assert open_catalogue(CatalogueChoice(path)).rows == 7
    table_of(9).to_csv(path, index=False)
    assert open_catalogue(CatalogueChoice(path)).rows == 9
    assert fingerprint(path) != before


def test_positions_of_other_catalogues_are_checked_in_parts(tmp_path, capsys):
    table = table_of(40)
    table.loc[[3, 30], "DEJ2000"] = [np.nan, 91.0]
    table.to_parquet(tmp_path / "a.parquet")
    check_positions(open_catalogue(CatalogueChoice(tmp_path / "a.parquet")))
    said = capsys.readouterr().err
    assert "2 of 40 rows of a.parquet have no position (1 of them are off the sky, such as row 30: RAJ2000 " in said
    table["RAJ2000"] = table["RAJ2000"] * 3600
    table.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"40 of 40 rows have no position in degrees, .* such as row 0: RAJ2000"):
        check_positions(open_catalogue(CatalogueChoice(tmp_path / "b.parquet")))


def test_catalogues_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file; give a CSV, FITS, VOTable or Parquet file"):
        open_catalogue(CatalogueChoice(tmp_path))
    written(tmp_path, "not a table", "a.parquet")
    with pytest.raises(CatalogueError, match=r"a\.parquet cannot be read"):
        open_catalogue(CatalogueChoice(tmp_path / "a.parquet"))
    columns = [fits.Column(name, "D", unit="arcsec", array=np.arange(3.0)) for name in ("ra", "dec")]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    file = open_catalogue(CatalogueChoice(tmp_path / "a.fits"))
    with pytest.raises(CatalogueError, match="'ra' is in 'arcsec', degrees are needed"):
        check_positions(file)
    written(tmp_path, "ra,dec\n12h30m,+10d\n", "b.csv")
    with pytest.raises(CatalogueError, match="'ra' is sexagesimal"):
        check_positions(open_catalogue(CatalogueChoice(tmp_path / "b.csv")))
