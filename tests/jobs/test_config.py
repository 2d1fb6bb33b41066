"""The typed configuration: precedence, refusals, round trip."""

import tomllib

import pytest

from skysom.jobs.config import PRESETS, Config, load_config, parse_setting, to_toml
from skysom.jobs.errors import ConfigError


def test_flags_override_the_file_and_the_file_the_preset(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("[som]\nwidth = 5\nheight = 4\n[train]\nsample = 7\n")
    config = load_config("quick", file, {"som.width": 6})
    assert (config.som.width, config.som.height, config.train.sample) == (6, 4, 7)
    assert config.som.region == "circular"  # from the preset


@pytest.mark.parametrize("preset", PRESETS)
def test_printed_configuration_gives_the_same_configuration(preset):
    config = load_config(preset, flags={"images": ("a", 'b "c"'), "train.where": 'flux > 1 and name == "x"'})
    assert Config.model_validate(tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"som.widht": 3}, "som.widht.*no such key"),
        ({"som.width": 0}, "som.width.*greater than 0"),
        ({"som.width": 4, "som.lattice": "hexagonal"}, "odd som.width"),
        ({"train.stages": [{"rotations": 90}]}, "rotations is 90; use 1 or a multiple of 4"),
        ({"train.stages": [{"sigma": -1}]}, "sigma.*greater than 0"),
        ({"train.stages": []}, "train.stages"),
        ({"preprocess.steps": [{"step": "nois"}]}, "no step 'nois'; the steps are"),
        ({"preprocess.steps": [{"step": "noise", "foo": 1}]}, "foo.*no such key"),
        ({"preprocess.steps": [{"step": "signal_to_noise_mask", "threshold": "high"}]}, "threshold"),
        ({"images": ("a", "b"), "preprocess.channel_weights": (1.0,)}, "1 numbers for 2 channels"),
        ({"ingest.shard_images": 100}, "multiple of 64"),
        ({"som.name": "../x"}, "som.name"),
    ],
)
def test_bad_configuration_is_refused_by_key(flags, words):
    with pytest.raises(ConfigError, match=words):
        load_config(flags=flags)


def test_unknown_preset_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="presets are quick, vlass"):
        load_config("fast")
    with pytest.raises(ConfigError, match="cannot read --config"):
        load_config(file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(file=tmp_path / "bad.toml")


def test_settings_are_toml_or_text():
    assert parse_setting("som.width=12") == ("som.width", 12)
    assert parse_setting("som.init=samples") == ("som.init", "samples")
    assert parse_setting("ingest.channels=['a', 'b']") == ("ingest.channels", ["a", "b"])
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_setting("som.width")


def test_presets_are_the_ones_promised():
    quick, vlass = load_config("quick"), load_config("vlass")
    assert (quick.som.width, quick.som.height or quick.som.width, quick.train.sample) == (8, 8, 2000)
    assert [stage.rotations for stage in quick.train.stages] == [92, 180, 360]
    assert {stage.neighbourhood for stage in quick.train.stages} == {"unity_gaussian"}
    assert ("block_mean", {"max_side": 96}) in quick.preprocess.chain()
    assert [(s.sigma, s.rate, s.rotations, s.iterations) for s in vlass.train.stages] == [
        (2.5, 0.1, 180, 5),
        (1.5, 0.05, 180, 5),
        (0.7, 0.05, 360, 10),
    ]
    assert (vlass.som.width, vlass.som.region) == (10, "circular")
