"""Compiled kernels are kept by their own source alone, so what they take from other modules has to show in it."""

import ast
import hashlib
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "engine"
KERNELS = sorted(path for path in ENGINE.rglob("*.py") if "njit" in path.read_text())


def taken_from(path):
    """Modules of skysom whose names are used in a module: those it imports at its top."""
    return sorted(
        ENGINE.joinpath(*node.module.split(".")[2:]).with_suffix(".py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skysom.engine.")
    )


def named(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COMPILED_WITH":
            return ast.literal_eval(node.value)
    return None


def test_there_are_kernels_and_some_take_from_others():
    assert len(KERNELS) > 5
    assert ENGINE / "gather.py" in taken_from(ENGINE / "kernels.py")


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_what_a_kernel_takes_from_other_modules_shows_in_its_source(path):
    sources = [module.read_bytes() for module in taken_from(path)]
    digest = hashlib.sha256(b"".join(sources)).hexdigest()[:12] if sources else None
    assert named(path) == digest, (
        f"{path.name} is compiled with parts of {[module.name for module in taken_from(path)]}, which have changed; "
        f"numba keeps what it compiled until {path.name} itself changes: set COMPILED_WITH = {digest!r} there"
    )
