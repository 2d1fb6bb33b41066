"""`skysom analyse`: its figures against pyink's and against the definition, its files, what it refuses."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian, Hexagonal
from skysom.engine.reading.labels import neuron_values
from skysom.engine.reading.units import best_units
from skysom.jobs.adopt import adopt
from skysom.jobs.analysis import analyse, plain, read_through
from skysom.jobs.cli_analyse import analyse_command
from skysom.jobs.errors import ConfigError
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.output import Output
from skysom.jobs.pink_convert import import_pink
from skysom.storage.errors import SurveyError
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("mapping_files", Path(__file__).with_name("mapping_files.py"))
mapping_files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mapping_files)

LATTICE = Cartesian(4, 3)
ROWS = 500


def distances(lattice, rows=ROWS):
    """(rows, N) float32: every source near a random neuron, the others farther with their distance on the lattice."""
    rng = np.random.default_rng(3)
    near = rng.integers(0, lattice.size, rows)
    found = (1 + lattice.distances()[near] + 0.3 * rng.random((rows, lattice.size))).astype(np.float32)
    found[[0, 77, 499]] = np.nan
    return found


def with_labels(output, labels, column="kind"):
    table = pd.read_parquet(output.catalogue)
    table[column] = labels
    table.to_parquet(output.catalogue)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    found = mapping_files.make_output(tmp_path_factory.mktemp("analysed") / "out", distances(LATTICE), LATTICE)
    with_labels(found, [("fr1", "fr2", None)[row % 3] for row in range(ROWS)])
    return found


@pytest.fixture(scope="module")
def pyink(shared, tmp_path_factory):
    """pyink's two-channel set as an output in shards of 64, and its arrays."""
    folder = shared("goldens/pyink/map.bin").parent
    output = Output(tmp_path_factory.mktemp("pyink") / "out")
    files = {"images": folder / "images.bin", "som": folder / "som.bin", "mapping": folder / "map.bin"}
    output.private.mkdir(parents=True)
    import_pink(output.survey, **files, rotations=96, shard_images=64)
    adopt(output, "main", som=True, mapping=True)
    arrays = np.load(folder / "mapping.npz")
    with_labels(output, arrays["map_labels_input"])
    return output, arrays


def test_the_figures_are_those_of_pyink(pyink):
    output, arrays = pyink
    found = analyse(output, "main", labels="kind", worst=10)
    table, summary = found.neurons, found.summary
    grid = arrays["bmu_counts"].shape
    assert np.array_equal(table["hits"].to_numpy().reshape(grid), arrays["bmu_counts"])
    assert summary["coherent"] == arrays["coherence"]
    assert [match["row"] for match in summary["worst_matches"]] == arrays["worst_matches_N10"].tolist()
    np.testing.assert_array_equal(
        [np.float32(match["distance"]) for match in summary["worst_matches"]], arrays["worst_matches_N10_ed"]
    )
    for name in "ABC":
        assert np.array_equal(table[f"label_{name}"].to_numpy().reshape(grid), arrays[f"map_labels_{name}"])
    bmu = arrays["bmu"] @ [grid[1], 1]
    assert np.array_equal(found.findings.bmu, bmu)
    assert np.array_equal(found.findings.distance, arrays["bmu_ed"])
    own = pd.Series(arrays["bmu_ed"].astype(float)).groupby(bmu)
    np.testing.assert_allclose(table["median_distance"].dropna(), own.median())
    np.testing.assert_allclose(table["std_distance"].dropna(), own.std(ddof=0))
    excluded = np.flatnonzero(~arrays["bmu_mask"].ravel()).tolist()
    masked = analyse(output, "main", exclude=excluded)
    assert masked.summary["coherent"] == arrays["coherence_masked_intended"]
    assert np.array_equal(masked.findings.bmu, arrays["bmu_masked_intended"] @ [grid[1], 1])
    assert np.array_equal(masked.findings.distance, arrays["bmu_ed_masked_intended"])


def test_the_files_hold_what_was_found(output):
    found = analyse(output, "main", labels="kind", worst=7)
    summary = json.loads((output.root / "analysis.json").read_text())
    assert summary == plain(found.summary)
    assert (summary["rows"], summary["mapped"], summary["not_mapped"]) == (ROWS, ROWS - 3, 3)
    assert summary["map_checked"]
    assert summary["som_sha256"] == Survey(output.survey).load_som_attrs("main")["sha256"]
    assert len(summary["worst_matches"]) == 7
    worst = summary["worst_matches"][0]
    assert worst["source_id"] == f"source {worst['row']}"
    assert worst["dec_deg"] is None
    assert worst["distance"] == np.nanmax(found.findings.distance)
    assert summary["labels"]["classes"] == ["fr1", "fr2"]
    assert sum(summary["labels"]["members"]) + summary["labels"]["mapped_without_label"] == ROWS - 3
    assert summary["labels"]["labelled_without_neuron"] == 2
    assert summary["size"]["verdict"] in ("keep", "larger", "smaller", "mixed")
    csv, parquet = pd.read_csv(output.root / "neurons.csv"), pd.read_parquet(output.root / "neurons.parquet")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    assert csv["neuron"].tolist() == list(range(12))
    assert (csv["row"] * 3 + csv["col"]).tolist() == list(range(12))
    assert csv["edge"].sum() == 10
    assert csv["hits"].sum() == ROWS - 3
    assert set(csv["som_sha256"]) == {summary["som_sha256"]}
    assert np.isfinite(csv["u_matrix"]).all()
    labels = neuron_values(csv, LATTICE, "majority_label", som_sha256=summary["som_sha256"])
    assert set(labels) <= {"fr1", "fr2"}
    assert not list(output.root.glob("*partial*"))


def test_classes_that_are_whole_numbers_stay_whole_where_some_are_missing(output):
    with_labels(output, pd.array([(1, 2, None)[row % 3] for row in range(ROWS)], dtype="Int64"), "number")
    found = analyse(output, "main", labels="number")
    assert found.summary["labels"]["classes"] == ["1", "2"]
    assert {"label_1", "label_2"} <= set(found.neurons.columns)


def test_figures_follow_the_definition_for_a_selection(output):
    found = analyse(output, "main", where="flux >= 100 and flux < 300", worst=5)
    neuron, distance = best_units(distances(LATTICE)[100:300], 2)
    assert found.summary["rows"] == found.summary["mapped"] == 200
    assert found.summary["quantisation_error"] == pytest.approx(distance[:, 0].astype(float).mean())
    assert found.neurons["hits"].tolist() == np.bincount(neuron[:, 0], minlength=12).tolist()
    assert [m["row"] for m in found.summary["worst_matches"]] == (
        100 + np.argsort(-distance[:, 0], kind="stable")[:5]
    ).tolist()
    apart = np.abs(LATTICE.positions()[neuron[:, 0]] - LATTICE.positions()[neuron[:, 1]]).max(axis=1)
    assert found.summary["coherent"] == (apart <= 1).sum()


def test_excluded_neurons_take_no_source_and_what_is_lost_is_counted(tmp_path):
    lattice = Hexagonal(3)
    whole = distances(lattice)
    output = mapping_files.make_output(tmp_path / "out", whole, lattice, keep=2)
    found = analyse(output, "main", exclude=[0, 1, 2])
    stored = best_units(whole, 2)[0]
    lost = (np.isin(stored, [0, 1, 2]).all(axis=1)).sum()
    assert lost > 0
    assert found.summary["lost_to_excluded_neurons"] == lost
    assert found.summary["not_mapped"] == 3
    assert found.summary["mapped"] == ROWS - 3 - lost
    one_left = ((stored >= 0) & ~np.isin(stored, [0, 1, 2])).sum(axis=1) == 1
    assert found.summary["without_second_best"] == one_left.sum()
    assert found.neurons["hits"][:3].tolist() == [0, 0, 0]
    assert found.neurons["excluded"].tolist() == [True] * 3 + [False] * 4
    assert found.summary["empty_neurons"] == []
    some = analyse(output, "main", exclude=[0, 1, 2], where="flux < 100")
    assert some.summary["rows"] == 100
    assert 0 < some.summary["lost_to_excluded_neurons"] < lost


def test_a_mapping_of_one_neuron_an_image_has_no_second_best(tmp_path):
    output = mapping_files.make_output(tmp_path / "out", distances(LATTICE), LATTICE, keep=1, weights=False)
    summary = analyse(output, "main").summary
    assert np.isnan(summary["topographic_error"])
    assert json.loads((output.root / "analysis.json").read_text())["topographic_error"] is None
    assert summary["without_second_best"] == summary["mapped"] == ROWS - 3
    assert not summary["map_checked"]
    assert "u_matrix" not in pd.read_csv(output.root / "neurons.csv")


def test_the_second_best_of_a_certified_search_is_called_approximate(tmp_path, capsys):
    output = mapping_files.make_output(tmp_path / "out", distances(LATTICE), LATTICE)
    attrs = Survey(output.survey, "r+").group["mappings/main"].attrs
    attrs.update({"method": "certified", "exact_neurons": 1})
    analyse_command(str(output.root))
    assert "approximate" in capsys.readouterr().out
    attrs.update({"exact_neurons": 2})
    found = analyse(output, "main").summary
    assert found["best_exact"]
    assert found["second_best_exact"]
    analyse_command(str(output.root), exclude=[3, 5])  # what is left may begin with the third
    assert "best and second best" in capsys.readouterr().out
    attrs.update({"exact_neurons": 3})
    found = analyse(output, "main", exclude=[3, 5]).summary
    assert found["best_exact"]
    assert not found["second_best_exact"]


def test_blocks_of_any_size_find_the_same(output, monkeypatch):
    reader = MappingReader(output, "main")
    whole = read_through(reader)
    monkeypatch.setattr("skysom.jobs.mapping_reader.BLOCK_BYTES", 1)
    told = []
    blocks = read_through(reader, tell=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == [64, 128, 192, 256, 320, 384, 448, 500]
    for name in ("bmu", "distance", "worst"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))
    for name in ("hits", "coherent", "close", "ambiguous"):
        np.testing.assert_array_equal(getattr(whole.agreement, name), getattr(blocks.agreement, name))
    np.testing.assert_array_equal(whole.distances.median, blocks.distances.median)


def test_nothing_mapped_is_no_error(tmp_path):
    output = mapping_files.make_output(tmp_path / "out", np.full((70, 4), np.nan), Cartesian(2, 2))
    summary = json.loads((analyse(output, "main"), (output.root / "analysis.json").read_text())[1])
    assert summary["mapped"] == 0
    assert summary["quantisation_error"] is summary["median_distance"] is None
    assert summary["worst_matches"] == []
    assert summary["size"]["verdict"] == "unknown"


def test_the_command_prints_what_matters(output, capsys):
    analyse_command(str(output.root), labels="kind", exclude=[5])
    printed = capsys.readouterr().out
    for word in ("quantisation error", "coherent", "fr1", "neurons 5", "analysis.json", "neurons.csv"):
        assert word in printed


def test_a_damaged_catalogue_or_another_map_is_refused(tmp_path):
    output = mapping_files.make_output(tmp_path / "out", distances(LATTICE), LATTICE, sha256="0" * 64)
    with pytest.raises(ConfigError, match="0000"):
        analyse(output, "main")
    assert not (output.root / "analysis.json").exists()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"exclude": [12]}, ReadingError, r"\[12\].*0 to 11"),
        ({"exclude": list(range(12))}, ReadingError, "all 12"),
        ({"labels": "nothing"}, ConfigError, "'nothing'.*source_id"),
        ({"labels": "flux"}, ConfigError, "500 different values"),
        ({"labels": "empty"}, ReadingError, "missing"),
        ({"where": "flux < 0"}, ConfigError, "no row"),
        ({"worst": 0}, ReadingError, "0 rows"),
    ],
)
def test_what_does_not_fit_is_refused(output, options, error, says):
    with_labels(output, [None] * ROWS, "empty")
    with pytest.raises(error, match=says):
        analyse(output, "main", **options)


def test_a_catalogue_of_other_rows_is_refused(tmp_path):
    output = mapping_files.make_output(tmp_path / "out", distances(LATTICE), LATTICE)
    pd.read_parquet(output.catalogue).iloc[:400].to_parquet(output.catalogue)
    with pytest.raises(ConfigError, match="400 rows, the store 500"):
        analyse(output, "main", labels="flux")
    with pytest.raises(ConfigError, match="400 rows, the store 500"):
        analyse(output, "main", where="flux >= 0")


def test_values_json_has_no_word_for_are_null():
    given = {"a": np.float32(np.nan), 1: [np.inf, np.int64(3), (True, None)], "b": np.array([1.5, np.nan])}
    assert plain(given) == {"a": None, "1": [None, 3, [True, None]], "b": [1.5, None]}


def test_a_table_of_neurons_that_somebody_wrote_in_is_not_written_over(output):
    table = output.root / "neurons.csv"
    analyse(output, "main")
    neurons = pd.read_csv(table)
    analyse(output, "main")  # its own columns are replaced
    neurons.assign(kind="double").to_csv(table, index=False)
    before = table.read_bytes()
    with pytest.raises(ConfigError, match="kind"):
        analyse(output, "main")
    assert table.read_bytes() == before
    table.unlink()


@pytest.mark.parametrize("array", ["distance", "bmu"])
def test_rows_that_the_store_lost_are_not_taken_for_unmapped(tmp_path, array):
    output = mapping_files.make_output(tmp_path / "out", distances(LATTICE), LATTICE)
    shards = tmp_path / "out" / "survey.zarr" / "mappings" / "main" / array / "c"
    next(path for path in sorted(shards.rglob("*")) if path.is_file()).unlink()
    with pytest.raises(SurveyError, match="lost data"):
        analyse(output, "main")
    assert not (tmp_path / "out" / "analysis.json").exists()
