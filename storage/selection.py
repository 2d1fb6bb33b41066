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
    evaluated: no calls, attributes, subscripts or outer variables. Each row is decided by itself, so
    any part of a table gives the same answer as the whole.

    Raises
    ------
    CatalogueError : other syntax, an unknown column, types that do not compare (a text is never equal to a number), or
        no true/false result.
    """
    text, columns = _parsed(expression)
    where = f"the selection {expression!r}"
    used = {name: table[required_column(table, column, where)] for name, column in columns.items()}
    frame = pd.DataFrame({name: _nullable(column) for name, column in used.items()})
    _check_kinds(text, frame, columns, expression)
    try:
        result = frame.eval(text, engine="python", parser="pandas", local_dict={}, global_dict={})
    except Exception as error:  # whatever pandas makes of types that do not fit
        raise CatalogueError(f"the selection {expression!r} cannot be evaluated: {error}") from error
    if not (isinstance(result, pd.Series) and pd.api.types.is_bool_dtype(result)):
        raise CatalogueError(f"the selection {expression!r} gives no true/false; compare, e.g. snr > 5")
    return result.fillna(False).to_numpy(dtype=bool)


def column_names(expression: str) -> list[str]:
    """Columns an expression names, each once.

    Raises
    ------
    CatalogueError : syntax that ``select`` does not evaluate.
    """
    return list(_parsed(expression)[1].values())


def _parsed(expression: str) -> tuple[str, dict[str, str]]:
    """An expression with names for what stands between backticks, and the column of each name in it."""
    quoted: dict[str, str] = {}

    def placeholder(match: re.Match[str]) -> str:
        return quoted.setdefault(match[1], f"quoted_column_{len(quoted)}_")

    text = re.sub(r"`([^`]+)`", placeholder, expression).strip()
    names = _checked_names(text, expression)
    columns = {new: old for old, new in quoted.items()}
    return text, {name: columns.get(name, name) for name in sorted(names)}


def _nullable(column: pd.Series) -> pd.Series:
    """A column of a nullable type, so that a comparison with a missing value is undecided, not false.

    The type follows from the column's own and never from its values (floats stay floats where all are
    whole): a part of a table is typed as the whole. Objects that are all missing compare as texts, which most are.
    """
    if column.dtype == object and len(column) and column.isna().all():
        return column.astype("string")
    if not pd.api.types.is_float_dtype(column):
        return column.convert_dtypes()
    if isinstance(column.dtype, np.dtype):
        return column.astype("Float64" if column.dtype.itemsize > 4 else "Float32")
    return column


def _check_kinds(text: str, frame: pd.DataFrame, columns: dict[str, str], expression: str) -> None:
    """Refuse == and in between texts and numbers, which pandas decides without a word; < and > it refuses itself."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        if not isinstance(node, ast.Compare):
            continue
        for one, sign, other in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if not isinstance(sign, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                continue
            for item in other.elts if isinstance(other, ast.List | ast.Tuple) else [other]:
                if {_kind(one, frame), _kind(item, frame)} == {"text", "number"}:
                    first, second = (_told(side, frame, columns) for side in (one, item))
                    raise CatalogueError(
                        f"the selection {expression!r} compares {first} with {second}; a text is never equal to a "
                        "number: write texts between quotes and numbers without"
                    )


def _kind(node: ast.expr, frame: pd.DataFrame) -> str:
    """ "text" or "number" (so is true/false); "" for what may be either, as a column whose values are all missing."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return _kind(node.operand, frame)
    if isinstance(node, ast.Constant):
        return "text" if isinstance(node.value, str) else "number"
    if not isinstance(node, ast.Name):
        return ""
    column = frame[node.id]
    if len(column) and column.isna().all():
        return ""
    if isinstance(column.dtype, pd.StringDtype):
        return "text"
    return "number" if pd.api.types.is_numeric_dtype(column) else ""


def _told(node: ast.expr, frame: pd.DataFrame, columns: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return f"column {columns[node.id]!r} ({_kind(node, frame)}s)"
    return ast.unparse(node)


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
    _check_lists(nodes, expression)
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    if not names:
        raise CatalogueError(f"the selection {expression!r} names no column")
    return names


# --- reading --------------------------------------------------------------------------------------


def _check_lists(nodes: list[ast.AST], expression: str) -> None:
    """Refuse whatever compares a row with other rows: ``n in snr``, or a list beside a column."""
    placed: set[ast.AST] = set()
    members = True
    for node in nodes:
        if isinstance(node, ast.Compare):
            last = node.comparators[-1]
            if isinstance(last, ast.List | ast.Tuple) and isinstance(
                node.ops[-1], ast.In | ast.NotIn | ast.Eq | ast.NotEq
            ):
                placed.add(last)
            among = [
                right
                for op, right in zip(node.ops, node.comparators, strict=True)
                if isinstance(op, ast.In | ast.NotIn)
            ]
            members = members and placed.issuperset(among)
    lists = [node for node in nodes if isinstance(node, ast.List | ast.Tuple)]
    named = any(isinstance(part, ast.Name) for node in lists for part in ast.walk(node))
    if not members or named or not placed.issuperset(lists):
        raise CatalogueError(
            f"the selection {expression!r} uses in or a list otherwise than `column in [1, 2]`; "
            "write it so, with numbers or texts in the list"
        )
