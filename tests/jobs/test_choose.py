"""Choosing rows and weighing channels of a small survey, by their commands."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import survey_files
import zarr
from typer.testing import CliRunner

from skysom.jobs import choose as module
from skysom.jobs import cli
from skysom.jobs.choose import Choice, choose
from skysom.jobs.cli_choose import bounds, choose_command, reweight_command
from skysom.jobs.cli_judge import grow_command, judge_command
from skysom.jobs.errors import ConfigError, SkysomErrors
from skysom.jobs.output import Output
from skysom.storage.errors import CatalogueError

COMMANDS = {"choose": choose_command, "reweight": reweight_command, "judge": judge_command, "grow": grow_command}


def skysom(*arguments):
    """Exit status and text of a command, as the command line would have it."""
    import typer

    app = typer.Typer()
    for name, function in COMMANDS.items():
        app.command(name)(function)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if isinstance(result.exception, SkysomErrors):
        return 1, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory):
    """Output of 130 rows in two channels, mapped onto 3 x 2 neurons; one row in ten cannot be used."""
    folder = tmp_path_factory.mktemp("survey")
    table = survey_files.write_cutouts(folder, 130)
    shutil.copytree(folder / "cutouts", folder / "second" / "cutouts")
    table["ra"], table["dec"] = 359.99 + 0.0005 * np.arange(130), np.tile([60.0, 60.001], 65)
    table["ra"] %= 360
    table["kind"] = np.where(table["flux"] % 13 == 0, None, np.where(table["flux"] < 30, "rare", "common"))
    table.loc[table["flux"] % 10 == 9, "filename"] = "gone.fits"
    table.to_csv(folder / "sources.csv", index=False)
    output = tmp_path_factory.mktemp("made") / "out"
    channels = ["-i", str(folder), "-i", str(folder / "second"), "--set", "preprocess.channel_weights=[1.0, 0.25]"]
    flags = ["run", *channels, "-c", str(folder / "sources.csv"), "-o", str(output), *survey_files.TINY]
    assert cli.main([*flags, "--workers", "1", "--set", "train.stages=[{sigma=1.0, rotations=8}]"]) == 0
    return output


@pytest.fixture
def output(two_channels, tmp_path):
    return shutil.copytree(two_channels, tmp_path / "out")


def catalogue(output):
    return pd.read_parquet(output / "catalogue.parquet")


def test_a_balanced_choice_is_what_a_map_is_trained_on(output):
    before = catalogue(output)
    status, text = skysom("choose", output, "--where", "flux > 5", "--balance", "kind", "--per-class", 12)
    assert status == 0
    assert "24 of " in text
    after = catalogue(output)
    assert after.drop(columns="chosen").equals(before)
    assert after["chosen"].dtype == "boolean"
    taken = after[after["chosen"]]
    assert taken["kind"].value_counts().to_dict() == {"rare": 12, "common": 12}
    assert (taken["flux"] > 5).all()
    assert (taken["status"] == "ok").all()
    event = json.loads((output / "history.jsonl").read_text().splitlines()[-1])
    assert (event["event"], event["chosen"], event["choice"]["per_class"]) == ("choose", 24, 12)
    train = ["train", "-o", str(output), "--train-where", "chosen", "--som-name", "balanced", "--workers", "1"]
    assert cli.main(train) == 0
    assert zarr.open_group(output / "survey.zarr", mode="r")["soms/balanced"].attrs["training"]["images"] == 24


def test_a_choice_is_the_same_again_and_another_with_another_seed(output):
    for column, seed in (("one", 1), ("again", 1), ("other", 2)):
        assert skysom("choose", output, "--column", column, "--sample", 30, "--seed", seed)[0] == 0
    table = catalogue(output)
    assert table["one"].equals(table["again"])
    assert not table["one"].equals(table["other"])
    assert table["one"].sum() == table["other"].sum() == 30


def test_choices_over_neurons_quantiles_and_in_proportion(output):
    with Output(output).lock():
        found = choose(Choice(balance="bmu", per_class=4), Output(output), "units")
    table = catalogue(output)
    sizes = table.loc[table["status"] == "ok", "bmu"].value_counts()
    assert {name: taken for name, _, taken in found.strata} == {str(n): min(s, 4) for n, s in sizes.items()}
    assert table.loc[table["units"], "bmu"].value_counts().max() == 4
    quarters = module.rows_of(Choice(balance="flux", quantiles=4, sample=20), Output(output))
    assert [taken for _, _, taken in quarters.strata] == [5, 5, 5, 5]
    shares = module.rows_of(Choice(balance="kind", sample=60, proportional=True), Output(output))
    assert [name for name, _, _ in shares.strata] == ["common", "rare", "(missing)"]
    (_, common, many), (_, rare, few), (_, missing, none) = shares.strata
    assert (common + rare + missing, none) == (117, 0)
    assert many + few == 60
    assert abs(few - 60 * rare / (common + rare)) < 1


def test_neighbours_across_right_ascension_zero(output):
    """Rows lie 0.9 arcsec apart along right ascension, in two lines 3.6 arcsec apart."""
    status, _ = skysom("choose", output, "--neighbours", "3..4", "--radius-arcsec", 4)
    assert status == 0
    from astropy import units
    from astropy.coordinates import SkyCoord

    table = catalogue(output)
    sky = SkyCoord(table["ra"], table["dec"], unit="deg")
    near = (sky[:, None].separation(sky[None, :]) <= 4 * units.arcsec).sum(axis=1) - 1
    expected = (near >= 3) & (near <= 4) & (table["status"] == "ok").to_numpy()
    assert 0 < expected.sum() < 117
    assert np.array_equal(table["chosen"].to_numpy(bool), expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to choose by"),
        (["--neighbours", "1.."], "go together"),
        (["--neighbours", "5..2", "--radius-arcsec", 3], "write MIN..MAX"),
        (["--balance", "kind"], "of how many"),
        (["--per-class", 3], "of which classes"),
        (["--per-class", 3, "--sample", 4, "--balance", "kind"], "give one of them"),
        (["--sample", 3, "--proportional"], "say how to balance"),
        (["--balance", "kind", "--per-class", 3, "--proportional"], "needs --sample"),
        (["--where", "flux > 1000"], "no usable row .* is left by --where"),
        (["--where", "nothing > 1"], "nothing"),
        (["--balance", "nothing", "--sample", 3], "no column 'nothing'"),
        (["--balance", "kind", "--quantiles", 3, "--sample", 3], "of 0 finite values"),
        (["--sample", 3, "--column", "flux"], "column 'flux' of its own"),
        (["--sample", 3, "--column", "bmu"], "column of the mapping"),
        (["--sample", 3, "--column", "not"], "is no word"),
        (["--sample", 3, "--column", "a b"], "is no word"),
    ],
)
def test_what_cannot_be_chosen_changes_nothing(two_channels, flags, words):
    before = (two_channels / "catalogue.parquet").read_bytes()
    status, text = skysom("choose", two_channels, *flags)
    assert status == 1
    assert re.search(words, text)
    assert (two_channels / "catalogue.parquet").read_bytes() == before


def test_bounds_of_neighbours():
    assert [bounds(text) for text in ("2..5", "2..", "..3", "0..0")] == [(2, 5), (2, None), (0, 3), (0, 0)]
    for text in ("3", "..", "a..b", "-1..2"):
        with pytest.raises(ConfigError, match=r"write MIN\.\.MAX"):
            bounds(text)


# --- channels ---------------------------------------------------------------------------------------


def test_weights_of_training_change_the_map_and_its_mapping_and_no_pixel(output):
    """Both channels hold the same images: shares go with the squares of the weights."""
    status, text = skysom("reweight", output, "--weights", "1,1", "--images", 60)
    assert status == 0
    assert "against the map 'main'" in text
    assert text.count("50.0 %") == 2
    assert "94.1 %" in text  # 1 / (1 + 0.25 ** 2)
    setting = text[text.index("train.channel_weights") :].split("'")[0]
    prepared = zarr.open_group(output / "survey.zarr", mode="r")["prepared"][:]
    new = ["-o", str(output), "--som-name", "even", "--workers", "1"]
    assert cli.main(["train", *new, "--set", setting]) == 0
    assert cli.main(["map", *new]) == 0
    store = zarr.open_group(output / "survey.zarr", mode="r")
    assert store["soms/even"].attrs["channel_weights"] == [1.0, 1.0]
    assert store["soms/main"].attrs["channel_weights"] == [1.0, 0.25]
    assert np.array_equal(store["prepared"][:], prepared)
    neurons = store["soms/even/weights"][:]
    np.testing.assert_allclose(neurons[:, 0].mean(), neurons[:, 1].mean(), rtol=0.1)
    assert store["soms/main/weights"][:, 1].mean() < 0.5 * store["soms/main/weights"][:, 0].mean()
    assert skysom("reweight", output, "--weights", "1,1", "--som-name", "even")[1].count("50.0 %") == 4


def test_a_map_trained_further_with_other_weights_begins_with_neurons_of_those(output):
    flags = ["--init", "som:main", "--som-name", "further", "--set", "train.channel_weights=[1.0, 1.0]"]
    stages = "train.stages=[{sigma=0.5, rate=1e-6, rotations=8}]"
    assert cli.main(["train", "-o", str(output), *flags, "--set", stages, "--workers", "1"]) == 0
    store = zarr.open_group(output / "survey.zarr", mode="r")
    expected = store["soms/main/weights"][:] * np.array([1, 4])[:, None, None]
    np.testing.assert_allclose(store["soms/further/weights"][:], expected, atol=1e-3)


@pytest.mark.parametrize(("rule", "shares"), [("even", "50.0 %"), ("median_sum", "50.0 %")])
def test_proposals_by_rule(two_channels, rule, shares):
    status, text = skysom("reweight", two_channels, "--weights", rule, "--images", 40)
    assert status == 0
    assert text.count(shares) == 2


def test_without_a_map_images_stand_for_neurons(output):
    Output(output).discard("train", "main")
    status, text = skysom("reweight", output, "--weights", "even", "--images", 40)
    assert status == 0
    assert "40 images against 25 other images" in text
    assert text.count("50.0 %") == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weights", "1,2,3"], "give 2 finite numbers above 0"),
        (["--weights", "1,-2"], "give 2 finite numbers above 0"),
        (["--weights", "much"], "give numbers as 0.95,0.05"),
        (["--weights", "1,1", "--som-name", "other"], "has no map 'other'"),
        (["--weights", "1,1", "--where", "flux == 3"], "1 usable rows"),
    ],
)
def test_weights_that_are_none_are_refused(two_channels, flags, words):
    status, text = skysom("reweight", two_channels, *flags)
    assert status == 1
    assert words in text


@pytest.mark.parametrize("weights", ["[1.0]", "[1.0, 0.0]", "[1.0, 1.0, 1.0]"])
def test_training_refuses_them_too(two_channels, capsys, weights):
    command = ["train", "-o", str(two_channels), "--som-name", "x", "--set", f"train.channel_weights={weights}"]
    assert cli.main(command) == 1
    assert "train.channel_weights" in capsys.readouterr().err


def test_columns_are_read_by_name(two_channels):
    assert list(module.read_columns(Output(two_channels), ["flux"])) == ["flux"]
    with pytest.raises(CatalogueError, match="no column 'x'"):
        module.read_columns(Output(two_channels), ["x"])
