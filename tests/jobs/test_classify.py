"""`skysom classify`: from labels and a mapping to predictions in the catalogue, and all it refuses."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Cartesian
from skysom.engine.reading.features import FeatureSettings
from skysom.jobs import classifier_file
from skysom.jobs.classify import Options, apply_classifier, classify
from skysom.jobs.cli import main
from skysom.jobs.cli_classify import classify_command
from skysom.jobs.derived import makers
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.output import Output
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("mapping_files", Path(__file__).with_name("mapping_files.py"))
mapping_files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mapping_files)

LATTICE = Cartesian(3, 2)
ROWS = 200
DISTANCES_ONLY = FeatureSettings(orders=0)
HERE = ("--executor", "local", "--workers", "1")
QUICK = Options("svm", DISTANCES_ONLY, folds=5, repeats=2)
app = typer.Typer()
app.command()(classify_command)


def distances(rows=ROWS):
    """(rows, N) float32, row % 3 is the class: it is near neurons of its own; row 7 and 8 are not mapped."""
    rng = np.random.default_rng(3)
    found = 1 + rng.random((rows, LATTICE.size))
    found[np.arange(rows), np.arange(rows) % 3] *= 0.3 + 0.6 * rng.random(rows)
    found[[7, 8]] = np.nan
    return found.astype(np.float32)


def labels(rows=ROWS):
    """Every fifth row has none."""
    return [None if row % 5 == 0 else ("FRI", "FRII", "bent")[row % 3] for row in range(rows)]


def labelled_output(folder, **more):
    output = mapping_files.make_output(folder, distances(), LATTICE, **more)
    table = pd.read_parquet(output.catalogue)
    table["kind"], table["certain"] = labels(), np.arange(ROWS) % 2
    table["nothing"] = pd.array([None] * ROWS, dtype="string")
    table["only unmapped"] = ["x" if row in (7, 8) else None for row in range(ROWS)]
    table["code"] = [None if row % 5 == 0 else float(row % 2) for row in range(ROWS)]
    table.to_parquet(output.catalogue)
    survey = Survey(output.survey, "r+")
    survey["dec_deg"][:] = np.linspace(-20, 60, ROWS)[np.random.default_rng(0).permutation(ROWS)]
    return output


@pytest.fixture
def output(tmp_path):
    return labelled_output(tmp_path / "out")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One that no test changes."""
    return labelled_output(tmp_path_factory.mktemp("kept") / "out")


def run(output, *options):
    return CliRunner().invoke(app, [str(output.root), *options])


def catalogue(output):
    return pd.read_parquet(output.catalogue)


def test_every_mapped_row_gets_a_class_and_the_record_says_how_good_it_is(output):
    before = catalogue(output)
    found = run(output, "--labels", "kind", "--no-amplitudes", "--folds", "5", "--repeats", "2")
    assert found.exit_code == 0, found.output
    assert "balanced accuracy" in found.output
    assert "learning curve" in found.output
    record = json.loads((output.root / "classification.json").read_text())
    table = catalogue(output)
    pd.testing.assert_frame_equal(table[before.columns], before)
    unmapped = np.isin(np.arange(ROWS), [7, 8])
    assert np.array_equal(table["kind_predicted"].isna(), unmapped)
    assert np.array_equal(table["kind_probability"].isna(), unmapped)
    each = table[[f"kind_probability_{name}" for name in ("FRI", "FRII", "bent")]].to_numpy()[~unmapped]
    np.testing.assert_allclose(each.sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(each.max(axis=1), table["kind_probability"][~unmapped])
    assert np.array_equal(table["kind_learned"], before["kind"].notna() & ~unmapped)
    # Sources learned from have what other folds say of them: near the accuracy of the record, not above it.
    learned = table[table["kind_learned"]]
    assert abs((learned["kind_predicted"] == learned["kind"]).mean() - record["accuracy"]) < 0.05
    assert record["method"] == "svm"
    assert record["classes"] == ["FRI", "FRII", "bent"]
    assert sum(record["counts"]) == len(learned) == 158
    assert record["accuracy"] == pytest.approx(np.mean(record["fold_accuracies"]))
    assert record["accuracy_spread"] == pytest.approx(np.std(record["fold_accuracies"]))
    assert 0.7 < record["balanced_accuracy"] <= 1
    assert np.array(record["confusion"]).sum() == pytest.approx(158)
    assert record["som_sha256"] == Survey(output.survey).load_som_attrs("main")["sha256"]
    assert record["learning_curve"][-1]["labels"] > 100
    assert record["features"] == {"transform": "log", "orders": 0, "ring_pixels": 2.0, "excluded": []}
    assert {name for name, maker in makers(output.private).items() if maker.job == "classify"} == set(record["columns"])


def test_the_same_seed_writes_the_same_and_another_another(output):
    first = classify(output, "main", "kind", None, QUICK)
    table = catalogue(output)
    again = classify(output, "main", "kind", None, QUICK)
    assert json.dumps(first, default=str) == json.dumps(again, default=str)
    pd.testing.assert_frame_equal(catalogue(output), table)
    other = classify(output, "main", "kind", None, replace(QUICK, seed=5))
    assert other["fold_accuracies"].tolist() != first["fold_accuracies"].tolist()


def test_an_expression_selects_what_is_learned_from_and_all_are_predicted(output):
    record = classify(output, "main", "kind", "certain == 1 and kind != 'bent'", replace(QUICK, curve=False))
    table = catalogue(output)
    assert record["classes"] == ["FRI", "FRII"]
    assert set(table.loc[table["kind_learned"], "certain"]) == {1}
    assert table["kind_predicted"].notna().sum() == ROWS - 2
    assert not record["learning_curve"]


def test_columns_of_classes_no_longer_there_go(output):
    classify(output, "main", "kind", None, replace(QUICK, curve=False))
    assert "kind_probability_bent" in catalogue(output)
    classify(output, "main", "kind", "kind != 'bent'", replace(QUICK, curve=False))
    assert "kind_probability_bent" not in catalogue(output)
    assert "kind_probability_bent" not in makers(output.private)
    classify(output, "main", "code", None, replace(QUICK, curve=False))  # whole numbers with gaps are read as floats
    assert {"kind_probability_FRI", "code_probability_0", "code_probability_1"} <= set(catalogue(output))


def test_folds_apart_on_the_sky(output):
    record = classify(output, "main", "kind", None, replace(QUICK, sky_degrees=1.0))
    assert record["sky_degrees"] == 1.0
    with pytest.raises(ReadingError, match="sky cells"):
        classify(output, "main", "kind", None, replace(QUICK, sky_degrees=30.0))


def test_rare_classes_are_refused_or_merged_when_asked(output):
    table = catalogue(output)
    table.loc[[1, 2], "kind"] = "x-shaped"
    table.loc[[3, 4], "kind"] = "ring"
    table.to_parquet(output.catalogue)
    with pytest.raises(ReadingError, match="'ring' has 2"):
        classify(output, "main", "kind", None, QUICK)
    with pytest.raises(ReadingError, match="'other' has 4"):
        classify(output, "main", "kind", None, replace(QUICK, merge_rare="other"))
    record = classify(output, "main", "kind", None, replace(QUICK, folds=4, merge_rare="other"))
    assert record["classes"] == ["FRI", "FRII", "bent", "other"]


def test_a_saved_classifier_serves_another_survey_of_the_same_map(output, tmp_path):
    run(output, "--labels", "kind", "--no-amplitudes", "--folds", "5", "--repeats", "1")
    other = labelled_output(tmp_path / "other")
    found = run(other, "--classifier", str(output.root))
    assert found.exit_code == 0, found.output
    here, there = catalogue(output), catalogue(other)
    fresh = ~here["kind_learned"]
    assert there.loc[fresh, "kind_predicted"].equals(here.loc[fresh, "kind_predicted"])
    assert there["kind_learned"].equals(here["kind_learned"])  # by their ids, which are the same here
    counts = apply_classifier(other, "main", output.root / "classifier.skops")
    assert sum(counts["predicted"].values()) == ROWS - 2
    assert counts["not_mapped"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda attrs: attrs | {"som_sha256": "0" * 64}, "another map"),
        (lambda attrs: attrs | {"geometry": attrs["geometry"] | {"rotations": 4}}, "another geometry"),
        (lambda attrs: attrs | {"method": "polar"}, "another distances"),
    ],
)
def test_a_classifier_of_another_mapping_is_refused(output, tmp_path, change, words):
    classify(output, "main", "kind", None, replace(QUICK, curve=False))
    other = labelled_output(tmp_path / "other", weights=False)
    group = Survey(other.survey, "r+").group["mappings/main"]
    group.attrs.update(change(dict(group.attrs)))
    before = other.catalogue.read_bytes()
    with pytest.raises(ConfigError, match=words):
        apply_classifier(other, "main", output.root)
    assert other.catalogue.read_bytes() == before


def test_damaged_and_malicious_files_are_refused(output, tmp_path, monkeypatch):
    import functools
    import hashlib
    import os

    from skops.io import dumps

    with pytest.raises(MissingStageError, match="no classifier at"):
        apply_classifier(output, "main", output.root)
    classify(output, "main", "kind", None, replace(QUICK, curve=False))
    path, beside = output.root / "classifier.skops", output.root / "classifier.json"
    whole, description = path.read_bytes(), json.loads(beside.read_text())
    path.write_bytes(whole[:-10])
    with pytest.raises(ConfigError, match="sha256"):
        apply_classifier(output, "main", path)
    monkeypatch.chdir(tmp_path)
    harm = dumps({"estimator": functools.partial(os.system, "touch harmed")})
    path.write_bytes(harm)
    beside.write_text(json.dumps(description | {"sha256": hashlib.sha256(harm).hexdigest()}))
    with pytest.raises(ReadingError, match="nothing of it was loaded"):
        apply_classifier(output, "main", path)
    assert not (tmp_path / "harmed").exists()
    path.write_bytes(whole)
    for text in ("{", "[]", "{}", json.dumps(description | {"features": {}})):
        beside.write_text(text)
        with pytest.raises((ConfigError, ReadingError), match="damaged"):
            classifier_file.load(path)
    beside.write_text(json.dumps(description | {"format_version": 9}))
    with pytest.raises(ConfigError, match="format 9"):
        classifier_file.load(path)


@pytest.mark.parametrize(
    ("column", "where", "options", "error", "words"),
    [
        ("sort", None, QUICK, ConfigError, "no column 'sort' .* flux, kind, certain"),
        ("flux", None, QUICK, ConfigError, "200 different values"),
        ("nothing", None, QUICK, ReadingError, "missing"),
        ("only unmapped", None, QUICK, ConfigError, "2 of 200 have a label .* none of these has a neuron"),
        ("kind", "flux > 1e9", QUICK, ConfigError, "selects no row"),
        ("kind", "kind == 'FRI'", QUICK, ReadingError, "only 'FRI'"),
        ("kind", None, replace(QUICK, folds=80), ReadingError, "80 folds need 80"),
        ("kind", None, replace(QUICK, features=FeatureSettings(orders=0, excluded=(6,))), ReadingError, "0 to 5"),
    ],
)
def test_refused_before_anything_is_written(kept, column, where, options, error, words):
    before = kept.catalogue.read_bytes()
    with pytest.raises(error, match=words):
        classify(kept, "main", column, where, options)
    assert kept.catalogue.read_bytes() == before
    assert not list(kept.root.glob("class*"))


def test_predictions_are_not_learned_from_and_columns_of_the_user_stay(output):
    classify(output, "main", "kind", None, replace(QUICK, curve=False))
    with pytest.raises(ConfigError, match="predicted"):
        classify(output, "main", "kind_predicted", None, QUICK)
    table = catalogue(output)
    table["certain_predicted"] = 1
    table.to_parquet(output.catalogue)
    with pytest.raises(ConfigError, match="of its own"):
        classify(output, "main", "certain", None, QUICK)


def test_labels_or_a_classifier_must_be_given(kept):
    for options in ((), ("--labels", "kind", "--classifier", "x")):
        assert isinstance(run(kept, *options).exception, ConfigError)


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory, request):
    """A survey of 150 simulated doubles, mapped with all distances and, as "few", with the best two."""
    import sys

    files = sys.modules["survey_files"]
    folder = tmp_path_factory.mktemp("surveyed")
    table = files.write_cutouts(folder, 150)
    half = [np.random.default_rng(i).uniform([0, 0], [np.pi, files.SIDE / 5])[1] for i in range(150)]
    table["kind"] = ["wide" if value > files.SIDE / 10 else "narrow" for value in half]
    table.to_csv(folder / "sources.csv", index=False)
    given = ["--images", str(folder), "--catalogue", str(folder / "sources.csv"), *files.TINY]
    assert main(["run", "--output", str(folder / "out"), *given, *HERE]) == 0
    few = ["map", "--output", str(folder / "out"), "--som", "som:main", "--som-name", "few", "--keep", "2"]
    assert main([*few, *HERE]) == 0
    return Output(folder / "out")


def test_from_images_to_classes(surveyed, tmp_path):
    record = classify(surveyed, "main", "kind", None, replace(QUICK, features=FeatureSettings(), curve=False))
    assert record["accuracy"] > 0.85
    assert record["features"]["orders"] == 8
    table = catalogue(surveyed)
    learned = table[table["kind_learned"]]
    assert (learned["kind"] == learned["kind_predicted"]).mean() > 0.85
    copied = Output(shutil.copytree(surveyed.root, tmp_path / "copy"))
    counts = apply_classifier(copied, "main", surveyed.root)
    assert sum(counts["predicted"].values()) == len(table)


def test_a_mapping_of_the_best_few_serves_amplitudes_only(surveyed):
    quick = replace(QUICK, curve=False)
    with pytest.raises(ConfigError, match=r"best 2 of 6 neurons.*--no-distances.*--som som:few --som-name all"):
        classify(surveyed, "few", "kind", None, quick)
    assert classify(surveyed, "few", "kind", None, replace(quick, features=FeatureSettings(None)))["accuracy"] > 0.8
    assert makers(surveyed.private)["kind_predicted"].mapping == "few"
    assert json.loads((surveyed.root / "classifier.json").read_text())["features"]["transform"] is None
    # What the refusal advises.
    assert main(["map", "--output", str(surveyed.root), "--som", "som:few", "--som-name", "all", *HERE]) == 0
    assert classify(surveyed, "all", "kind", None, quick)["accuracy"] > 0.7


def test_sources_that_were_learned_from_are_marked_wherever_the_classifier_is_used(output):
    classify(output, "main", "kind", None, QUICK)
    first = pd.read_parquet(output.catalogue)["kind_learned"].to_numpy()
    apply_classifier(output, "main", output.root)
    assert first.any()
    assert np.array_equal(pd.read_parquet(output.catalogue)["kind_learned"], first)


def test_labels_that_the_neurons_of_the_mapping_gave_are_refused(output, tmp_path):
    pd.DataFrame({"neuron": range(6), "kind": list("ababab")}).to_csv(tmp_path / "neurons.csv", index=False)
    assert main(["label", str(output.root), "--neurons", str(tmp_path / "neurons.csv"), "--column", "kind=given"]) == 0
    with pytest.raises(ConfigError, match="carried over from the neurons"):
        classify(output, "main", "given", None, QUICK)
