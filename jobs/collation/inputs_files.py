"""Small files a collation reads, both TOML: which action each label has, and what a person says of single groups."""

import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage import place as places
from skysom.storage.place import Place, place

if TYPE_CHECKING:
    import pyarrow as pa

    from skysom.engine.collation.actions import Action
    from skysom.engine.collation.groups import Corrections

KNOWN_ACTIONS = {"Related Radio": "LINK", "IR Host": "DATA_ATTACH"}
"""What labels of these names are for, where no file says otherwise."""
LARGEST_FILE = 64 << 20


def read_actions(path: str | Place | None, labels: Sequence[str]) -> tuple[tuple["Action", ...], dict[str, str]]:
    """The action of each label, and their names by label.

    path : TOML, flat: ``"label" = "ACTION"``, in any case of letters. None: `KNOWN_ACTIONS`, where all ``labels`` are
    among them.

    Raises
    ------
    ConfigError : no such file, no TOML, one that is not flat, or no file and labels whose purpose is not known.
    CollationError : actions that do not exist, on labels that do not, or a label without one.
    """
    from skysom.engine.collation.actions import ACTIONS, actions_for

    if path is None:
        unknown = [label for label in labels if label not in KNOWN_ACTIONS]
        if unknown:
            lines = "\n".join(f"  {_quoted(label)} = {_quoted(KNOWN_ACTIONS.get(label, 'PASS'))}" for label in labels)
            raise ConfigError(
                f"what is to be done with what lies under {', '.join(map(repr, unknown))}? Give --actions FILE.toml "
                f"with an action for each label of the annotations, such as\n{lines}\n"
                f"The actions are {', '.join(ACTIONS)}"
            )
        chosen = {label: KNOWN_ACTIONS[label] for label in labels}
        say(f"collate: actions {', '.join(f'{label}: {action}' for label, action in chosen.items())} (no --actions)")
        return actions_for(labels, chosen), chosen
    path = place(path)
    table = _toml(path, "--actions", '"Related Radio" = "LINK"')
    for label, action in table.items():
        if not isinstance(action, str):
            raise ConfigError(
                f'--actions {path}: {label!r} is {_shown(action)}; every line is "label" = "ACTION", without tables'
            )
    chosen = {label: action.upper() for label, action in table.items()}
    return actions_for(labels, chosen), chosen


def read_corrections(path: str | Place, ids: "pa.LargeStringArray | None", rows: int) -> "Corrections":
    """What a person says of groups: ``together = [[..., ...], ...]`` and ``apart = [...]`` of ids or row numbers.

    ids : (rows,) text, ids of the base rows by which texts in the file are found; None where rows have no ids. Whole
    numbers are rows of the base.

    Raises
    ------
    ConfigError : no such file, no TOML of that form, an id or row that is not there, or an id of several rows.
    CollationError : a set of fewer than two rows.
    """
    from skysom.engine.collation.groups import Corrections

    path = place(path)
    table = _toml(path, "--corrections", 'together = [["J0001", "J0002"]]')
    unknown = [key for key in table if key not in ("together", "apart")]
    together, apart = table.get("together", []), table.get("apart", [])
    flat = isinstance(together, list) and all(isinstance(group, list) for group in together) and isinstance(apart, list)
    named = [*apart, *(one for group in together for one in group)] if flat else []
    strange = [one for one in named if not isinstance(one, str | int) or isinstance(one, bool)]
    if unknown or not flat or strange:
        raise ConfigError(
            f"--corrections {path}: {_shown((unknown or strange or [table])[0])} is not understood; give together = "
            '[["J0001", "J0002"], ...] and apart = ["J0003", ...] with ids of components, or row numbers without quotes'
        )
    row_of = _rows_of({one for one in named if isinstance(one, str)}, ids, path)
    for one in named:
        if isinstance(one, int) and not 0 <= one < rows:
            raise ConfigError(f"--corrections {path}: there is no row {one}; the base has rows 0 to {rows - 1}")
    sets = tuple(tuple(row_of.get(one, one) for one in group) for group in together)
    return Corrections(sets, tuple(row_of.get(one, one) for one in apart))


def _rows_of(wanted: set[str], ids: "pa.LargeStringArray | None", path: Place) -> dict[Any, Any]:
    if not wanted:
        return {}
    if ids is None:
        raise ConfigError(
            f"--corrections {path} names {sorted(wanted)[0]!r}, the base has no ids; give row numbers without quotes"
        )
    import pyarrow as pa
    import pyarrow.compute as pc

    named = pc.is_in(ids, value_set=pa.array(sorted(wanted), ids.type))
    rows = np.flatnonzero(named.to_numpy(zero_copy_only=False))
    row_of: dict[Any, Any] = {}
    for row, name in zip(rows.tolist(), ids.take(pa.array(rows)).to_pylist(), strict=True):
        if name in row_of:
            raise ConfigError(
                f"--corrections {path} names {name!r}, which rows {row_of[name]} and {row} share; give the row number "
                "without quotes"
            )
        row_of[name] = row
    missing = sorted(wanted - row_of.keys())
    if missing:
        raise ConfigError(
            f"--corrections {path}: {len(missing)} of {len(wanted)} ids are not in the base, such as {missing[0]!r}; "
            "correct them, or name the column of ids with --id-column"
        )
    return row_of


def _toml(path: Place, option: str, example: str) -> dict[str, Any]:
    if not places.is_file(path):
        raise ConfigError(f"{option} {path}: there is no such file; write one in TOML, with lines such as {example}")
    try:
        with places.open_binary(path) as stream:
            content = stream.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"{option} {path} has more than {LARGEST_FILE:,} bytes; give a TOML file written for it")
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError
        raise ConfigError(f"{option} {path} is no TOML ({error}); its lines look like {example}") from None


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
