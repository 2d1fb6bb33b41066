"""A small survey on disk and the flags of a quick run over it."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

_spec = importlib.util.spec_from_file_location("survey_files", Path(__file__).with_name("survey_files.py"))
survey_files = importlib.util.module_from_spec(_spec)
sys.modules["survey_files"] = survey_files
_spec.loader.exec_module(survey_files)

TINY = [
    "--set", "preprocess.steps=[{step='noise'}, {step='signal_to_noise_mask', threshold=5.0}, {step='min_max'}]",
    "--set", "som.width=3", "--set", "som.height=2", "--set", "som.region='circular'",
    "--set", "train.stages=[{sigma=1.0, rotations=8}, {sigma=0.5, rotations=16, rate=0.1}]",
    "--set", "ingest.shard_images=64",
]  # fmt: skip


@pytest.fixture
def tiny():
    """Flags of a run that takes about a second."""
    return list(TINY)


@pytest.fixture
def small_survey(tmp_path):
    """150 good cut-outs and one of each bad kind, in a catalogue; returns (folder, catalogue path, table)."""
    folder = tmp_path / "survey"
    good, bad = survey_files.write_cutouts(folder, 150), survey_files.write_bad_cutouts(folder)
    table = pd.concat([good.iloc[:70], bad, good.iloc[70:], good.iloc[[3]]], ignore_index=True)
    table["expected"] = table["expected"].fillna("ok")
    table.loc[len(table) - 1, "expected"] = "duplicate_id"
    table.to_csv(folder / "sources.csv", index=False)
    return folder, folder / "sources.csv", table
