"""The survey store: one Zarr v3 group that holds images, maps and mappings, and opens in xarray.

Layout (dimension names in brackets; see ARCHITECTURE.md):

    images         [image, channel, y, x]  cut-outs as ingested (absent with ``store="none"``)
    prepared       [image, channel, prepared_y, prepared_x]  after preprocessing (absent with ``store="none"``)
    image_scale, prepared_scale   [image]  what float16 images are to be multiplied by (absent for float32)
    source_id, ra_deg, dec_deg, status, coverage, prepared_status, channel_sum, ok   one row an image
    soms/<name>/weights      [neuron, channel, neuron_y, neuron_x]
    mappings/<name>/distance, rotation, flip [image, neuron]; bmu, bmu_distance, bmu_rotation, bmu_flip [image]

Row i of every array is row i of the catalogue: a failed image keeps its row. Every array is cut in
shards of ``shard_images`` rows along ``image``, and a shard has one writer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from skysom.storage import place as places
from skysom.storage import publish
from skysom.storage.errors import SurveyError
from skysom.storage.place import Place, is_remote, place, remove_tree
from skysom.storage.status import STATUSES
from skysom.storage.zarr_store import zarr_store

FORMAT_VERSION = 1
CHUNK_IMAGES = 64
"""Images in a chunk; a shard holds several chunks and is the unit of writing."""


PREPARED_AXES = ("channel", "prepared_y", "prepared_x")
"""Axes of prepared images beyond ``image``: their side may differ from that of the cut-outs."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape beyond the image axis, dtype, dimension names and attributes of one array."""

    dtype: str
    dims: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    fill: Any = 0
    attrs: Mapping[str, Any] | None = None


class Survey:
    """A survey store on disk or in an object store.

    Parameters
    ----------
    path : path or URL of the Zarr group (``OUTPUT/survey.zarr``).
    mode : ``"r"`` to read, ``"r+"`` to write into an existing store.

    Raises
    ------
    SurveyError : no store there, or one written by another format version.
    StoreUnreachableError, PlaceError : a remote store that does not answer, or refuses.
    """

    def __init__(self, path: str | Place, mode: str = "r") -> None:
        self.path = place(path)
        try:
            self.group = zarr.open_group(zarr_store(self.path), mode=mode, zarr_format=3)  # type: ignore[arg-type]
        except FileNotFoundError:
            raise SurveyError(f"no survey store at {self.path}; make one with `skysom ingest`") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SurveyError(
                f"{self.path} is damaged ({type(error).__name__}: {error}); restore it or use a new --output"
            ) from error
        self._opened: dict[str, zarr.Array] = {}
        found = self.group.attrs.get("format_version")
        if found != FORMAT_VERSION:
            raise SurveyError(
                f"{self.path} has store format {found!r}, this skysom reads {FORMAT_VERSION}; "
                "ingest again into a new --output, or use the skysom version that wrote it"
            )

    @classmethod
    def create(cls, path: str | Place, *, images: int, shard_images: int, attrs: Mapping[str, Any]) -> "Survey":
        """Make an empty store for ``images`` rows; ``shard_images`` must be a multiple of 64."""
        if shard_images % CHUNK_IMAGES:
            raise SurveyError(
                f"shard_images is {shard_images}; use a multiple of {CHUNK_IMAGES} so that shards hold whole chunks"
            )
        group = zarr.create_group(zarr_store(place(path)), overwrite=False)
        group.attrs.update(
            {
                **attrs,
                "format_version": FORMAT_VERSION,
                "skysom_version": version("skysom"),
                "images": images,
                "shard_images": shard_images,
            }
        )
        return cls(path, "r+")

    @staticmethod
    def is_at(path: Place) -> bool:
        """Whether there is a store, written to the end, at ``path``; the root is the last that is put there."""
        return places.exists(path / publish.ROOT if is_remote(path) else path)

    def __len__(self) -> int:
        return int(self.group.attrs["images"])  # type: ignore[arg-type]

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the store."""
        return dict(self.group.attrs)

    @property
    def shard_images(self) -> int:
        """Rows of a shard."""
        return int(self.group.attrs["shard_images"])  # type: ignore[arg-type]

    def shards(self) -> list[tuple[int, int]]:
        """Row ranges [start, stop) of the shards, in order."""
        return [(start, min(start + self.shard_images, len(self))) for start in range(0, len(self), self.shard_images)]

    def __contains__(self, name: str) -> bool:
        return name in self.group

    def __getitem__(self, name: str) -> zarr.Array:
        if name not in self._opened:  # else a worker would read the same metadata with every shard
            try:
                self._opened[name] = self.group[name]  # type: ignore[assignment]
            except KeyError:
                there = sorted(self.group.array_keys())
                raise SurveyError(f"{self.path} holds no array {name!r}; it has {there}") from None
            except (ValueError, TypeError, AttributeError) as error:
                raise self._damaged(name, error) from error
        return self._opened[name]

    def attrs_of(self, name: str) -> dict[str, Any]:
        """Attributes of a group of the store, as mappings/<name>; SurveyError where none or damaged."""
        try:
            return dict(self.group[name].attrs)
        except KeyError:
            raise SurveyError(f"{self.path} holds no group {name!r}; make it again") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> SurveyError:
        return SurveyError(
            f"{name} in {self.path} is damaged ({type(error).__name__}: {error}); restore it, or discard the stage "
            "that made it with `--redo`"
        )

    def add_image_array(self, name: str, spec: ArraySpec) -> zarr.Array:
        """Create (or keep, where it is there already) an array with one row an image."""
        if name in self.group:
            return self._kept(name, spec)
        folder, _, last = name.rpartition("/")
        group = self.group.require_group(folder) if folder else self.group
        big = len(spec.shape) > 0
        rows = self.shard_images
        return group.create_array(
            last,
            shape=(len(self), *spec.shape),
            dtype=spec.dtype,
            chunks=((CHUNK_IMAGES if big else rows), *spec.shape),
            shards=(rows, *spec.shape) if big else None,
            # The checksum makes a flipped bit an error instead of a slightly different survey.
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.shuffle), Crc32cCodec()],
            fill_value=spec.fill,
            dimension_names=("image", *spec.dims),
            attributes=dict(spec.attrs or {}),
        )

    def _kept(self, name: str, spec: ArraySpec) -> zarr.Array:
        array = self[name]
        found = (array.shape[1:], np.dtype(str) if spec.dtype == "str" else array.dtype)
        wanted = (spec.shape, np.dtype(str) if spec.dtype == "str" else np.dtype(spec.dtype))
        if found != wanted:
            raise SurveyError(
                f"{self.path} holds {name} of shape and type {found}, {wanted} is needed; "
                "discard the stage that made it with `--redo`"
            )
        return array

    def column(self, name: str) -> np.ndarray:
        """All rows of a per-image array without further dimensions, (images,)."""
        # An interrupted append may have grown the array already.
        return self.read(name, 0, len(self))

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of an array; SurveyError where their checksum differs."""
        try:
            return np.asarray(self[name][start:stop])
        except (ValueError, RuntimeError) as error:
            raise SurveyError(
                f"rows {start}..{stop} of {name} in {self.path} are damaged ({error}); "
                "discard the stage that made them with `--redo`"
            ) from error

    def write_rows(self, name: str, start: int, values: np.ndarray) -> None:
        """Write whole shards of ``name`` from row ``start``; ranges that cut a shard are refused."""
        stop = start + len(values)
        if values.shape[1:] != self[name].shape[1:]:
            raise SurveyError(f"rows of {name} have shape {self[name].shape[1:]}, not {values.shape[1:]}")
        if start % self.shard_images or (stop % self.shard_images and stop != len(self)):
            raise SurveyError(
                f"rows {start}..{stop} of {name} cut a shard of {self.shard_images}: two writers could lose data"
            )
        self[name][start:stop] = values

    def resize(self, images: int, **attrs: Any) -> None:
        """Grow every per-image array to ``images`` rows (appending), then set that number and ``attrs`` at once.

        A kill in between leaves arrays longer than the number of rows, which the next call mends.
        """
        if images < len(self):
            raise SurveyError(f"the store has {len(self)} rows; it cannot shrink to {images}")
        self._opened.clear()
        for array in _image_arrays(self.group):
            array.resize((images, *array.shape[1:]))
        self.group.attrs.update({**attrs, "images": images})

    # --- maps ---------------------------------------------------------------------------------

    def save_som(self, name: str, weights: np.ndarray, attrs: Mapping[str, Any]) -> None:
        """Store a map (N, C, D, D) float32 as soms/<name>, replacing one of the same name.

        The map is written beside, with its checksum last, and then published; `recover` ends what a kill
        interrupted.
        """
        final = self.path / "soms" / name
        self.group.require_group("soms")
        beside = publish.beside_of(final)
        remove_tree(beside)
        group = zarr.create_group(zarr_store(beside))
        array = group.create_array(
            "weights",
            shape=weights.shape,
            dtype="float32",
            chunks=(min(len(weights), CHUNK_IMAGES), *weights.shape[1:]),
            dimension_names=("neuron", "channel", "neuron_y", "neuron_x"),
        )
        array[:] = weights
        digest = hashlib.sha256(np.ascontiguousarray(weights, np.float32).tobytes()).hexdigest()
        group.attrs.update({**attrs, "sha256": digest, "skysom_version": version("skysom")})
        publish.publish(beside, final)

    def recover(self) -> int:
        """End replacements of maps and mappings that were killed half-way; returns how many partial ones it removed."""
        return sum(publish.recover(self.path / parent) for parent in ("soms", "mappings"))

    def load_som(self, name: str) -> tuple[np.ndarray, dict[str, Any]]:
        """Weights (N, C, D, D) float32 and attributes of soms/<name>; SurveyError where none or damaged.

        ``sha256`` is among the attributes also of a map that was stored before checksums were.
        """
        if name not in self.som_names():
            raise SurveyError(f"{self.path} has no map {name!r}; it has {self.som_names()}")
        attrs, array = self.attrs_of(f"soms/{name}"), self[f"soms/{name}/weights"]
        try:
            weights = np.asarray(array[:])
        except (ValueError, RuntimeError) as error:
            raise self._damaged(f"soms/{name}", error) from error
        digest = hashlib.sha256(weights.tobytes()).hexdigest()
        if attrs.get("sha256", digest) != digest:
            raise SurveyError(f"the map {name!r} in {self.path} is damaged: its checksum differs; train it again")
        return weights, attrs | {"sha256": digest}

    def load_som_attrs(self, name: str) -> dict[str, Any]:
        """Attributes of soms/<name> alone."""
        return self.attrs_of(f"soms/{name}")

    def som_names(self) -> list[str]:
        """Names of the maps, sorted."""
        return self._groups("soms")

    def mapping_names(self) -> list[str]:
        """Names of the mappings, sorted."""
        return self._groups("mappings")

    def _groups(self, parent: str) -> list[str]:
        """Names of the groups of ``parent``; those that begin with a dot are being written."""
        try:
            keys = list(self.group[parent].group_keys()) if parent in self.group else []  # type: ignore[union-attr]
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(parent, error) from error
        return sorted(key for key in keys if not key.startswith("."))

    # --- rows ---------------------------------------------------------------------------------

    def statuses(self, rows: slice = slice(None)) -> np.ndarray:
        """Status names (n,) of the rows: the ingest cause where there is one, else the preprocessing cause."""
        codes = self.column("status")[rows]
        if "prepared_status" in self:
            codes = np.where(codes == 0, self.column("prepared_status")[rows], codes)
        return np.asarray(STATUSES)[codes]


def add_images(survey: Survey, name: str, spec: ArraySpec) -> None:
    """Create an array of images; float16 ones with the array of their scales (``images`` -> ``image_scale``)."""
    survey.add_image_array(name, spec)
    if spec.dtype == "float16":
        attrs = {"long_name": f"what the rows of {name} are to be multiplied by"}
        survey.add_image_array(_SCALES[name], ArraySpec("float32", fill=1, attrs=attrs))


def write_images(survey: Survey, name: str, start: int, images: np.ndarray) -> None:
    """Write whole shards of images (n, C, H, W) float32 as the array holds them."""
    if survey[name].dtype == np.float16:
        images, scale = pack_half(images)
        survey.write_rows(_SCALES[name], start, scale)
    survey.write_rows(name, start, images)


def read_images(survey: Survey, name: str, start: int, stop: int) -> np.ndarray:
    """Images [start, stop) (n, C, H, W) float32, whatever they are stored as."""
    images = survey.read(name, start, stop)
    if images.dtype == np.float16:
        return unpack_half(images, survey.read(_SCALES[name], start, stop))
    return images.astype(np.float32, copy=False)


_SCALES = {"images": "image_scale", "prepared": "prepared_scale"}


def pack_half(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, ...) as float16 and the power of two (n,) float32 each was divided by.

    The scale brings the brightest pixel of an image near 1000, so that neither bright sources overflow
    nor faint noise falls below the smallest normal number.
    """
    peaks = np.nanmax(np.where(np.isfinite(images), np.abs(images), 0), axis=tuple(range(1, images.ndim)), initial=0)
    exponent = np.floor(np.log2(np.where(peaks > 0, peaks, 1))) - 9
    scale = np.exp2(np.clip(exponent, -126, 127)).astype(np.float32)
    return (images / scale.reshape(-1, *[1] * (images.ndim - 1))).astype(np.float16), scale


def unpack_half(images: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 images that `pack_half` packed."""
    return images.astype(np.float32) * scale.reshape(-1, *[1] * (images.ndim - 1))


def status_attrs() -> dict[str, Any]:
    """CF-convention flag attributes for an array of status codes."""
    return {"flag_values": list(range(len(STATUSES))), "flag_meanings": " ".join(STATUSES)}


def _image_arrays(group: zarr.Group) -> Sequence[zarr.Array]:
    found = []
    for _, member in group.members(max_depth=None):
        if isinstance(member, zarr.Array) and (member.metadata.dimension_names or ("",))[0] == "image":  # type: ignore[union-attr]
            found.append(member)
    return found
