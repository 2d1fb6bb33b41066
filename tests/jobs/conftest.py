"""A small survey on disk and the flags of a quick run over it."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

for _name in ("survey_files", "disturbed"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
survey_files = sys.modules["survey_files"]


@pytest.fixture
def tiny():
    """Flags of a run that takes about a second."""
    return list(survey_files.TINY)


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
