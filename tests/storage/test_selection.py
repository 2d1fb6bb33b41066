"""What expressions compare: texts with texts and numbers with numbers, in any part of a table alike."""

import numpy as np
import pandas as pd
import pytest

from skysom.storage.errors import CatalogueError
from skysom.storage.selection import select


@pytest.fixture
def frame():
    columns = {
        "name": ["a", None, "5"],
        "its class": ["x", "y", "z"],
        "flux": [1.0, np.nan, 5.0],
        "n": pd.array([1, 2, None], "Int16"),
        "good": [True, False, True],
        "nothing": [np.nan] * 3,
        "empty": pd.Series([None] * 3, dtype=object),
        "day": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]),
    }
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("name == 5", "column 'name' \\(texts\\) with 5"),
        ("-5 != name", "-5 with column 'name' \\(texts\\)"),
        ("flux > 0 and not name == True", "column 'name' \\(texts\\) with True"),
        ("name in ['a', 5]", "column 'name' \\(texts\\) with 5"),
        ("`its class` not in [1, 2]", "column 'its class' \\(texts\\) with 1"),
        ("flux == '5'", "column 'flux' \\(numbers\\) with '5'"),
        ("n != '5' or good", "column 'n' \\(numbers\\) with '5'"),
        ("good == 'True'", "column 'good' \\(numbers\\) with 'True'"),
        ("name == flux", "column 'name' \\(texts\\) with column 'flux' \\(numbers\\)"),
    ],
)
@pytest.mark.parametrize("rows", [0, 3])
def test_texts_are_not_compared_with_numbers(frame, expression, told, rows):
    typed = frame.astype({"name": "string", "its class": "string"})
    for table in [typed.iloc[:rows], frame] if rows else [typed.iloc[:rows]]:
        with pytest.raises(CatalogueError, match=f"compares {told}; a text is never equal to a number: write texts"):
            select(table, expression)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("name == '5' and flux == 5", [0, 0, 1]),
        ("name in ['a', '5']", [1, 0, 1]),
        ("n in [1, 2.5] or flux == -1", [1, 0, 0]),
        ("good == 1 and good == True", [1, 0, 1]),
        ("day > '2020-01-02'", [0, 0, 1]),
        ("nothing == 'x' or n == 2", [0, 1, 0]),  # CSV of empty values
        ("empty > 'x' or n == 2", [0, 1, 0]),
        ("empty != name or n == 2", [0, 1, 0]),
        ("empty == 5 or n == 2", [0, 1, 0]),
    ],
)
def test_what_may_be_equal_is_compared(frame, expression, expected):
    assert select(frame, expression).tolist() == [bool(one) for one in expected]
