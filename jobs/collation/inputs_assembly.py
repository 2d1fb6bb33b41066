"""From mapped components, masks and catalogues to the inputs of a collation, with all that is checked before work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skysom.jobs.collation.inputs import STATUSES, CollationInputs, Mapped
from skysom.jobs.collation.inputs_catalogue import (
    CatalogueChoice,
    CatalogueFile,
    check_positions,
    checked_positions,
    fingerprint,
    open_catalogue,
    repeated,
    same_file,
)
from skysom.jobs.collation.inputs_files import read_actions, read_corrections
from skysom.jobs.collation.inputs_masks import Masks, reach_arcsec
from skysom.jobs.collation.inputs_order import Sources, ranks, sort_columns
from skysom.jobs.errors import ConfigError
from skysom.jobs.progress import say
from skysom.storage.catalogue import ROW_NUMBER
from skysom.storage.errors import CatalogueError

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 8
"""Neurons or rows listed in a message."""
Unannotated = Literal["refuse", "singletons"]


@dataclass(frozen=True)
class CollateOptions:
    """How to collate, as the user says it.

    catalogues : one a channel of the map, the first is the base. actions : TOML file, see `read_actions`. sort : see
    `inputs_order.ranks`. pixel_scale_arcsec : arcsec a pixel of masks in x and y; None where the survey knows
    it. separation_limit_arcsec : None for as far as the masks reach. float32_angles : sines and cosines as the peer's.
    flux_columns, redshift_column : of the base. unannotated : what becomes of components whose neuron nobody has
    annotated. corrections : TOML file, see `read_corrections`. excluded : neurons that no component may have.
    """

    catalogues: tuple[CatalogueChoice, ...] = ()
    actions: str | None = None
    sort: str = "best_matching_first"
    pixel_scale_arcsec: tuple[float, float] | None = None
    separation_limit_arcsec: float | None = None
    float32_angles: bool = False
    flux_columns: tuple[str, ...] = ()
    redshift_column: str | None = None
    unannotated: Unannotated = "refuse"
    corrections: str | None = None
    excluded: tuple[int, ...] = ()


@dataclass(frozen=True)
class Base:
    """The rows of the base. ra_deg, dec_deg : (n,) NaN without. ids : (n,) text, None where it has no ids."""

    file: CatalogueFile
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    ids: "pa.LargeStringArray | None"

    def __len__(self) -> int:
        return len(self.ra_deg)


def open_catalogues(options: CollateOptions, channels: Sequence[str], masks: Masks) -> tuple[CatalogueFile, ...]:
    """The catalogues of the channels; channels at the end whose masks are empty need none.

    Raises
    ------
    ConfigError : none at all, more than channels, or none for a channel with masks. CatalogueError : see
    `open_catalogue`.
    """
    given, count = len(options.catalogues), len(channels)
    if not given:
        raise ConfigError("no catalogue: give --catalogue FILE, once a channel of the map, the components first")
    named = f"{count} channel{'s' * (count > 1)} ({', '.join(channels)})"
    if given > count:
        raise ConfigError(f"the map has {named}, {given} catalogues are given; give one a channel, in their order")
    masked = [channel for channel in range(given, count) if (masks.planes[:, channel] != 0).any()]
    if masked:
        raise ConfigError(
            f"the map has {named}, {given} catalogue{'s' * (given > 1)} given, and there are masks on channel "
            f"{channels[masked[0]]!r}; give a --catalogue for each channel in their order, the first one again where a "
            "channel has none of its own"
        )
    return tuple(open_catalogue(choice) for choice in options.catalogues)


def read_base(file: CatalogueFile) -> Base:
    """Positions and ids of all rows of the base; raises as `checked_positions`."""
    table = file.read(file.needed)
    ra, dec = checked_positions(file, table)
    ids = None if file.id_column == ROW_NUMBER else file.id_texts(table)
    return Base(file, ra, dec, ids)


def assemble(
    base: Base,
    files: Sequence[CatalogueFile],
    mapped: Mapped,
    masks: Masks,
    options: CollateOptions,
    pixel_scale_arcsec: tuple[float, float],
    origin: Mapping[str, Any],
) -> CollationInputs:
    """The inputs of a collation. origin : plain values that say where mapping and masks come from.

    Raises
    ------
    ConfigError, CatalogueError, CollationError : whatever cannot be collated, see the package's documentation.
    """
    check_scale(pixel_scale_arcsec)
    for other in files[1:]:
        if not same_file(base.file, other):
            check_positions(other)
    planes = np.ascontiguousarray(masks.planes[:, : len(files)])
    actions, names = read_actions(options.actions, masks.labels)
    status = statuses(base, mapped, masks, options.unannotated)
    usable = np.isin(status, [STATUSES.index("ok"), STATUSES.index("empty_mask")])
    limit = separation_limit(options.separation_limit_arcsec, planes, mapped, usable, pixel_scale_arcsec)
    neuron, distance = np.full(len(base), -1, np.int32), np.full(len(base), np.nan, np.float32)
    neuron[mapped.row], distance[mapped.row] = mapped.neuron, mapped.distance
    _check_columns(base.file, options)
    sources = Sources(neuron, distance, usable, planes, masks.labels)
    rank = ranks(options.sort, sources, base.file.read)
    corrections = None
    if options.corrections is not None:
        corrections = read_corrections(options.corrections, base.ids, len(base))
    made_of = {**origin, "annotations": masks.origin, **_chosen(options, names, files, pixel_scale_arcsec, limit)}
    return CollationInputs(
        mapped,
        tuple(files),
        np.array([same_file(base.file, file) for file in files]),
        masks.labels,
        planes,
        actions,
        rank,
        status,
        masks.neuron_labels,
        pixel_scale_arcsec,
        limit,
        options.float32_angles,
        options.flux_columns,
        options.redshift_column,
        made_of,
        corrections,
    )


def _chosen(
    options: CollateOptions,
    actions: dict[str, str],
    files: Sequence[CatalogueFile],
    scale: Sequence[float],
    limit: float,
) -> dict[str, Any]:
    """What was asked for, and the catalogues it is asked of, as plain values."""
    return {
        "actions": actions,
        "sort": options.sort,
        "catalogues": [_described(file) for file in files],
        "pixel_scale_arcsec": list(scale),
        "separation_limit_arcsec": limit,
        "float32_angles": options.float32_angles,
        "flux_columns": list(options.flux_columns),
        "redshift_column": options.redshift_column,
    }


def statuses(base: Base, mapped: Mapped, masks: Masks, unannotated: Unannotated) -> np.ndarray:
    """Status (n,) uint8 of the rows of the base, and a line that counts those that use no mask.

    Raises ConfigError where components have a neuron that nobody has annotated, unless they are to stay alone.
    """
    code = {name: number for number, name in enumerate(STATUSES)}
    status = np.full(len(base), code["not_mapped"], np.uint8)
    empty, strange = masks.empty()[mapped.neuron], ~masks.annotated[mapped.neuron]
    if strange.any() and unannotated == "refuse":
        neurons, counts = np.unique(mapped.neuron[strange], return_counts=True)
        shown = ", ".join(map(str, neurons[np.argsort(-counts, kind="stable")][:SHOWN].tolist()))
        raise ConfigError(
            f"{strange.sum():,} of {len(mapped):,} mapped components have one of {len(neurons)} neurons that are not "
            f"annotated ({shown}{', ...' * (len(neurons) > SHOWN)}); annotate them (a note is enough where nothing is "
            "to be masked), or leave these components alone with --unannotated singletons"
        )
    status[mapped.row] = np.where(strange, code["unannotated_neuron"], np.where(empty, code["empty_mask"], code["ok"]))
    if base.ids is not None:
        status[repeated(base.ids)] = code["duplicate_id"]
    status[~np.isfinite(base.ra_deg)] = code["no_position"]
    counts = np.bincount(status, minlength=len(STATUSES))
    causes = [f"{counts[number]:,} {name}" for name, number in code.items() if name != "ok" and counts[number]]
    if causes:
        say(f"collate: {counts[0]:,} of {len(base):,} components use a mask ({', '.join(causes)})")
    if not counts[0]:
        raise ConfigError("no component has a mask: none would be linked; see the counts above for the causes")
    return status


def separation_limit(
    given: float | None,
    planes: np.ndarray,
    mapped: Mapped,
    usable: np.ndarray,
    pixel_scale_arcsec: tuple[float, float],
) -> float:
    """The separation in arcsec up to which neighbours are looked up: no more than the masks in use reach.

    A larger one would be the same collation with more work, a smaller one leaves labels out; both are said.

    Raises ConfigError for one that is not positive.
    """
    used = np.unique(mapped.neuron[usable[mapped.row]])
    reach = reach_arcsec(planes[used], pixel_scale_arcsec)
    if given is None:
        return reach
    if not 0 < given < 180 * 3600:
        raise ConfigError(f"--separation-limit is {given:g} arcsec; give one above 0 (the masks reach {reach:.4g})")
    if given > reach:
        side = planes.shape[-1]
        say(
            f"collate: the masks in use reach {reach:.4g} arcsec from their source (frames of {side} pixels), "
            f"--separation-limit is {given:g}: beyond {reach:.4g} no neighbour can have a label, and none is looked up"
        )
        return reach
    if given < reach:
        say(
            f"collate: the masks in use reach {reach:.4g} arcsec from their source; what lies under them beyond "
            f"--separation-limit {given:g} is not looked up"
        )
    return float(given)


def check_scale(pixel_scale_arcsec: tuple[float, float]) -> None:
    """ConfigError unless both scales are positive angles."""
    if not all(0 < scale < 3600 * 90 for scale in pixel_scale_arcsec):
        raise ConfigError(
            f"--pixel-scale is {', '.join(f'{scale:g}' for scale in pixel_scale_arcsec)}; give arcsec a pixel, above 0"
        )


def _check_columns(file: CatalogueFile, options: CollateOptions) -> None:
    """Before any work: CatalogueError where the base lacks a named column or it holds no numbers, ConfigError for a
    flux that is named twice."""
    import pandas as pd

    twice = sorted({name for name in options.flux_columns if options.flux_columns.count(name) > 1})
    if twice:
        raise ConfigError(f"--flux {twice[0]} is given {options.flux_columns.count(twice[0])} times; give it once")
    named = [(column, "--flux") for column in options.flux_columns]
    named += [(options.redshift_column, "--redshift")] if options.redshift_column else []  # type: ignore[list-item]
    there, wanted = file.columns(), [*named, *((column, "--sort") for column in sort_columns(options.sort))]
    for column, option in wanted:
        if column not in there:
            raise CatalogueError(f"{file.path} has no column {column!r} ({option}); it has {', '.join(there)}")
    if not named:
        return
    _, block = next(file.blocks([column for column, _ in named]))
    for column, option in named:
        if not pd.api.types.is_numeric_dtype(block[column]):
            raise CatalogueError(
                f"{option} {column}: the column of {file.path} holds {block[column].dtype}, such as "
                f"{block[column].iloc[0]!r}; name a column of numbers"
            )


def _described(file: CatalogueFile) -> dict[str, Any]:
    columns = {"ra_column": file.ra_column, "dec_column": file.dec_column, "id_column": file.id_column}
    return {"name": file.path.name, "rows": file.rows, **columns, **fingerprint(file.path)}
