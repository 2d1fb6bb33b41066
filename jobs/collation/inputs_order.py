"""In which order the components use their masks: what ``--sort`` says, as a rank of every row of the base."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.jobs.errors import ConfigError
from skysom.storage.catalogue import required_column
from skysom.storage.errors import CatalogueError
from skysom.storage.selection import column_names

if TYPE_CHECKING:
    import pandas as pd

ORDERS = ("best_matching_first", "largest_first", "area_ratio", "random")
WITHIN = ("distance", "row")
_OPTIONS = {
    "best_matching_first": (),
    "largest_first": ("channel", "within"),
    "area_ratio": ("first", "second", "include", "exclude", "within"),
    "random": (),
}


@dataclass(frozen=True)
class Sources:
    """What orders are made of. neuron, distance : (n,) of every row of the base, -1 and NaN without.

    usable : (n,) bool, rows that use a mask. planes : (N, C, D, D) uint64; labels : P names.
    """

    neuron: np.ndarray
    distance: np.ndarray
    usable: np.ndarray
    planes: np.ndarray
    labels: Sequence[str]


def sort_columns(sort: str) -> list[str]:
    """Columns of the base that an order needs; CatalogueError for an expression that is none."""
    return [] if _name(sort) in ORDERS else column_names(sort)


def ranks(sort: str, sources: Sources, table: "Callable[[list[str]], pd.DataFrame]") -> np.ndarray:
    """Rank (n,) int64 of the rows of the base, 0.. in order, -1 for rows that are not usable.

    sort : ``best_matching_first``; ``largest_first[:channel=0][:within=row]``, the extent of the neuron's mask;
    ``area_ratio[:first=0][:second=1][:include=LABEL][:exclude=LABEL][:within=row]``, the labelled area of one channel
    over that of another; ``random[:SEED]``; or an expression of columns of the base, the smallest value first. Rows of
    one neuron come by distance, or by row with ``within=row``; equal ones always by row.
    table : reads columns of the base.

    Raises
    ------
    ConfigError : options that an order has not, an expression without any finite value. CatalogueError : an expression
    that cannot be evaluated.
    CollationError : a channel that the masks have not.
    """
    from skysom.engine.collation import orders

    name, given = _name(sort), sort.split(":")[1:]
    if name not in ORDERS:
        values = _values(sort, table(column_names(sort)))
        if not np.isfinite(values[sources.usable]).any():
            raise ConfigError(
                f"--sort {sort!r} has a finite value for none of the {np.count_nonzero(sources.usable):,} components "
                f"that use a mask; give one of {', '.join(ORDERS)}, or an expression that has"
            )
        return orders.by_values(values, sources=sources.usable)
    if name == "random":
        return orders.random(len(sources.neuron), _seed(sort, given), sources=sources.usable)
    options = _options(sort, name, given)
    neuron = np.where(sources.usable, sources.neuron, -1)
    if name == "best_matching_first":
        return orders.best_matching_first(sources.distance, neuron)
    within = options.get("within", ["distance"])[-1]
    if within not in WITHIN:
        raise ConfigError(f"--sort {sort!r}: within={within!r}; sources of one neuron go by {' or '.join(WITHIN)}")
    distance = sources.distance if within == "distance" else None
    if name == "largest_first":
        extents = orders.neuron_extents(sources.planes, _channel(sort, options, "channel", 0, sources))
        return orders.largest_first(extents, neuron, distance)
    first, second = _channel(sort, options, "first", 0, sources), _channel(sort, options, "second", 1, sources)
    chosen = [_labels(sort, options.get(key), sources.labels) for key in ("include", "exclude")]
    return orders.area_ratio(orders.neuron_area_ratios(sources.planes, first, second, *chosen), neuron, distance)


def _name(sort: str) -> str:
    return sort.partition(":")[0].strip()


def _seed(sort: str, given: list[str]) -> int:
    if len(given) > 1 or (given and not given[0].isdigit()):
        raise ConfigError(f"--sort {sort!r}: the seed is a whole number from 0, as in random:7")
    return int(given[0]) if given else 0


def _options(sort: str, name: str, given: list[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if key not in _OPTIONS[name] or not equals or not value:
            known = ", ".join(f"{known}=" for known in _OPTIONS[name]) or "none"
            raise ConfigError(f"--sort {sort!r}: {text!r} is no option of {name}; its options are {known}")
        options.setdefault(key, []).append(value)
    return options


def _channel(sort: str, options: dict[str, list[str]], key: str, default: int, sources: Sources) -> int:
    text, channels = options.get(key, [str(default)])[-1], sources.planes.shape[1]
    if not text.isdigit() or int(text) >= channels:
        raise ConfigError(
            f"--sort {sort!r} looks at channel {text} ({key}=), the masks have the channels 0 to {channels - 1}; "
            f"name one of them, as in {_name(sort)}:{key}=0"
        )
    return int(text)


def _labels(sort: str, names: list[str] | None, labels: Sequence[str]) -> tuple[int, ...] | None:
    if names is None:
        return None
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise ConfigError(f"--sort {sort!r}: there is no label {unknown[0]!r}; the masks carry {list(labels)}")
    return tuple(labels.index(name) for name in names)


def _values(expression: str, table: "pd.DataFrame") -> np.ndarray:
    """An expression on columns as numbers (n,), NaN where it has no value; its syntax is that of `selection.select`."""
    import pandas as pd

    quoted: dict[str, str] = {}
    text = re.sub(r"`([^`]+)`", lambda found: quoted.setdefault(found[1], f"quoted_column_{len(quoted)}_"), expression)
    frame: dict[str, pd.Series] = {}
    for column in column_names(expression):
        values = table[required_column(table, column, f"--sort {expression!r}")]
        if not pd.api.types.is_numeric_dtype(values):
            raise CatalogueError(
                f"--sort {expression!r}: column {column!r} holds {values.dtype}, an order needs numbers; give one of "
                f"{', '.join(ORDERS)}, or an expression of numeric columns"
            )
        # A minus before what is unsigned, or a truth, would be another number.
        kind: Any = "float64" if pd.api.types.is_float_dtype(values) else "Int64"
        frame[quoted.get(column, column)] = values.reset_index(drop=True).astype(kind)
    try:
        found = pd.DataFrame(frame).eval(text.strip(), engine="python", local_dict={}, global_dict={})
    except Exception as error:  # whatever pandas makes of types that do not fit
        raise CatalogueError(f"--sort {expression!r} cannot be evaluated: {error}") from error
    if not isinstance(found, pd.Series):
        raise CatalogueError(f"--sort {expression!r} is no value a row; name a column, e.g. -total_flux")
    if found.isna().any() or not isinstance(found.dtype, np.dtype):
        return found.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return found.to_numpy()
