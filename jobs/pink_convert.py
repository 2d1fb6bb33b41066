"""Files of the peer into a survey store and back, shard by shard: images, maps, mappings, transforms."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from skysom.engine.geometry import Geometry
from skysom.engine.lattice import Cartesian, Hexagonal, Lattice, lattice_from_dict, lattice_to_dict
from skysom.jobs import pink_checks
from skysom.jobs.errors import ConfigError
from skysom.storage import pinkfile
from skysom.storage.pinkfile import PinkData, PinkMap, PinkTransforms
from skysom.storage.pinkheader import Layout
from skysom.storage.place import Place, exists, remove_tree
from skysom.storage.publish import publish
from skysom.storage.status import CODES
from skysom.storage.survey import PREPARED_AXES, ArraySpec, Survey, read_images, status_attrs


def import_pink(
    survey: Place,
    *,
    images: Path | None = None,
    som: Path | None = None,
    mapping: Path | None = None,
    transforms: Path | None = None,
    name: str = "main",
    layout: Layout = "auto",
    rotations: int = 360,
    flip: bool = True,
    region: str = "quadratic",
    region_side: int | None = None,
    shard_images: int = 256,
) -> None:
    """Bring files of the peer into the survey store at ``survey`` (a ``survey.zarr``).

    Parameters
    ----------
    images : data file; makes a new store, with the images as they are in ``images`` and, where all pixels
        are finite, in ``prepared``. Without it the store must exist.
    som, mapping, transforms : SOM, map and transform file, for soms/<name> and mappings/<name>. A mapping
        has a row for every image of the store, or for every usable one.
    layout : of the map; "auto" tells a hexagonal one by the length of the file.
    rotations, flip, region, region_side : the options the files were made with, which they do not hold.

    Raises
    ------
    PinkFormatError : a file that contradicts the format, or a map that is not finite. ConfigError : files that
    do not fit together, a bad name, or one the store has already. SurveyError : no store.
    """
    pink_checks.check_name(name)
    if transforms is not None and mapping is None:
        raise ConfigError(f"{transforms} alone has no distances; give the map file it was written with")
    if images is not None:
        _import_images(survey, pinkfile.open_data(images), shard_images)
    store = Survey(survey, "r+")
    pink_checks.check_new(store, name, som, mapping)
    options = {"rotations": rotations, "flip": flip, "region": region, "region_side": region_side}
    if som is not None:
        _import_som(store, som, name, layout, options)
    if mapping is not None:
        try:
            distances = pinkfile.open_map(mapping, layout)
            entries = None if transforms is None else pinkfile.open_transforms(transforms, layout)
            _import_mapping(store, distances, entries, name, options)
        except BaseException:
            if som is not None:  # so that the same call can be given again, mended
                remove_tree(store.path / "soms" / name)
            raise


def export_pink(
    survey: Place,
    *,
    images: Path | None = None,
    som: Path | None = None,
    mapping: Path | None = None,
    transforms: Path | None = None,
    name: str = "main",
) -> None:
    """Write usable images, soms/<name> and mappings/<name> of the store ``survey`` as files of the peer.

    Each path that is given is written. The peer's files have no ids and no holes: rows that are not ``ok``
    are left out, and ``<file>.rows.csv`` beside every file of images says which row of the survey each is.

    Raises
    ------
    SurveyError : no store or map. ConfigError : no usable row or finished mapping, or outputs out of place.
    """
    pink_checks.check_name(name)
    rows = [path for path in (images, mapping, transforms) if path is not None]
    pink_checks.check_outputs(survey, rows, [] if som is None else [som])
    store = Survey(survey)
    count = int(np.count_nonzero(store["ok"][:])) if images or mapping or transforms else 1
    if count == 0:
        raise ConfigError(f"{survey} has {len(store)} images and none is usable; nothing can be exported")
    if mapping or transforms:
        pink_checks.check_complete(store, name, transforms=transforms is not None)
        pink_checks.note_approximate(store, name)
    if som is not None:
        weights, attrs = store.load_som(name)
        side, channels = weights.shape[3], weights.shape[1]
        dims = (side, side) if channels == 1 else (channels, side, side)
        pinkfile.write_som(som, weights, lattice_from_dict(attrs["lattice"]).shape, dims)
    if images is not None:
        channels, side = store["prepared"].shape[1:3]
        dims = (side, side) if channels == 1 else (channels, side, side)
        with pinkfile.data_writer(images, count, dims) as writer:
            for start, stop in store.shards():
                writer.write(read_images(store, "prepared", start, stop)[_ok(store, start, stop)])
        _write_rows(store, images)
    if mapping is not None:
        _export_distances(store, mapping, count, name)
        _write_rows(store, mapping)
    if transforms is not None:
        _export_transforms(store, transforms, count, name)
        _write_rows(store, transforms)


# --- images -----------------------------------------------------------------------------------


def _import_images(path: Place, data: PinkData, shard_images: int) -> None:
    if exists(path):
        raise ConfigError(f"{path} exists; images make a new store, give another place or leave --images out")
    channels, side, _ = data.shape
    beside = path.with_name(f"{path.name}.partial")
    remove_tree(beside)
    attrs = {
        "channels": [f"channel{i}" for i in range(channels)],
        "image_unit": "",
        "image_side": side,
        "prepared_side": side,
        "pixel_scale_arcsec": None,
        "resample_arcsec": None,
        "filename_column": "filename",
        "redshift_column": None,
        "id_column": "source_id",
        "chain": [],
        "channel_weights": [1.0] * channels,
        "parts": [],
    }
    store = Survey.create(beside, images=data.count, shard_images=shard_images, attrs=attrs)
    for name, spec in _columns(channels, side).items():
        store.add_image_array(name, spec)
    for start, stop in store.shards():
        for name, values in _rows_of(data.read(start, stop), start).items():
            store.write_rows(name, start, values)
    publish(beside, path)


def _columns(channels: int, side: int) -> dict[str, ArraySpec]:
    axes, shape = ("channel", "y", "x"), (channels, side, side)
    return {
        "images": ArraySpec("float32", axes, shape, np.nan, {"long_name": "image of the peer's data file"}),
        "prepared": ArraySpec("float32", PREPARED_AXES, shape, attrs={"long_name": "image as the SOM sees it"}),
        "source_id": ArraySpec("str", fill=""),
        "ra_deg": ArraySpec("float64", fill=np.nan, attrs={"units": "degree"}),
        "dec_deg": ArraySpec("float64", fill=np.nan, attrs={"units": "degree"}),
        "status": ArraySpec("uint8", fill=CODES["ok"], attrs=status_attrs()),
        "coverage": ArraySpec("float32", attrs={"units": "1", "long_name": "share of pixels with data"}),
        "prepared_status": ArraySpec("uint8", attrs=status_attrs()),
        "channel_sum": ArraySpec("float32", ("channel",), (channels,)),
        "ok": ArraySpec("bool", fill=False),
    }


def _rows_of(images: np.ndarray, start: int) -> dict[str, np.ndarray]:
    """Values of the store's arrays for ``images`` (n, C, H, W), the first of which is row ``start``."""
    finite = np.isfinite(images)
    ok = finite.all(axis=(1, 2, 3))
    empty = ~finite.any(axis=(1, 2, 3))
    prepared = np.where(ok[:, None, None, None], images, np.float32(0))
    return {
        "images": images,
        "prepared": prepared,
        "source_id": np.array([str(start + i) for i in range(len(images))], dtype=object),
        "coverage": finite.mean(axis=(1, 2, 3), dtype=np.float32),
        "status": np.where(empty, CODES["all_nan"], CODES["ok"]).astype(np.uint8),
        # The peer's files have no mask: an image with holes cannot be used as it is.
        "prepared_status": np.where(ok, CODES["ok"], CODES["not_finite"]).astype(np.uint8),
        "channel_sum": prepared.sum(axis=(2, 3), dtype=np.float64).astype(np.float32),
        "ok": ok,
    }


def _ok(store: Survey, start: int, stop: int) -> np.ndarray:
    return np.asarray(store["ok"][start:stop])


def _write_rows(store: Survey, path: Path) -> None:
    """Beside ``path``, which row and source of the survey each of its rows is."""
    import csv

    final = pink_checks.rows_file(path)
    beside = final.with_name(f"{final.name}.partial")
    with beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "source_id"])
        for start, stop in store.shards():
            ids = store["source_id"][start:stop]
            writer.writerows((start + int(i), ids[i]) for i in np.flatnonzero(_ok(store, start, stop)))  # type: ignore[index]
    beside.replace(final)


# --- maps -------------------------------------------------------------------------------------


def _lattice(som_dims: tuple[int, ...], layout: str) -> Lattice:
    if layout == "hexagonal":
        return Hexagonal(som_dims[0])
    width, height, depth = (*som_dims, 1, 1)[:3]
    return Cartesian(width, height, depth)


def read_som(path: Path, layout: Layout = "auto") -> tuple[np.ndarray, Lattice]:
    """Weights (N, C, D, D) float32 and lattice of a SOM file; PinkFormatError for a bad or not finite one."""
    som = pinkfile.open_som(path, layout)
    return np.array(som.read_finite(), np.float32), _lattice(som.som_dims, som.layout)


def _import_som(store: Survey, path: Path, name: str, layout: Layout, options: Mapping[str, Any]) -> None:
    som = pinkfile.open_som(path, layout)
    channels = store.attrs["channels"]
    if som.shape[0] != len(channels):
        raise ConfigError(f"{path} has neurons of {som.shape[0]} channels, the survey has {len(channels)}")
    geometry = Geometry.derive(store.attrs["prepared_side"], neuron_side=som.shape[1], **options)
    attrs = {
        "lattice": lattice_to_dict(_lattice(som.som_dims, som.layout)),
        "geometry": asdict(geometry),
        "channels": channels,
        "training": {"imported_from": path.name, "comment": som.comment.decode(errors="replace")},
        "config_hash": None,
    }
    store.save_som(name, som.read_finite(), attrs)


# --- mappings ---------------------------------------------------------------------------------


def _import_mapping(
    store: Survey, distances: PinkMap, entries: PinkTransforms | None, name: str, options: Mapping[str, Any]
) -> None:
    ok = np.asarray(store["ok"][:])
    present = np.arange(len(store)) if distances.count == len(store) else np.flatnonzero(ok)
    if distances.count != len(present):
        raise ConfigError(
            f"{distances.path} has {distances.count} rows, the survey {len(store)} images of which "
            f"{len(present)} are usable; give the map of these images"
        )
    attrs = _mapping_attrs(store, distances, entries, name, options)
    beside = f"mappings/.{name}.partial"
    remove_tree(store.path / beside)
    try:
        _write_mapping(store, beside, distances, entries, present, attrs)
    except BaseException:
        remove_tree(store.path / beside)
        raise
    publish(store.path / beside, store.path / "mappings" / name)


def _write_mapping(
    store: Survey,
    group: str,
    distances: PinkMap,
    entries: PinkTransforms | None,
    present: np.ndarray,
    attrs: Mapping[str, Any],
) -> None:
    """Write ``group`` shard by shard; row i of the files is row ``present[i]`` of the store."""
    columns = _mapping_columns(distances.neurons, entries is not None)
    for array, spec in columns.items():
        store.add_image_array(f"{group}/{array}", spec)
    for start, stop in store.shards():
        first, last = np.searchsorted(present, (start, stop))
        rows = present[first:last] - start
        found = _matches(distances, entries, int(first), int(last), attrs["geometry"])
        for array, spec in columns.items():
            values = np.full((stop - start, *spec.shape), spec.fill, spec.dtype)
            values[rows] = found[array]
            store.write_rows(f"{group}/{array}", start, values)
    store.group[group].attrs.update(attrs)


def _mapping_attrs(
    store: Survey, distances: PinkMap, entries: PinkTransforms | None, name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    lattice = lattice_to_dict(_lattice(distances.som_dims, distances.layout))
    if entries is not None:
        other = (entries.count, entries.som_dims, entries.layout)
        own = (distances.count, distances.som_dims, distances.layout)
        if other != own:
            raise ConfigError(
                f"{entries.path} has (images, map, layout) {other}, {distances.path} has {own}; "
                "give the two files of one mapping"
            )
    neuron_side, sha256 = None, {}
    if name in store.som_names():
        som = store.load_som(name)[1]
        sha256 = {"som_sha256": som["sha256"]} if "sha256" in som else {}
        neuron_side = som["geometry"]["neuron_side"]
        # A periodic lattice has the same header.
        if {**som["lattice"], "periodic": False} != lattice:
            found = f"{distances.path} is of the map {lattice}, soms/{name} is {som['lattice']}"
            raise ConfigError(f"{found}; give the mapping another name")
        lattice = som["lattice"]
    geometry = Geometry.derive(store.attrs["prepared_side"], neuron_side=neuron_side, **options)
    return {
        "som": name,
        "rotations": geometry.rotations,
        "lattice": lattice,
        "geometry": asdict(geometry),
        "imported_from": distances.path.name,
        **sha256,
    }


def _mapping_columns(neurons: int, with_transforms: bool) -> dict[str, ArraySpec]:
    shape = (neurons,)
    columns = {
        "distance": ArraySpec("float32", ("neuron",), shape, np.nan),
        "bmu": ArraySpec("int32", fill=-1),
        "bmu_distance": ArraySpec("float32", fill=np.nan),
    }
    if with_transforms:
        columns |= {
            "rotation": ArraySpec("uint16", ("neuron",), shape),
            "flip": ArraySpec("bool", ("neuron",), shape, False),
            "bmu_rotation": ArraySpec("uint16"),
            "bmu_flip": ArraySpec("bool", fill=False),
        }
    return columns


def _matches(
    distances: PinkMap, entries: PinkTransforms | None, start: int, stop: int, geometry: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Values of the mapping's arrays for rows start..stop-1 of the files."""
    distance = distances.read(start, stop)
    known = ~np.isnan(distance).any(axis=1)
    bmu = np.where(known, np.argmin(distance, axis=1), 0)
    rows = np.arange(len(distance))
    found = {
        "distance": distance,
        "bmu": np.where(known, bmu, -1).astype(np.int32),
        "bmu_distance": np.where(known, distance[rows, bmu], np.float32(np.nan)),
    }
    if entries is not None:
        rotation, flip = _transforms(entries, start, stop, geometry)
        found |= {"rotation": rotation, "flip": flip}
        found |= {"bmu_rotation": rotation[rows, bmu], "bmu_flip": flip[rows, bmu]}
    return found


def _transforms(
    entries: PinkTransforms, start: int, stop: int, geometry: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation k (n, neurons) uint16 and flip (n, neurons) bool; refuses angles that are no k * 2 pi / R."""
    flip, angle = entries.read(start, stop)
    rotations = geometry["rotations"]
    turns = angle.astype(np.float64) * (rotations / (2 * np.pi))
    k = np.rint(turns)
    strange = ~((np.abs(turns - k) < 0.01) & (k >= 0) & (k < rotations))
    if strange.any():
        row, neuron = np.argwhere(strange)[0]
        raise ConfigError(
            f"{entries.path}, image {start + row}, neuron {neuron}: angle {angle[row, neuron]:.6g} is no "
            f"multiple of 2 pi / {rotations} below 2 pi; give the --rotations of the mapping"
        )
    if flip.any() and not geometry["flip"]:
        raise ConfigError(f"{entries.path} has flipped images, the options say there are none; allow flips")
    return k.astype(np.uint16), flip


def _export_distances(store: Survey, path: Path, count: int, name: str) -> None:
    lattice = pink_checks.mapping_lattice(store, name)
    with pinkfile.map_writer(path, count, lattice.shape, lattice.kind) as writer:
        for start, stop in store.shards():
            writer.write(np.asarray(store[f"mappings/{name}/distance"][start:stop])[_ok(store, start, stop)])


def _export_transforms(store: Survey, path: Path, count: int, name: str) -> None:
    lattice = pink_checks.mapping_lattice(store, name)
    rotations = int(store.group[f"mappings/{name}"].attrs["rotations"])  # type: ignore[arg-type]
    step = np.float32(2 * np.pi) / np.float32(rotations)
    with pinkfile.transform_writer(path, count, lattice.shape, lattice.kind) as writer:
        for start, stop in store.shards():
            ok = _ok(store, start, stop)
            k = np.asarray(store[f"mappings/{name}/rotation"][start:stop])[ok].astype(np.float32)
            flip = np.asarray(store[f"mappings/{name}/flip"][start:stop])[ok]
            writer.write(pinkfile.transform_entries(flip, k * step))
