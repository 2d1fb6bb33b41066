"""Which rows of a catalogue an expression selects; nothing but comparisons and arithmetic is evaluated."""

import ast
import re

import numpy as np
import pandas as pd

from skysom.storage.catalogue import required_column
from skysom.storage.errors import CatalogueError

_ALLOWED: tuple[type[ast.AST], ...] = (
    *(ast.Expression, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Constant),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.List, ast.Tuple),
    *(ast.And, ast.Or, ast.Not, ast.BitAnd, ast.BitOr, ast.Invert, ast.UAdd, ast.USub),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div),
)


def select(table: pd.DataFrame, expression: str) -> np.ndarray:
    """Rows (n,) bool for which an expression on the columns is true; rows it cannot decide (NaN) are out.

    Comparisons, ``and``/``or``/``not`` (``&``, ``|``, ``~``), ``in [...]`` and + - * / on columns,
    numbers and texts; a column name that is no identifier goes between backticks. Nothing else is
    evaluated: no calls, attributes, subscripts or outer variables.

    Raises
    ------
    CatalogueError : other syntax, an unknown column, types that do not compare, or no true/false result.
    """
    quoted: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        return quoted.setdefault(match[1], f"quoted_column_{len(quoted)}_")

    text = re.sub(r"`([^`]+)`", placeholder, expression).strip()
    names = _checked_names(text, expression)
    columns = {new: old for old, new in quoted.items()}
    where = f"the selection {expression!r}"
    used = {name: table[required_column(table, columns.get(name, name), where)] for name in sorted(names)}
    # Nullable types, so that a comparison with a missing value is undecided rather than false.
    frame = pd.DataFrame(used).convert_dtypes()
    try:
        result = frame.eval(text, engine="python", parser="pandas", local_dict={}, global_dict={})
    except Exception as error:  # whatever pandas makes of types that do not fit
        raise CatalogueError(f"the selection {expression!r} cannot be evaluated: {error}") from error
    if not (isinstance(result, pd.Series) and pd.api.types.is_bool_dtype(result)):
        raise CatalogueError(f"the selection {expression!r} gives no true/false; compare, e.g. snr > 5")
    return result.fillna(False).to_numpy(dtype=bool)


def _checked_names(text: str, expression: str) -> set[str]:
    """Names used in an expression, after refusing everything but plain comparisons and arithmetic."""
    if len(text) > 2000:
        raise CatalogueError(f"the selection has {len(text)} characters; at most 2000 are read")
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = f"the selection {expression!r} is no expression: {error}"
        raise CatalogueError(f"{what}; write a column name that is no plain word as `name`") from error
    for node in nodes:
        allowed = isinstance(node, _ALLOWED)
        if isinstance(node, ast.Constant):
            allowed = isinstance(node.value, bool | int | float | str)
        if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitAnd | ast.BitOr):
            # Arithmetic is for numbers: a text or list times a large one would fill the memory.
            allowed = allowed and not any(
                isinstance(part, ast.List | ast.Tuple) or isinstance(getattr(part, "value", None), str)
                for part in ast.walk(node)
            )
        if not allowed:
            raise CatalogueError(
                f"the selection {expression!r} uses {type(node).__name__}, which is not evaluated; "
                "use comparisons, and/or/not, in [...] and + - * / on columns"
            )
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    if not names:
        raise CatalogueError(f"the selection {expression!r} names no column")
    return names


# --- reading --------------------------------------------------------------------------------------
