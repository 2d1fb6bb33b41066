"""`skysom collate` on an output: what it writes, resuming, corrections, and refusals in one sentence."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from skysom.jobs.annotate import annotations_folder
from skysom.jobs.cli import main

_spec = importlib.util.spec_from_file_location("collation_survey", Path(__file__).with_name("collation_survey.py"))
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

QUIET = ["--dask", "threads", "--threads", "1"]


@pytest.fixture
def output(tmp_path):
    found = made.make_survey(tmp_path / "survey")
    made.annotate(found)
    return found


def collate(*arguments):
    return main(["collate", *(str(argument) for argument in arguments), *QUIET])


def members(folder):
    return pq.read_table(folder / "sources.parquet")["members"].to_pylist()


def test_sources_of_an_output(output, capsys):
    """Components of a pair are 10 arcsec apart, under the LINK mask of each other whatever their turns."""
    assert collate(output.root) == 0
    folder = output.root / "collation"
    assert members(folder) == [[row, row + 1] for row in range(0, 60, 2)]
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "30 sources of 60 components: 30 of several, the largest of 2; 30 with 'IR Host'",
        f"sources: {folder}/sources.parquet",
    ]
    assert "59 of 60 components use a mask (1 not_mapped)" in said.err
    sources = pd.read_parquet(folder / "sources.parquet")
    # The smaller disc of the second label holds the source itself and its neighbour, of the base.
    assert sources["ir_host_rows"].map(sorted).tolist() == members(folder)
    components = pd.read_parquet(folder / "components.parquet")
    table = pd.read_parquet(output.catalogue)
    joined = table.merge(components, left_on="source_id", right_on="id", how="left", validate="1:1")
    assert np.array_equal(joined["source"], np.arange(60) // 2)
    assert collate(output.root) == 0
    assert "holds this collation already" in capsys.readouterr().err


def test_a_larger_base_hosts_flux_and_redshift(output, tmp_path, capsys):
    table = pd.read_parquet(output.catalogue).assign(z=0.1)
    table["z"] = table["z"].where(table.index % 4 > 0)
    more = pd.DataFrame({"source_id": ["far", "near"], "ra": [90.0, table["ra"][0]], "dec": [0.0, table["dec"][0]]})
    base = tmp_path / "base.csv"
    pd.concat([more, table], ignore_index=True).to_csv(base, index=False)
    actions = tmp_path / "actions.toml"
    actions.write_text('"Related Radio" = "LINK"\n"IR Host" = "FLAG"')
    arguments = [output.root, "-c", base, "--actions", actions, "--flux", "flux", "--redshift", "z"]
    assert collate(*arguments, "--output", tmp_path / "out", "--sort", "-flux") == 0
    found = pd.read_parquet(tmp_path / "out" / "sources.parquet")
    assert members(tmp_path / "out")[:3] == [[0], [1, 2, 3], [4, 5]]
    assert found["member_ids"].map(list).tolist()[:2] == [["far"], ["near", "s0", "s1"]]
    assert np.allclose(found["flux_sum"][2:], table["flux"].to_numpy().reshape(-1, 2).sum(axis=1)[1:])
    assert np.isfinite(found["size_kpc"]).any()
    assert found["status"][0] == "not_mapped"
    summary = json.loads((tmp_path / "out" / "collation.json").read_text())
    assert summary["status"] == {"ok": 59, "not_mapped": 3}
    assert summary["origin"]["sort"] == "-flux"
    assert collate(*arguments, "--output", tmp_path / "out") == 1
    assert "holds a collation of another configuration" in capsys.readouterr().err
    assert collate(*arguments, "--output", tmp_path / "out", "--redo") == 0


def test_corrections_change_only_what_they_name(output, tmp_path, capsys):
    folder, corrections = output.root / "collation", tmp_path / "corrections.toml"
    assert collate(output.root) == 0
    corrections.write_text('together = [["s0", "s2"]]\napart = ["s7"]')
    capsys.readouterr()
    assert collate(output.root, "--corrections", corrections) == 0
    assert "corrections: 1 apart, 1 together; 2 islands grouped again" in capsys.readouterr().err
    assert members(folder)[:4] == [[0, 1, 2, 3], [4, 5], [6], [7]]
    assert members(folder)[4:] == [[row, row + 1] for row in range(8, 60, 2)]
    assert json.loads((folder / "collation.json").read_text())["grouped"]["rows"] == 6
    assert collate(output.root) == 0
    taken_back = "WARNING: the corrections this collation held are taken back (give --corrections again to keep them)"
    assert taken_back in capsys.readouterr().err
    assert members(folder) == [[row, row + 1] for row in range(0, 60, 2)]
    assert collate(output.root) == 0
    assert "taken back" not in capsys.readouterr().err
    assert collate(output.root, "--corrections", corrections, "--redo") == 0
    assert "corrections: 1 apart, 1 together\n" in capsys.readouterr().err
    assert collate(output.root, "--redo") == 0
    assert taken_back in capsys.readouterr().err


def test_columns_of_each_catalogue_in_their_order(output, tmp_path):
    table = pd.read_parquet(output.catalogue)
    table.rename(columns={"ra": "alpha", "source_id": "who"}).to_csv(tmp_path / "base.csv", index=False)
    arguments = [output.root, "-c", tmp_path / "base.csv", "--id-column", "who", "--output", tmp_path / "out"]
    assert collate(*arguments, "--ra-column", "alpha") == 0
    assert members(tmp_path / "out") == [[row, row + 1] for row in range(0, 60, 2)]
    components = pd.read_parquet(tmp_path / "out" / "components.parquet")
    assert components["id"].tolist() == table["source_id"].tolist()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to collate: give OUTPUT, a mapped survey, or files of pyink with --som, --map, --transform"),
        (["--annotations", "a.pkl"], "nothing to collate"),
        (["--som", "a.bin"], "--map, --transform, --annotations missing; files of pyink need --som"),
        (["OUTPUT", "--som", "a.bin"], "--som is for files of pyink, in place of OUTPUT"),
        (["--som", "a", "--map", "b", "--transform", "c", "--annotations", "d", "--som-name", "x"], "chooses a map of"),
        (["OUTPUT", "--pixel-scale", "1.5arcsec"], "--pixel-scale '1.5arcsec' is no number of arcsec, nor two (X,Y)"),
        (["OUTPUT", "--pixel-scale", "1,2,3"], "nor two (X,Y)"),
        (["OUTPUT", "--ra-column", "ra"], "--ra-column 'ra' is of a catalogue; name it with --catalogue"),
        (
            ["OUTPUT", "-c", "a.csv", "--id-column", "a", "--id-column", "b"],
            "--id-column is given 2 times, --catalogue 1",
        ),
        (["OUTPUT", "-c", "nowhere.csv"], "--catalogue nowhere.csv: there is no such file"),
        (["OUTPUT", "--output", "memory://x"], "would be gone when this command ends"),
        (["OUTPUT", "--memory-gb", "0.001"], "of memory is projected"),
        (["OUTPUT", "--memory-gb", "nan"], "nan GB of memory is allowed (--memory-gb); give a number above 0"),
        (["OUTPUT", "--memory-gb", "-3"], "-3 GB of memory is allowed"),
        (["OUTPUT", "--memory-gb", "0"], "0 GB of memory is allowed"),
        (["OUTPUT", "--flux", "flux", "--flux", "flux"], "--flux flux is given 2 times; give it once"),
        (["OUTPUT", "--som-name", "other"], "run `skysom map --som-name other` first"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_collated_is_said_in_a_sentence(output, capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert collate(*(str(output.root) if argument == "OUTPUT" else argument for argument in arguments)) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (output.root / "collation" / "sources.parquet").exists()


def test_the_help_teaches(capsys):
    assert main(["collate", "--help"]) == 0
    said = capsys.readouterr().out
    assert said.count("-c components.parquet") == 2  # of a map of two channels both commands need both catalogues
    assert said.count("-c infrared.parquet") == 2
    for word in ("LINK", "DATA_ATTACH", "--dry-run", "--separation-limit", "som.bin.results.pkl", "actions.toml"):
        assert word in said


def test_annotations_of_another_output(output, tmp_path, capsys):
    other = made.make_survey(tmp_path / "other", seed=5)
    made.annotate(other)
    assert collate(output.root, "--annotations", annotations_folder(other)) == 1
    assert "the mapping was made with" in capsys.readouterr().err
