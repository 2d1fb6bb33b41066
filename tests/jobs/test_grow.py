"""Growing maps on the sources of neurons: both levels in the catalogue, resumable, and refused where it cannot be."""

import shutil

import numpy as np
import pandas as pd
import pytest
import survey_files
import zarr

from skysom.cluster.shards import Runtime
from skysom.jobs import grow as module
from skysom.jobs.cli import main
from skysom.jobs.cli_judge import grow_command
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.grow import Growth, grow, neuron_numbers
from skysom.jobs.output import Output
from skysom.storage.survey import Survey

QUICK = {"train.stages": [{"sigma": 0.7, "rotations": 8}]}
THOROUGH = {"train.stages": [{"sigma": 0.7, "rotations": 16, "iterations": 10}]}
MAIN = ["bmu", "bmu_row", "bmu_col", "bmu_distance", "angle_deg", "flip"]


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Output of 120 images mapped onto 3 x 2 neurons."""
    folder = tmp_path_factory.mktemp("survey")
    survey_files.write_cutouts(folder, 120).to_csv(folder / "sources.csv", index=False)
    output = folder / "out"
    flags = ["-i", str(folder), "-c", str(folder / "sources.csv"), "-o", str(output), *survey_files.TINY]
    assert main(["run", *flags, "--workers", "1"]) == 0
    return output


@pytest.fixture
def output(mapped, tmp_path):
    return shutil.copytree(mapped, tmp_path / "out")


def grown(path, **what):
    output = Output(path)
    with output.lock():
        return grow(Growth(**{"settings": QUICK, **what}), output, Runtime(1, "local"))


def catalogue(output):
    return pd.read_parquet(output / "catalogue.parquet")


def largest(output, count=1):
    return tuple(catalogue(output)["bmu"].value_counts().index[:count].astype(int).tolist())


def test_a_further_map_stands_beside_the_first(output):
    before = catalogue(output)
    one, two = sorted(largest(output, 2))
    (child,) = grown(output, neurons=(one, two), name="wide")
    after = catalogue(output)
    assert after[list(before.columns)].equals(before)
    assert list(after.columns[len(before.columns) :]) == [f"{name}_wide" for name in MAIN]
    own = before["bmu"].isin([one, two]).fillna(False).to_numpy(bool)
    assert np.array_equal(after["bmu_wide"].notna(), own)
    assert (child.name, child.of_neurons, child.sources, child.column) == ("wide", (one, two), own.sum(), "bmu_wide")
    assert child.before == pytest.approx(before.loc[own, "bmu_distance"].mean(), rel=1e-5)
    assert child.after == pytest.approx(after["bmu_distance_wide"].mean(), rel=1e-5)
    store = zarr.open_group(output / "survey.zarr", mode="r")
    attrs = store["soms/wide"].attrs
    assert attrs["parent"] == "main"
    assert attrs["parent_neurons"] == [one, two]
    assert attrs["parent_sha256"] == store["soms/main"].attrs["sha256"] == store["mappings/main"].attrs["som_sha256"]
    assert attrs["training"]["images"] == own.sum()
    assert store["mappings/wide"].attrs["where"] == f"bmu in [{one}, {two}]"
    assert attrs["geometry"]["neuron_side"] == store["soms/main"].attrs["geometry"]["neuron_side"]
    # The columns are those of the mapping, and serve in expressions like the first ones.
    assert np.array_equal(after["bmu_wide"].fillna(-1).to_numpy(int), store["mappings/wide/bmu"][:])
    part = int(after.loc[after["bmu"] == one, "bmu_wide"].mode()[0])
    choice = ["--train-where", f"bmu == {one} and bmu_wide == {part}", "--som-name", "x", "--workers", "1"]
    assert main(["train", "-o", str(output), *choice, "--set", "train.stages=[{rotations=4}]"]) == 0


def test_each_neuron_has_a_map_of_its_own_and_they_have_further_ones(output):
    one, two = sorted(largest(output, 2))
    children = grown(output, neurons=(one, two))
    assert [child.name for child in children] == [f"main.{one}", f"main.{two}"]
    assert [child.column for child in children] == [f"bmu_main_{one}", f"bmu_main_{two}"]
    column = children[0].column
    below = int(catalogue(output)[column].mode()[0])
    (grandchild,) = grown(output, parent=f"main.{one}", neurons=(below,))
    assert grandchild.name == f"main.{one}.{below}"
    table = catalogue(output)
    assert np.array_equal(table[grandchild.column].notna(), (table[column] == below).fillna(False))
    assert table.loc[table[grandchild.column].notna(), "bmu"].unique().tolist() == [one]
    attrs = Survey(output / "survey.zarr").group[f"mappings/{grandchild.name}"].attrs
    assert attrs["where"] == f"{column} == {below}"


def test_dispersed_neurons_grow(output):
    table = catalogue(output)
    mean, sizes = table.groupby("bmu")["bmu_distance"].mean(), table["bmu"].value_counts()
    wide = sorted(n for n in mean.index if mean[n] > table["bmu_distance"].mean() and sizes[n] >= 10)
    assert wide
    children = grown(output, dispersion=1.0, least_members=10, settings=THOROUGH)
    assert [child.of_neurons for child in children] == [(n,) for n in wide]
    assert all(child.after < child.before for child in children)


def test_a_later_mapping_does_not_mislead(output):
    """The columns without a suffix are of the latest mapping; sources are chosen by the parent's all the same."""
    before = catalogue(output)
    (neuron,) = largest(output)
    other = ["map", "-o", str(output), "--som", "som:main-stage1", "--som-name", "other", "--workers", "1"]
    assert main(other) == 0
    assert not catalogue(output)["bmu"].equals(before["bmu"])
    grown(output, neurons=(neuron,), name="child")
    after = catalogue(output)
    assert after["bmu"].equals(before["bmu"])
    assert np.array_equal(after["bmu_child"].notna(), (before["bmu"] == neuron).fillna(False))


@pytest.mark.parametrize("where", ["train", "map_survey", "_finish"])
def test_the_same_command_goes_on_after_a_kill(mapped, output, tmp_path, monkeypatch, where):
    neurons = sorted(largest(mapped, 2))
    whole = shutil.copytree(mapped, tmp_path / "whole")
    expected = grown(whole, neurons=neurons)
    from skysom.jobs import map as mapping

    home, calls = (mapping if where == "_finish" else module), []
    original = getattr(home, where)

    def once(*args):
        calls.append(1)
        if len(calls) == 2:  # of the second child
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(home, where, once)
        with pytest.raises(Killed):
            grown(output, neurons=neurons)
    assert grown(output, neurons=neurons) == expected
    assert catalogue(output).equals(catalogue(whole))
    history = (output / "history.jsonl").read_text()
    assert grown(output, neurons=neurons) == expected  # again: nothing is trained
    assert (output / "history.jsonl").read_text().count('"training"') == history.count('"training"')


def test_grown_maps_go_with_what_they_were_made_of_only_when_asked(output, capsys):
    (neuron,) = largest(output)
    grown(output, neurons=(neuron,), name="child")
    Output(output).discard("map", "child")
    assert "bmu_child" not in catalogue(output).columns
    assert "bmu" in catalogue(output).columns  # of another mapping: a child has columns of its own
    grown(output, neurons=(neuron,), name="child")
    assert {"bmu", "bmu_child"} <= set(catalogue(output).columns)
    # Another parent: the child is of the old one.
    weights, attrs = Survey(output / "survey.zarr").load_som("main")
    Survey(output / "survey.zarr", "r+").save_som("main", weights[::-1], attrs)
    with pytest.raises(ConfigError, match=r"was grown from another 'main' .* --redo"):
        grown(output, neurons=(neuron,), name="child")
    with pytest.raises(ConfigError, match=r"som\.width"):  # and a wrong command discards nothing
        grown(output, neurons=(neuron,), name="child", redo=True, settings={"som.width": -1})
    assert "child" in Survey(output / "survey.zarr").som_names()
    assert "bmu_child" in catalogue(output).columns
    (child,) = grown(output, neurons=(neuron,), name="child", redo=True)
    assert child.sources == (catalogue(output)["bmu"] == neuron).sum()


def test_settings_are_those_of_the_child(output):
    (neuron,) = largest(output)
    settings = {**QUICK, "som.width": 2, "som.height": 1, "map.method": "exact"}
    path = Output(output)
    with path.lock():
        (child,) = grow(Growth(settings=settings, neurons=(neuron,), name="pair"), path, Runtime(1, "local"))
        (again,) = grow(Growth(neurons=(neuron,), name="pair"), path, Runtime(1, "local"))  # as it was begun
    assert child == again
    assert child.neurons == 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({}, "give --neurons, or --dispersion"),
        ({"neurons": (1,), "dispersion": 1.0}, "give --neurons, or --dispersion"),
        ({"neurons": (6, 7)}, r"neurons \[6, 7\] of 'main' are not there"),
        ({"dispersion": 9.0}, "has grown enough"),
        ({"neurons": (1,), "name": "main"}, "there is a map 'main' already"),
        ({"neurons": (1,), "name": "main-stage1"}, "there is a map 'main-stage1' already"),
        ({"neurons": (1,), "name": "a b"}, "som.name"),
    ],
)
def test_what_cannot_grow_is_refused_before_anything_is_trained(mapped, what, words):
    before = (mapped / "catalogue.parquet").read_bytes(), (mapped / ".skysom/config.json").read_bytes()
    with pytest.raises(ConfigError, match=words):
        grown(mapped, **what)
    assert ((mapped / "catalogue.parquet").read_bytes(), (mapped / ".skysom/config.json").read_bytes()) == before


def test_columns_of_the_input_and_names_that_look_alike_are_refused(output):
    one, two = largest(output, 2)
    grown(output, neurons=(one,), name="a.b")
    with pytest.raises(ConfigError, match="bmu_a_b"):
        grown(output, neurons=(two,), name="a_b")
    with pytest.raises(MissingStageError, match="map:nothing"):
        grown(output, parent="nothing", neurons=(1,))
    with pytest.raises(ConfigError, match=r"there is a map 'a\.b' already"):
        grown(output, neurons=(two,), name="a.b")


def test_neurons_as_they_are_written():
    assert neuron_numbers(["12,13", "3 12"]) == (3, 12, 13)
    assert neuron_numbers([]) == ()
    with pytest.raises(ConfigError, match="numbers of neurons"):
        neuron_numbers(["a"])


def test_the_command(output, capsys):
    neuron = largest(output)[0]
    grow_command(
        str(output), [str(neuron)], None, 100, "child", False, None, None, None, ["train.stages=[{rotations=4}]"], 1
    )
    told = capsys.readouterr()
    assert "grown from main" in told.out
    assert f"'child' from neurons [{neuron}]" in told.err
    assert "bmu_child" in catalogue(output).columns
