"""Labels of neurons become columns of the catalogue, and nothing of the input is ever replaced."""

import numpy as np
import pandas as pd
import pytest

from skysom.jobs.cli import main


@pytest.fixture(scope="module")
def mapped(shared, tmp_path_factory):
    """An output made of the peer's files, with a column of the user's own."""
    case = shared("goldens/pink/02_rot8_random")
    output = tmp_path_factory.mktemp("label") / "out"
    files = ["--images", "images.bin", "--som", "som.bin", "--mapping", "map.bin", "--transforms", "transform.bin"]
    files = [str(case / word) if word.endswith(".bin") else word for word in files]
    assert main(["import-pink", "-o", str(output), *files, "--rotations", "8"]) == 0
    table = pd.read_parquet(output / "catalogue.parquet")
    table.insert(1, "flux", np.arange(len(table), dtype=float))
    table.to_parquet(output / "catalogue.parquet")
    return output


def label(output, table, tmp_path, *options, columns=("kind",)):
    path = tmp_path / "neurons.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    chosen = [word for name in columns for word in ("--column", name)]
    return main(["label", str(output), "--neurons", str(path), *chosen, *options])


def test_every_source_has_the_label_of_its_neuron(mapped, tmp_path):
    kinds = np.array(["double", "compact", None, "tail", "double", "compact", "ring", None, "core"], object)
    table = {"neuron": np.arange(9), "kind": kinds, "percent": np.arange(9) * 10}
    assert label(mapped, table, tmp_path, columns=("kind", "percent=sidelobe_percent")) == 0
    found = pd.read_parquet(mapped / "catalogue.parquet")
    for kind, percent, bmu in zip(found["kind"], found["sidelobe_percent"], found["bmu"], strict=True):
        assert (None if pd.isna(kind) else kind) == kinds[bmu]
        assert percent == 10 * bmu
    assert list(found.columns[:2]) == ["source_id", "flux"]


def test_rows_and_columns_name_neurons_and_an_expression_selects(mapped, tmp_path):
    table = {"row": np.arange(9) // 3, "col": np.arange(9) % 3, "kind": [f"n{n}" for n in range(9)]}
    assert label(mapped, table, tmp_path, "--where", "flux < 5") == 0
    found = pd.read_parquet(mapped / "catalogue.parquet")
    assert found["kind"].notna().sum() == 5
    assert (found["kind"][:5] == "n" + found["bmu"][:5].astype(str)).all()


@pytest.mark.parametrize(
    ("table", "options", "columns", "words"),
    [
        ({"neuron": [0, 9], "kind": ["a", "b"]}, (), ("kind",), "9 neurons"),
        ({"neuron": [0, 0], "kind": ["a", "b"]}, (), ("kind",), "more than once"),
        ({"neuron": [0], "kind": ["a"]}, (), ("sort",), "no column 'sort'"),
        ({"neuron": [0], "kind": ["a"]}, (), ("kind=flux",), "of its own"),
        ({"neuron": [0], "kind": ["a"]}, (), ("kind=bmu",), "column of the mapping"),
        ({"neuron": [0], "kind": ["a"]}, (), ("kind", "kind"), "share a name"),
        ({"neuron": [0], "kind": ["a"]}, (), ("kind=",), "NAME=NEW"),
        ({"neuron": [0], "kind": ["a"]}, ("--where", "flux > 1e9"), ("kind",), "selects no row"),
        ({"neuron": [0], "kind": ["a"], "som_sha256": ["0" * 64]}, (), ("kind",), "hash"),
        ({"star": [0], "kind": ["a"]}, (), ("kind",), "'row' and 'col'"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(mapped, tmp_path, capsys, table, options, columns, words):
    before = (mapped / "catalogue.parquet").read_bytes()
    assert label(mapped, table, tmp_path, *options, columns=columns) == 1
    assert words in capsys.readouterr().err
    assert (mapped / "catalogue.parquet").read_bytes() == before


def from_catalogue(output, table, tmp_path, *options):
    path = tmp_path / "labelled.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    return main(["label", str(output), "--sources", str(path), "--column", "class=true_class", *options])


def test_a_labelled_catalogue_in_any_order_labels_its_sources_and_no_others(mapped, tmp_path):
    ids = pd.read_parquet(mapped / "catalogue.parquet")["source_id"].astype(str).to_numpy()
    table = {"source_id": ids[[5, 2, 9]], "class": ["fr1", None, "fr2"]}
    assert from_catalogue(mapped, table, tmp_path) == 0
    found = pd.read_parquet(mapped / "catalogue.parquet")["true_class"]
    assert found.dropna().to_dict() == {5: "fr1", 9: "fr2"}
    assert from_catalogue(mapped, {"who": ids[:2], "class": [7, 8]}, tmp_path, "--id-column", "who") == 0
    assert pd.read_parquet(mapped / "catalogue.parquet")["true_class"].dropna().to_dict() == {0: 7, 1: 8}


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        ({"source_id": ["nobody"], "class": ["a"]}, (), "not in this survey"),
        ({"star": ["0"], "class": ["a"]}, (), "no column source_id"),
        ({"source_id": ["0", "0"], "class": ["a", "b"]}, (), "more than once"),
        ({"source_id": ["0"], "kind": ["a"]}, (), "no column 'class'"),
        ({"source_id": ["0"], "class": ["a"]}, ("--where", "flux > 1"), "go with --neurons"),
        ({"source_id": ["0"], "class": ["a"]}, ("--neurons", "x.csv"), "or --sources"),
    ],
)
def test_labels_of_unknown_or_repeated_sources_are_refused(mapped, tmp_path, capsys, table, options, words):
    before = (mapped / "catalogue.parquet").read_bytes()
    assert from_catalogue(mapped, table, tmp_path, *options) == 1
    assert words in capsys.readouterr().err
    assert (mapped / "catalogue.parquet").read_bytes() == before
