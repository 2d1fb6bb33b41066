"""Results joined to the original catalogue: every row and column stays, values and types are those of the results."""

import importlib.util
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skysom.jobs.cli import main
from skysom.jobs.errors import ConfigError
from skysom.jobs.joins import results as module
from skysom.jobs.joins.results import ResultsJoin, join_results
from skysom.storage import table_stream
from skysom.storage.errors import CatalogueError

_spec = importlib.util.spec_from_file_location(
    "collation_survey", Path(__file__).parents[1] / "collation" / "collation_survey.py"
)
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A survey that was run, with bad cut-outs and a source that is there twice; and its original catalogue."""
    files, folder = sys.modules["survey_files"], tmp_path_factory.mktemp("ran")
    good, bad = files.write_cutouts(folder, 60), files.write_bad_cutouts(folder)
    table = pd.concat([good.iloc[:30], bad, good.iloc[30:], good.iloc[[3]]], ignore_index=True)
    table["expected"] = table["expected"].fillna("ok")
    table.loc[len(table) - 1, "expected"] = "duplicate_id"
    table.to_csv(folder / "sources.csv", index=False)
    arguments = ["--images", folder, "--catalogue", folder / "sources.csv", "--output", folder / "out", *files.TINY]
    assert main(["run", *map(str, arguments), "--preset", "quick", "--executor", "local"]) == 0
    return folder / "out", folder / "sources.csv", table


def test_results_of_a_survey_go_to_its_catalogue(ran, tmp_path):
    results, catalogue, original = ran
    with pytest.raises(ConfigError, match=r"1 ids are there more than once, such as 'source0003'.*--duplicates mark"):
        join_results(results, catalogue, tmp_path / "a.parquet")
    found = join_results(results, catalogue, tmp_path / "a.parquet", ResultsJoin(duplicates="mark"))
    joined, ours = pq.read_table(tmp_path / "a.parquet"), pq.read_table(results / "catalogue.parquet")
    table = joined.to_pandas()
    assert found.rows == found.matched == len(table) == len(original)
    assert found.unused == 0
    assert found.duplicates == 1
    pd.testing.assert_frame_equal(table[list(original.columns)], original, check_dtype=False)
    for name in ("status", "bmu", "bmu_distance", "angle_deg", "flip"):
        assert joined[name].to_pylist() == ours[name].to_pylist()  # row by row, the second of the doubled ids too
    assert table["status"].tolist() == original["expected"].tolist()
    assert table.loc[table["status"] != "ok", "bmu"].isna().all()
    assert table["duplicate_id"].sum() == 2
    assert pa.types.is_integer(joined.schema.field("bmu").type)


def test_a_larger_catalogue_in_another_order_keeps_its_rows(ran, tmp_path):
    results, _, original = ran
    more = pd.DataFrame({"name": ["elsewhere", None], "flux": [1.0, 2.0]})
    shuffled = pd.concat([original.drop_duplicates("name"), more]).sample(frac=1, random_state=1)
    shuffled["status"] = "mine"
    shuffled.to_csv(tmp_path / "more.csv", index=False)
    settings_ = ResultsJoin("name", ["status", "bmu"])
    with pytest.raises(ConfigError, match="more than once"):
        join_results(results, tmp_path / "more.csv", tmp_path / "a.csv", settings_)
    found = join_results(
        results, tmp_path / "more.csv", tmp_path / "a.csv", ResultsJoin("name", ["status", "bmu"], (), "mark")
    )
    assert (found.rows, found.matched, found.unused) == (len(shuffled), len(shuffled) - 2, 1)
    assert found.renamed == {"status": "status_skysom"}
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["name"].fillna("").tolist() == shuffled["name"].fillna("").tolist()
    alone = table["name"].isna() | (table["name"] == "elsewhere")
    assert table.loc[alone, "status_skysom"].isna().all()
    ours = pd.read_parquet(results / "catalogue.parquet").drop_duplicates("source_id").set_index("source_id")
    expected = ours.loc[table.loc[~alone, "name"], "status"]
    assert table.loc[~alone, "status_skysom"].tolist() == expected.tolist()


def test_components_of_a_collation_go_to_the_published_catalogue(tmp_path):
    output = made.make_survey(tmp_path / "survey")
    made.annotate(output)
    arguments = [output.root, "--output", tmp_path / "groups", "--dask", "threads", "--threads", "1"]
    assert main(["collate", *map(str, arguments)]) == 0
    published = pd.read_parquet(output.catalogue).rename(columns={"source_id": "Component_name"})
    published = published[["Component_name", "ra", "dec"]].iloc[::-1]
    published.loc[len(published)] = ["new", 1.0, 2.0]
    published.to_parquet(tmp_path / "published.parquet", index=False)
    settings_ = ResultsJoin("Component_name", source_columns=("members", "ra_deg"))
    found = join_results(tmp_path / "groups", tmp_path / "published.parquet", tmp_path / "a.parquet", settings_)
    assert (found.rows, found.matched, found.unused) == (61, 60, 0)
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table["Component_name"].tolist() == published["Component_name"].tolist()
    numbers = table["Component_name"].str.removeprefix("s").iloc[:60].astype(int)
    assert table["source"].iloc[:60].tolist() == (numbers // 2).tolist()
    assert [list(one) for one in table["members"].iloc[:60]] == [[n // 2 * 2, n // 2 * 2 + 1] for n in numbers]
    assert table.loc[60, ["source", "source_name", "members", "ra_deg"]].isna().all()
    assert pq.read_schema(tmp_path / "a.parquet").field("source").type == pa.int64()
    with pytest.raises(ConfigError, match="--source-column"):
        join_results(output.root, tmp_path / "published.parquet", tmp_path / "b.parquet", settings_)


def test_ids_that_are_no_text_and_none_at_all(tmp_path):
    pd.DataFrame({"source_id": ["7", "10", "row-2"], "x": [1, 2, 3]}).to_parquet(tmp_path / "results.parquet")
    pd.DataFrame({"object": pd.array([10, 7, None], dtype="Int64")}).to_parquet(tmp_path / "cat.parquet")
    join_results(tmp_path / "results.parquet", tmp_path / "cat.parquet", tmp_path / "a.parquet", ResultsJoin("object"))
    assert pq.read_table(tmp_path / "a.parquet")["x"].to_pylist() == [2, 1, 3]
    pd.DataFrame({"source_id": ["0", "2"], "x": [1, 2]}).to_parquet(tmp_path / "numbers.parquet")
    join_results(tmp_path / "numbers.parquet", tmp_path / "cat.parquet", tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet")["x"].to_pylist() == [1, None, 2]


def test_rows_without_an_id_are_not_joined_to_each_other(tmp_path):
    (tmp_path / "results.csv").write_text("name,v\na,1\n,2\nrow-3,4\n")
    (tmp_path / "cat.csv").write_text("name,ra\na,1\n,2\nb,3\n ,4\n")
    sides = tmp_path / "results.csv", tmp_path / "cat.csv"
    found = join_results(*sides, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["v"].to_pylist() == [1, None, None, 4]  # an id that says row-3
    assert (found.matched, found.unused, found.no_id) == (2, 0, 1)
    assert "; 1 results have no id, and so are of no row" in str(found)
    numbers = pd.DataFrame({"source_id": [None, 7.0, None], "v": [1, 2, 3]})
    numbers.to_parquet(tmp_path / "numbers.parquet")
    numbers[["source_id"]].to_parquet(tmp_path / "cat.parquet")
    found = join_results(tmp_path / "numbers.parquet", tmp_path / "cat.parquet", tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet")["v"].to_pylist() == [None, 2, None]
    assert found.no_id == 2
    numbers.assign(source_id=np.nan).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ConfigError, match=r"none of the 3 results in .*none.parquet has an id"):
        join_results(tmp_path / "none.parquet", tmp_path / "cat.parquet", tmp_path / "c.parquet")


def test_a_mark_that_results_have_already_gets_a_name_of_its_own(tmp_path, capsys):
    results = pd.DataFrame({"source_id": ["a", "a"], "x": [1, 2], "duplicate_id": ["mine", "too"]})
    results.to_parquet(tmp_path / "results.parquet")
    catalogue = pd.DataFrame({"id": ["b", "a", "a"]})
    catalogue.to_parquet(tmp_path / "cat.parquet")
    settings_ = ResultsJoin("id", duplicates="mark")
    found = join_results(tmp_path / "results.parquet", tmp_path / "cat.parquet", tmp_path / "a.parquet", settings_)
    expected = {"id": ["b", "a", "a"], "x": [None, 1, 2], "duplicate_id_skysom": [None, "mine", "too"]}
    assert pq.read_table(tmp_path / "a.parquet").to_pydict() == expected | {"duplicate_id": [False, True, True]}
    assert found.renamed == {"duplicate_id": "duplicate_id_skysom"}
    assert str(found).endswith("1 ids are there more than once (duplicate_id)")
    catalogue.assign(duplicate_id=[5, 6, 7]).to_parquet(tmp_path / "cat.parquet")
    found = join_results(tmp_path / "results.parquet", tmp_path / "cat.parquet", tmp_path / "b.parquet", settings_)
    names = ["id", "duplicate_id", "x", "duplicate_id_skysom_skysom", "duplicate_id_skysom"]
    assert pq.read_schema(tmp_path / "b.parquet").names == names
    assert str(found).endswith("1 ids are there more than once (duplicate_id_skysom)")
    assert "duplicate_id of this join -> duplicate_id_skysom" in capsys.readouterr().err


def test_only_rows_that_are_selected_are_written(tmp_path, capsys):
    pd.DataFrame({"source_id": ["a", "b", "c"], "x": [1, 2, 3]}).to_parquet(tmp_path / "results.parquet")
    pd.DataFrame({"id": ["c", "d", "a", "b"], "flux": [1.0, 2, 3, 4]}).to_parquet(tmp_path / "cat.parquet")
    sides = tmp_path / "results.parquet", tmp_path / "cat.parquet"
    found = join_results(*sides, tmp_path / "a.parquet", ResultsJoin("id", where="x < 3 and flux > 3.5"))
    assert (found.rows, found.matched, found.unused, found.written) == (4, 3, 0, 1)
    assert str(found).endswith("; 1 rows were selected and written")
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [{"id": "b", "flux": 4.0, "x": 2}]
    with pytest.raises(CatalogueError, match="y"):
        join_results(*sides, tmp_path / "b.parquet", ResultsJoin("id", where="y < 3"))
    arguments = ["join", "results", *sides[:1], "-c", sides[1], "-o", tmp_path / "c.parquet", "--id", "id"]
    assert main([*map(str, arguments), "--where", "x == 3"]) == 0
    assert pq.read_table(tmp_path / "c.parquet")["id"].to_pylist() == ["c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.parquet",
        "c.parquet",
        "cat.parquet",
        "results.parquet",
    ]


def test_units_stay_and_columns_that_are_left_out_are_said(tmp_path, capsys):
    unit = {"unit": "mJy"}
    schema = pa.schema([("source_id", pa.string()), pa.field("sum", pa.float64(), metadata=unit)])
    pq.write_table(pa.table({"source_id": ["a"], "sum": [2.0]}, schema=schema), tmp_path / "results.parquet")
    table = Table({"id": ["a"], "beam": [[1.0, 2.0]], "peak": [3.0] * u.mJy})
    table.write(tmp_path / "cat.fits")
    join_results(tmp_path / "results.parquet", tmp_path / "cat.fits", tmp_path / "a.fits", ResultsJoin("id"))
    assert "cat.fits: columns of arrays, structures or complex numbers are left out: beam" in capsys.readouterr().err
    found = Table.read(tmp_path / "a.fits")
    assert {name: str(found[name].unit) for name in ("peak", "sum")} == {"peak": "mJy", "sum": "mJy"}


def test_ids_that_are_fractions_are_read_alike_in_every_part(tmp_path, monkeypatch):
    """In parts of two rows: where all of these are whole they are no integers, as one in another part is not."""
    monkeypatch.setattr(table_stream.TableStream.parts, "__defaults__", (None, 2))
    ids = {"whole": [1.0, 2, 3, 4], "mixed": [1.0, 2, 3.5, 4]}
    expected = {"whole": [0, 1, 2, 3], "mixed": [4, 5, 6, 7]}
    texts = ["1", "2", "3", "4", "1.0", "2.0", "3.5", "4.0"]
    pd.DataFrame({"source_id": texts, "x": range(8)}).to_parquet(tmp_path / "results.parquet")
    pd.DataFrame(ids).to_parquet(tmp_path / "cat.parquet")
    for name in ids:
        target = tmp_path / f"{name}.parquet"
        join_results(tmp_path / "results.parquet", tmp_path / "cat.parquet", target, ResultsJoin(name))
        assert pq.read_table(target)["x"].to_pylist() == expected[name]


@given(
    results=st.lists(st.integers(0, 8), min_size=1, max_size=20),
    rows=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    part=st.integers(1, 9),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_kth_row_of_an_id_gets_its_kth_result(tmp_path_factory, monkeypatch, results, rows, part):
    folder = tmp_path_factory.mktemp("rows")
    pd.DataFrame({"source_id": map(str, results), "x": range(len(results))}).to_parquet(folder / "r.parquet")
    pd.DataFrame({"id": map(str, rows)}).to_parquet(folder / "c.parquet", row_group_size=part)
    monkeypatch.setattr(module, "HASHED_IDS", part)
    expected, seen = [], {}
    for row in rows:
        of = [n for n, one in enumerate(results) if one == row]
        k = seen[row] = seen.get(row, -1) + 1
        expected.append(of[k] if k < len(of) else None)
    chosen = ResultsJoin("id", duplicates="mark")
    if not set(rows) & set(results):
        with pytest.raises(ConfigError, match="no row of"):
            join_results(folder / "r.parquet", folder / "c.parquet", folder / "a.parquet", chosen)
        return
    found = join_results(folder / "r.parquet", folder / "c.parquet", folder / "a.parquet", chosen)
    table = pq.read_table(folder / "a.parquet")
    assert table["x"].to_pylist() == expected
    assert found.matched == len([one for one in expected if one is not None])
    assert found.unused == len(results) - found.matched
    doubled = {row for row in rows if row in results and (rows.count(row) > 1 or results.count(row) > 1)}
    if doubled:
        assert table["duplicate_id"].to_pylist() == [row in doubled for row in rows]
    else:
        assert "duplicate_id" not in table.column_names


def test_hats_and_refusals(tmp_path):
    pd.DataFrame({"source_id": ["a"], "x": [1]}).to_parquet(tmp_path / "results.parquet")
    frame = pd.DataFrame({"id": ["a", "b"], "ra": [1.0, np.nan], "dec": [2.0, 3.0]})
    frame.to_csv(tmp_path / "cat.csv", index=False)
    sides = tmp_path / "results.parquet", tmp_path / "cat.csv"
    join_results(*sides, tmp_path / "hats", ResultsJoin("id"))
    from skysom.storage.table_stream import open_table

    assert sorted(open_table(tmp_path / "hats").table()["id"].to_pylist()) == ["a", "b"]
    with pytest.raises(ConfigError, match="name that of the ids with --id"):
        join_results(sides[0], tmp_path / "hats", tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="--id"):
        join_results(*sides, tmp_path / "a.parquet", ResultsJoin("nothing"))
    with pytest.raises(
        ConfigError, match="has an id of the results, such as 'a'; the catalogue has '0' in 'row number'"
    ):
        join_results(*sides, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="holds no results"):
        join_results(tmp_path, sides[1], tmp_path / "a.parquet")
    with pytest.raises(CatalogueError, match="no catalogue"):
        join_results(sides[0], tmp_path / "nothing.csv", tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="--column"):
        join_results(*sides, tmp_path / "a.parquet", ResultsJoin("id", ["y"]))
    assert not (tmp_path / "a.parquet").exists()
