"""Collations that a test may change."""

import shutil

import pytest


@pytest.fixture
def collated(whole, tmp_path):
    """Inputs and a folder of its own with their collation: a copy of ``whole``, which the module of the test makes."""
    shutil.copytree(whole[1], tmp_path / "out")
    return whole[0], tmp_path / "out"
