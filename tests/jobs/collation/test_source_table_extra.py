"""A user's columns: values, types, and errors that say which source."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysom.jobs.collation.source_table import source_table
from skysom.jobs.collation.source_table_extra import SourceView
from skysom.jobs.errors import ConfigError

_spec = importlib.util.spec_from_file_location("source_table_skies", Path(__file__).with_name("source_table_skies.py"))
assert _spec is not None
assert _spec.loader is not None
skies = importlib.util.module_from_spec(_spec)
sys.modules["source_table_skies"] = skies
_spec.loader.exec_module(skies)

TYPES = {"brightest": "float", "pairs": "int", "kind": "str", "wide": "bool"}


def describe(source: SourceView) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pairs": np.int64(len(source.members) * (len(source.members) - 1) // 2),
        "wide": np.bool_((source.values["size_arcsec"] or 0) > 100),
        "brightest": np.fmax.reduce(source.column("Total")),
    }
    if source.values["components"] > 1:
        found["kind"] = "several"
    return found


def made(function: Any, types: dict[str, str] = TYPES) -> Any:
    sky = skies.sky(6, extra=function, extra_types=types)
    table = source_table(sky.groups, sky.base, sky.carried, {1: sky.infrared}, sky.columns)
    assert table.schema.equals(sky.columns.schema, check_metadata=True)
    return table, sky


def test_every_source_gets_its_values() -> None:
    table, sky = made(describe)
    for row in table.to_pylist():
        brightest = sky.base.loc[row["members"], "Total"].max()
        assert row["brightest"] == (None if np.isnan(brightest) else brightest)
        assert row["pairs"] == row["components"] * (row["components"] - 1) // 2
        assert row["kind"] == ("several" if row["components"] > 1 else None)
        assert row["wide"] == ((row["size_arcsec"] or 0) > 100)
    assert table.column_names.index("wide") < table.column_names.index("isolated")


def test_an_error_names_the_source() -> None:
    def fails(source: SourceView) -> dict[str, Any]:
        return {"pairs": 1 // (source.values["source"] - 3)}

    with pytest.raises(ConfigError, match=r"fails on source J\S+ \(base rows \[3[],].*ZeroDivisionError"):
        made(fails)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pairs": "many"}, "'pairs' is 'many', a str; it declared int"),
        ({"pairs": 1.5}, "a float; it declared int"),
        ({"pairs": True}, "a bool; it declared int"),
        ({"wide": 1}, "an? int; it declared bool"),
        ({"other": 1}, r"returns \['other'\]"),
        (None, "TypeError"),
    ],
)
def test_values_that_were_not_declared(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(lambda source: given)


def test_whole_numbers_and_gaps() -> None:
    table, _ = made(lambda source: {"brightest": 2, "kind": None, "pairs": float("nan")})
    assert set(table["brightest"].to_pylist()) == {2.0}
    assert set(table["kind"].to_pylist()) == set(table["pairs"].to_pylist()) == {None}
