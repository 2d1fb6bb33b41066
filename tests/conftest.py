"""Shared fixtures: the reference data beside the project, and quiet, bounded numerical libraries."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """Where reference outputs and real observations are looked for."""
    return Path(os.environ.get("SKYSOM_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared():
    """Return a function that resolves a path under the shared folder, or skips with the reason."""

    def resolve(relative: str) -> Path:
        path = shared_folder() / relative
        if not path.exists():
            pytest.skip(f"{relative} is not beside the project (set SKYSOM_SHARED to its folder)")
        return path

    return resolve
