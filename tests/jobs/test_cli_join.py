"""`skysom join` on the command line: what it writes, says and refuses."""

import subprocess
import sys

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
    said = run(*arguments).output
    assert "3 of 3 rows have results" in said
    assert "the others" not in said  # there are none
    assert pq.read_table(files / "e.parquet")["designation"].to_pylist() == ["x", None, None]


def test_one_column_for_both_coordinates_is_refused(files):
    both = "--ra", "RAJ2000", "--dec", "RAJ2000"
    found = run("hats", files / "right.csv", files / "right", *both, code=1)
    assert "name two columns of degrees with --ra and --dec" in str(found.exception)
    run("sky", files / "left.csv", files / "right.csv", "--radius", 5, "-o", files / "a.parquet")
    results = "results", files / "a.parquet", "-c", files / "left.csv", "-o", files / "joined"
    found = run(*results, "--ra", "Dec", "--dec", "Dec", code=1)
    assert "'Dec' would be both" in str(found.exception)
    assert not (files / "right").exists()
    assert not (files / "joined").exists()


def test_a_refusal_ends_the_process_with_status_1(files):
    """Each time: threads of a reader that still run as the interpreter ends would abort it now and then."""
    table = pd.read_csv(files / "right.csv")
    table.assign(RAJ2000="12:29:13.5").to_csv(files / "sexagesimal.csv", index=False)
    arguments = ["sky", files / "left.csv", files / "sexagesimal.csv", "--radius", "5", "-o", files / "a.csv"]
    command = [sys.executable, "-c", "import sys; from skysom.jobs.cli import main; sys.exit(main())", "join"]
    for _ in range(4):
        ended = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert ended.returncode == 1, ended.stderr
        assert ended.stderr.splitlines()[-1].startswith("skysom: column 'RAJ2000' is sexagesimal")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--radius", 5, "--all", "--one-to-one"), "exclude one another"),
        (("--radius", -5), "radius of -5"),
        (("--radius", 5, "--left-ra", "x"), "no column 'x'"),
        (("--radius", 5, "--left-ra", "RA", "--left-dec", "RA"), "'RA' would be both right ascension and declination"),
        (("--radius", 5, "--left-where", "snr > 5"), "no column 'snr' (the selection 'snr > 5'); it has source_id, RA"),
        (("--radius", 5, "--where", "snr > 5"), "it has source_id, RA, Dec, designation, RAJ2000, DEJ2000, sep"),
        (("--radius", 5, "--left-where", "source_id == 5"), "compares column 'source_id' (texts) with 5"),
        (("--radius", 5, "--right-where", "RAJ2000 in ['10']"), "compares column 'RAJ2000' (numbers) with '10'"),
    ],
)
def test_refusals_are_one_sentence(files, arguments, told):
    found = run("sky", files / "left.csv", files / "right.csv", "-o", files / "a.parquet", *arguments, code=1)
    assert isinstance(found.exception, SkysomErrors)
    assert told in str(found.exception)
