"""A mapping in the store, read lazily: as an xarray.Dataset, or in blocks of rows that are read ahead."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.errors import EngineError
from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Lattice, lattice_from_dict
from skysom.engine.reading.units import best_units
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.map import require_mapped
from skysom.jobs.output import Output
from skysom.jobs.preprocess import PreparedReader, open_prepared
from skysom.storage.errors import SurveyError
from skysom.storage.survey import Survey

if TYPE_CHECKING:
    import xarray

BLOCK_BYTES = 32 << 20
"""Bytes of a block of rows; reading ahead holds three of them at most."""
AHEAD = 2
"""Blocks read while one is computed: the reading itself is not waited for, and memory stays that of three."""


@dataclass(frozen=True)
class Block:
    """Rows [start, stop) of a mapping by array name, each (stop - start, ...)."""

    start: int
    stop: int
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


@dataclass(frozen=True)
class Units:
    """Best units of the rows [start, stop), as `engine.reading.units.best_units` gives them.

    neuron (n, count) int64, distance (n, count) float32. lost : (n,) bool, mapped rows whose neurons are all left out.
    """

    start: int
    stop: int
    neuron: np.ndarray
    distance: np.ndarray
    lost: np.ndarray


class MappingReader:
    """``mappings/NAME`` of an output, read-only; opening reads no rows.

    Raises
    ------
    MissingStageError : no such mapping, or one that lacks shards. ConfigError, SurveyError : a damaged output.
    """

    def __init__(self, output: Output, name: str = "main") -> None:
        require_mapped(output, name)
        self.output, self.name, self.survey = output, name, Survey(output.survey)
        self.group = f"mappings/{name}"
        self.attrs: dict[str, Any] = self.survey.attrs_of(self.group)
        missing = [key for key in ("lattice", "geometry") if key not in self.attrs]
        if missing:
            raise MissingStageError(f"mapping {name!r} says nothing of its {' and '.join(missing)}; map again")
        try:
            known = self.lattice.size > 0 and self.geometry is not None
        except (EngineError, TypeError, KeyError, AttributeError) as error:
            raise SurveyError(
                f"{self.group} in {self.survey.path} says nothing that can be read of its lattice and geometry "
                f"({error}); restore it, or map again with `--redo map`"
            ) from error
        columns = self.survey[f"{self.group}/distance"].shape[1]
        if known and self.keep is None and columns != self.lattice.size:
            raise SurveyError(
                f"{self.group} in {self.survey.path} has distances to {columns} neurons, its lattice has "
                f"{self.lattice.size}; restore it, or map again with `--redo map`"
            )

    def __len__(self) -> int:
        """Rows of the survey."""
        return len(self.survey)

    @cached_property
    def lattice(self) -> Lattice:
        """How the neurons of the mapping are arranged."""
        return lattice_from_dict(self.attrs["lattice"])

    @cached_property
    def geometry(self) -> Geometry:
        """Sides in pixels, region, rotations and flips of the mapping."""
        return Geometry(**self.attrs["geometry"])

    @property
    def neurons(self) -> int:
        """N, the number of neurons."""
        return self.lattice.size

    @property
    def keep(self) -> int | None:
        """How many neurons an image are kept, the nearest first; None for all."""
        return self.attrs.get("keep")

    @property
    def exact_neurons(self) -> int | None:
        """How many of the nearest neurons of an image have the distance of the exact search; None for all."""
        return int(self.attrs.get("exact_neurons", 1)) if self.attrs.get("method") == "certified" else None

    @property
    def arrays(self) -> list[str]:
        """Names of the arrays of the mapping."""
        return sorted(self.survey.group[self.group].array_keys())  # type: ignore[union-attr]

    def best_units(self) -> np.ndarray:
        """Best-matching units of all rows (rows,) int64, -1 without.

        SurveyError where they are not of this lattice, or rows have one and no distance or a distance and none: a
        file of the store that is gone reads as rows that have nothing.
        """
        bmu = np.array(self.survey.column(f"{self.group}/bmu"), np.int64)
        if bmu.min(initial=0) < -1 or bmu.max(initial=-1) >= self.neurons:
            raise SurveyError(
                f"{self.group}/bmu in {self.survey.path} has neurons {bmu.min()} to {bmu.max()}, the map has "
                f"{self.neurons}; restore it, or map again with `--redo map`"
            )
        self.check_rows(bmu, np.isfinite(self.survey.column(f"{self.group}/bmu_distance")))
        return bmu

    def check_rows(self, bmu: np.ndarray, mapped: np.ndarray, start: int = 0) -> None:
        """SurveyError unless exactly the rows that are ``mapped`` (n,) bool, from ``start``, have a ``bmu`` (n,)."""
        differ = np.flatnonzero((bmu >= 0) != mapped)
        if len(differ):
            raise SurveyError(
                f"row {start + differ[0]} and {len(differ) - 1} more of {self.group} in {self.survey.path} have a "
                "neuron and no distance, or a distance and no neuron: the store lost data; restore it, or map again "
                "with `--redo map`"
            )

    # --- is it the mapping of this map? -----------------------------------------------------------

    def check_map(self) -> bool:
        """Whether the map in the store is the one this mapping was made with; False where nobody can tell.

        That is where the map is not in the store, or the mapping was imported and has no hash.

        Raises
        ------
        ConfigError : they differ, by the hash of their weights. SurveyError : a damaged map.
        """
        wanted = self.attrs.get("som_sha256")
        if wanted is None or self.name not in self.survey.som_names():
            return False
        found = hashlib.sha256(np.ascontiguousarray(self.survey.load_som(self.name)[0]).tobytes()).hexdigest()
        if found != wanted:
            raise ConfigError(
                f"the map soms/{self.name} of {self.output.root} is not the one its mapping was made with:\n"
                f"  sha256 of the map:   {found}\n  mapping was made with: {wanted}\n"
                f"map again with `skysom run --output {self.output.root} --redo map --som-name {self.name}`"
            )
        return True

    # --- lazily -----------------------------------------------------------------------------------

    def dataset(self, block_rows: int | None = None) -> "xarray.Dataset":
        """The arrays of the mapping as an xarray.Dataset of Dask arrays; nothing is read until it is computed.

        Chunks are ``block_rows`` rows (whole shards; default of some MB). Where all neurons are kept, dimension
        ``neuron`` has the coordinates ``bmu_row``, ``bmu_col`` and ``bmu_depth`` of the lattice.
        """
        import dask.array
        import xarray

        rows = self.block_rows() if block_rows is None else self._whole_shards(block_rows)
        variables = {}
        for name in self.arrays:
            array = self.survey[f"{self.group}/{name}"]
            lazy = dask.array.from_zarr(array, chunks=(rows, *array.shape[1:]))
            dims: Any = array.metadata.dimension_names  # type: ignore[union-attr]
            # An interrupted append leaves arrays longer, and not all alike.
            variables[name] = (dims, lazy[: len(self)], dict(array.attrs))
        found = xarray.Dataset(variables, attrs=self.attrs)
        if "neuron" in found.dims:
            names = ("bmu_row", "bmu_col", "bmu_depth")
            places = zip(names, self.lattice.positions().T, strict=True)
            found = found.assign_coords({name: ("neuron", values) for name, values in places})
        return found

    # --- in blocks --------------------------------------------------------------------------------

    def block_rows(self, arrays: Sequence[str] = ("distance",)) -> int:
        """Rows of a block of about 32 MB of these arrays: whole shards, one at least."""
        sizes = [self.survey[f"{self.group}/{name}"] for name in arrays]
        row = sum(array.dtype.itemsize * int(np.prod(array.shape[1:])) for array in sizes)
        return self._whole_shards(BLOCK_BYTES // row)

    def blocks(
        self, arrays: Sequence[str] | None = None, *, rows: int | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[Block]:
        """Blocks of whole shards in the order of rows; two are read ahead in a thread while one is used.

        Parameters
        ----------
        arrays : names; default the distances, and their neurons where the best few are kept.
        rows : of a block, made a multiple of the shards; default about 32 MB.
        start, stop : the rows wanted; default all.

        Raises
        ------
        SurveyError : an array that is not there, or damaged rows.
        """
        names = list(arrays) if arrays is not None else self._distances
        step = self.block_rows(names) if rows is None else self._whole_shards(rows)
        end = len(self) if stop is None else min(stop, len(self))
        for name in names:
            self.survey[f"{self.group}/{name}"]  # opened here, not in the thread

        def read(first: int) -> Block:
            last = min(first // step * step + step, end)
            found = {name: self.survey.read(f"{self.group}/{name}", first, last) for name in names}
            return Block(first, last, found)

        firsts = [max(first, start) for first in range(start // step * step, end, step)]
        yield from read_ahead(read, firsts)

    def units(self, count: int = 2, *, excluded: np.ndarray | None = None, rows: int | None = None) -> Iterator[Units]:
        """The ``count`` best units of all rows, block by block, without the neurons ``excluded`` (N,) bool.

        Of a mapping of the best few, a row all of whose neurons are left out has none: -1, and counted as lost.
        Where fewer than ``count`` are kept the others are -1. ReadingError for a mask of another size.
        """
        for block in self.blocks(rows=rows):
            neuron = block.arrays.get("neuron")
            best, distance = best_units(block["distance"], count, neuron=neuron, excluded=excluded)
            lost = best[:, 0] < 0
            lost[lost] = np.isfinite(block["distance"][lost]).any(axis=1)
            yield Units(block.start, block.stop, best, distance, lost)

    def rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Single rows (n,) of an array, in that order."""
        wanted, back = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        array = self.survey[f"{self.group}/{name}"]
        found = np.asarray(array.oindex[wanted]) if len(wanted) else np.empty((0, *array.shape[1:]), array.dtype)
        return found[back]

    @property
    def _distances(self) -> list[str]:
        return ["distance"] if self.keep is None else ["distance", "neuron"]

    def _whole_shards(self, rows: int) -> int:
        shard = self.survey.shard_images
        return max(rows // shard, 1) * shard


def read_ahead(read: Callable[[int], Block], firsts: Sequence[int]) -> Iterator[Block]:
    """``read`` of every one of ``firsts`` in order, in a thread that stays at most two ahead.

    What is read is let go as the next one is asked for; an error of reading is raised where its block is due.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting: list[Future[Block]] = []
        try:
            for first in firsts:
                waiting.append(thread.submit(read, first))
                if len(waiting) > AHEAD:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def prepared_as_mapped(reader: MappingReader) -> PreparedReader:
    """The images as the mapping saw them: with the channel weights of its map. MissingStageError where there are none.

    Of a map that is not in the store the weights of preprocessing are taken.
    """
    prepared = open_prepared(reader.output)
    attrs = reader.survey.load_som_attrs(reader.name) if reader.name in reader.survey.som_names() else {}
    return replace(prepared, weights=tuple(attrs.get("channel_weights", prepared.weights)))


def mapping_name(output: Output, name: str | None) -> str:
    """The mapping meant by ``name``: without one "main", or the only one there is.

    MissingStageError where there is none, or more than one and none is called main.
    """
    if name is not None:
        return name
    output.need("ingest", "skysom run")
    names = Survey(output.survey).mapping_names()
    if "main" in names or not names:
        return "main"
    if len(names) > 1:
        raise MissingStageError(f"{output.root} has the mappings {', '.join(names)}; choose one with --som-name")
    return names[0]
