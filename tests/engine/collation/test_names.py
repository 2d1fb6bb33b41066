"""The public names of the package, and that it loads nothing heavy before they are used."""

import subprocess
import sys

import pytest

import skysom.engine.collation as collation


def test_every_public_name_is_there():
    for name in collation.__all__:
        assert getattr(collation, name).__module__.startswith("skysom.engine.collation."), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = collation.nothing


def test_nothing_heavy_is_loaded_before_it_is_used():
    code = (
        "import sys; from skysom.engine.collation import Frames, neighbour_pairs, partition_sky, project, "
        "wcs_orientation; print(sorted({'numba', 'scipy', 'astropy', 'pandas', 'erfa'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
