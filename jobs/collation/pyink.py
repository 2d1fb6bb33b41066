"""Inputs of a collation from the peer's files: map, mapping, transforms, annotations and catalogues by row.

As there, row i of the first catalogue is image i, the first catalogue is the base, and channel c goes with catalogue c
(specs/pyink.md, section 4). The mapping's lattice is in the order of its header (section 8).
"""

import hashlib
from pathlib import Path

import numpy as np

from skysom.jobs.collation.inputs import CollationInputs, Mapped
from skysom.jobs.collation.inputs_assembly import CollateOptions, assemble, open_catalogues, read_base
from skysom.jobs.collation.inputs_catalogue import fingerprint, repeated
from skysom.jobs.collation.inputs_masks import check_masks, masks_of_pyink
from skysom.jobs.errors import ConfigError
from skysom.jobs.pink_convert import read_som
from skysom.storage.catalogue import ROW_NUMBER
from skysom.storage.pinkfile import PinkMap, PinkTransforms, open_map, open_transforms
from skysom.storage.place import place

READ_BYTES = 64 << 20


def inputs_from_pyink(
    som: str | Path,
    mapping: str | Path,
    transforms: str | Path,
    annotations: str | Path,
    options: CollateOptions,
) -> CollationInputs:
    """Inputs of a collation from ``som.bin``, ``map.bin``, ``transform.bin`` and ``som.bin.results.pkl``.

    Nothing in the pickle is executed. Positions are read from the columns RA and DEC, in any case of letters, where
    ``options`` name no others.

    Raises
    ------
    PinkFormatError : a damaged file. AnnotationError : no such pickle, or one of another map. ConfigError : files that
    are not of one mapping, another number of rows than images, no pixel scale. Others as `assemble`.
    """
    if options.pixel_scale_arcsec is None:
        raise ConfigError("these files do not tell the pixel scale of their images; give --pixel-scale ARCSEC")
    weights, lattice = read_som(Path(som))
    neurons, channels, side, _ = weights.shape
    distances, entries = open_map(mapping), open_transforms(transforms)
    _check_shapes(distances, entries, neurons, Path(som))
    digest = hashlib.sha256(weights.tobytes()).hexdigest()
    masks = masks_of_pyink(place(annotations), weights, lattice, digest)
    names = [f"channel {channel}" for channel in range(channels)]
    check_masks(masks, neurons=neurons, channels=names, side=side, som_sha256=digest)
    files = open_catalogues(options, names, masks)
    if files[0].rows != distances.count:
        raise ConfigError(
            f"{files[0].path} has {files[0].rows:,} rows, {distances.path} is of {distances.count:,} images; row i has "
            "to be image i: give the catalogue the images were cut for, in that order"
        )
    base = read_base(files[0])
    if base.ids is not None:
        twice = np.flatnonzero(repeated(base.ids))
        if len(twice):
            raise ConfigError(
                f"{len(twice):,} rows of {files[0].path} repeat an id of column {files[0].id_column!r}, such as "
                f"{base.ids[int(twice[0])].as_py()!r} in row {twice[0]}; here rows are known by their number: give "
                f"--id-column '{ROW_NUMBER}', or a column whose values differ"
            )
    origin = {
        "som": {"name": Path(som).name, "sha256_of_weights": digest},
        "map": {"name": distances.path.name, **fingerprint(place(mapping))},
        "transform": {"name": entries.path.name, **fingerprint(place(transforms))},
    }
    mapped = _mapped(distances, entries, options.excluded)
    return assemble(base, files, mapped, masks, options, options.pixel_scale_arcsec, origin)


def _mapped(distances: PinkMap, entries: PinkTransforms, excluded: tuple[int, ...]) -> Mapped:
    """Best-matching units of all images, of equal ones the lowest neuron; images without a distance have none."""
    from skysom.engine.reading.units import best_units, excluded_mask

    left_out = excluded_mask(distances.neurons, excluded)
    rows = max(READ_BYTES // (9 * distances.neurons), 1)
    parts = []
    for start in range(0, distances.count, rows):
        stop = min(start + rows, distances.count)
        best, distance = best_units(distances.read(start, stop), excluded=left_out)
        here = np.flatnonzero(best[:, 0] >= 0)
        neuron = best[here, 0]
        flip, angle = (values[here, neuron] for values in entries.read(start, stop))
        parts.append((start + here, neuron.astype(np.int32), angle, flip.astype(np.int8), distance[here, 0]))
    return Mapped(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _check_shapes(distances: PinkMap, entries: PinkTransforms, neurons: int, som: Path) -> None:
    """ConfigError unless map and transforms are of one number of images and of the map's neurons."""
    for file in (distances, entries):
        if file.neurons != neurons:
            raise ConfigError(
                f"{file.path} is of {file.neurons} neurons ({file.som_dims}), {som} has {neurons}; give the files of "
                "one map"
            )
    if distances.count != entries.count:
        raise ConfigError(
            f"{distances.path} is of {distances.count:,} images, {entries.path} of {entries.count:,}; give the two "
            "files that one mapping wrote"
        )
