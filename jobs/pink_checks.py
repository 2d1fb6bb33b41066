"""What ``import-pink`` and ``export-pink`` check before they write anything."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from skysom.engine.lattice import Lattice, lattice_from_dict
from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage.place import Place
from skysom.storage.survey import Survey

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""Names of maps and mappings, as ``som.name`` of the configuration: they are names of directories."""


def rows_file(path: Path) -> Path:
    """The table beside an exported file that says which row of the survey each of its rows is."""
    return path.with_name(f"{path.name}.rows.csv")


def check_name(name: str) -> None:
    """ConfigError for a name that could lie outside its group of the store."""
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"--som-name is {name!r}; use letters, digits, '_', '.' and '-', beginning with a letter or digit"
        )


def check_new(store: Survey, name: str, som: Path | None, mapping: Path | None) -> None:
    """ConfigError where the store has the map or mapping: the other of the two would not fit the new one."""
    for path, kind, names in ((som, "map", store.som_names()), (mapping, "mapping", store.mapping_names())):
        if path is not None and name in names:
            option = "--som" if kind == "map" else "--mapping"
            raise ConfigError(
                f"{store.path} has a {kind} {name!r} already, {path} would replace it; "
                f"give another --som-name, or leave {option} out to keep it"
            )


def check_outputs(survey: Place, rows: list[Path], others: list[Path]) -> None:
    """ConfigError where outputs share a file or lie in the store; beside each of ``rows`` goes its `rows_file`."""
    outputs: set[Path] = set()
    for path in [*others, *rows, *map(rows_file, rows)]:
        resolved = path.resolve()
        if resolved in outputs:
            raise ConfigError(f"{path} would be written twice; give every output its own file")
        if isinstance(survey, Path) and survey.resolve() in (resolved, *resolved.parents):
            raise ConfigError(f"{path} lies in the survey store {survey}; give a place outside it")
        outputs.add(resolved)


def check_complete(store: Survey, name: str, *, transforms: bool) -> None:
    """ConfigError unless mappings/<name> is there (``transforms`` too) with every neuron for every usable row."""
    if name not in store.mapping_names():
        raise ConfigError(f"{store.path} has no mapping {name!r}; it has {store.mapping_names()}")
    group = f"mappings/{name}"
    if transforms and f"{group}/rotation" not in store:
        raise ConfigError(f"mapping {name!r} was imported without transforms; export it without --transforms")
    if f"{group}/bmu" not in store or f"{group}/bmu_distance" not in store:
        raise ConfigError(f"mapping {name!r} was only begun; finish it with `skysom map --som-name {name}`")
    attrs = store.group[group].attrs
    if "keep" in attrs:
        raise ConfigError(
            f"mapping {name!r} keeps the best {attrs['keep']} neurons of each image, the peer's files hold all; map "
            "again without map.keep under another --som-name and export that"
        )
    if "where" in attrs:
        raise ConfigError(
            f"mapping {name!r} is of the rows where {attrs['where']}, the peer's files hold all usable rows; map "
            "again without --where under another --som-name and export that"
        )
    ok, bmu, distance = (store.column(array) for array in ("ok", f"{group}/bmu", f"{group}/bmu_distance"))
    missing = int(np.count_nonzero(ok & ((bmu < 0) | np.isnan(distance))))
    if missing:
        raise ConfigError(
            f"mapping {name!r} lacks a result for {missing} of {np.count_nonzero(ok)} usable rows; "
            f"finish it with `skysom map --som-name {name}`, or import a complete one"
        )


def note_approximate(store: Survey, name: str) -> None:
    """Tell where distances that are exported are approximate: the peer's files cannot say so."""
    method = store.group[f"mappings/{name}"].attrs.get("method", "exact")
    if method != "exact":
        most = "all distances" if method == "polar" else "distances but those of best-matching units"
        say(
            f"export: {most} of mapping {name!r} are approximate ({method} search); for exact ones map again with "
            "--method exact under another --som-name and export that"
        )


def mapping_lattice(store: Survey, name: str) -> Lattice:
    """Lattice of the map that mappings/<name> is of."""
    attrs: dict[str, Any] = dict(store.group[f"mappings/{name}"].attrs)
    return lattice_from_dict(attrs["lattice"])
