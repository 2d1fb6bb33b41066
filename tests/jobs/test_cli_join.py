"""`skysom join` on the command line: what it writes, says and refuses."""

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from skysom.jobs.cli_join import join_app
from skysom.jobs.errors import SkysomErrors


@pytest.fixture
def files(tmp_path):
    left = pd.DataFrame({"source_id": ["a", "b", "c"], "RA": [10.0, 20.0, None], "Dec": [0.0, 0.0, 0.0]})
    right = pd.DataFrame({"designation": ["x", "y"], "RAJ2000": [10.0, 10.0], "DEJ2000": [1 / 3600, -2 / 3600]})
    left.to_csv(tmp_path / "left.csv", index=False)
    right.to_csv(tmp_path / "right.csv", index=False)
    return tmp_path


def run(*arguments, code=0):
    found = CliRunner().invoke(join_app, [str(argument) for argument in arguments])
    if found.exception and not isinstance(found.exception, (SystemExit, *SkysomErrors)):
        raise found.exception
    assert (found.exit_code == 0) == (code == 0), found.output
    return found


@pytest.mark.parametrize("command", ["results", "sky", "counts", "hats"])
def test_help_teaches(command):
    text = run(command, "--help").output
    assert "Example: skysom join" in " ".join(text.replace("│", " ").split())


def test_sky_counts_hats_and_results(files):
    sides = files / "left.csv", files / "right.csv"
    said = run("sky", *sides, "--radius", 5, "-o", files / "a.parquet").output
    assert (
        "1 of 3 left rows matched (1 pairs), with astropy; 3 rows written; without a position: 1 left, 0 right" in said
    )
    assert pq.read_table(files / "a.parquet")["designation"].to_pylist() == ["x", None, None]
    run("sky", *sides, "--radius", 5, "-o", files / "b.csv", "--all", "--inner", "--right-column", "designation")
    table = pd.read_csv(files / "b.csv")
    assert table.columns.tolist() == ["source_id", "RA", "Dec", "designation", "separation_arcsec", "rank"]
    assert table["separation_arcsec"].round(6).tolist() == [1, 2]
    said = run("counts", *sides, "--radius", 1.5, "--radius", 5, "-o", files / "c.parquet").output
    assert "1 rows have a neighbour within 5 arcsec" in said
    assert pq.read_table(files / "c.parquet")["count_1.5arcsec"].to_pylist() == [1, 0, None]
    said = run("hats", sides[1], files / "right", "--margin", 5).output
    assert "2 rows in 1 partitions" in said
    run("sky", sides[0], files / "right", "--radius", 5, "-o", files / "d.parquet", "--backend", "lsdb", "--one-to-one")
    assert sorted(map(str, pq.read_table(files / "d.parquet")["designation"].to_pylist())) == ["None", "None", "x"]
    arguments = "results", files / "a.parquet", "-c", sides[0], "-o", files / "e.parquet", "--column", "designation"
    assert "3 of 3 rows have results" in run(*arguments).output
    assert pq.read_table(files / "e.parquet")["designation"].to_pylist() == ["x", None, None]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--radius", 5, "--all", "--one-to-one"), "exclude one another"),
        (("--radius", -5), "radius of -5"),
        (("--radius", 5, "--left-ra", "x"), "no column 'x'"),
    ],
)
def test_refusals_are_one_sentence(files, arguments, told):
    found = run("sky", files / "left.csv", files / "right.csv", "-o", files / "a.parquet", *arguments, code=1)
    assert isinstance(found.exception, SkysomErrors)
    assert told in str(found.exception)
