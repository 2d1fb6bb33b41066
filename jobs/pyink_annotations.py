"""The peer's annotations to an annotation set and back: labels are primes there, and bits here."""

from collections.abc import Mapping, Sequence

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.lattice import Lattice, lattice_to_dict
from skysom.engine.reading.masks import PRIMES, planes_from_products, products_from_planes, unpack
from skysom.storage.annotation_set import (
    AnnotationError,
    AnnotationSet,
    new_annotation_set,
    with_label,
    with_masks,
)
from skysom.storage.pyink_annotations import PyinkAnnotation


def annotations_from_pyink(
    found: Mapping[tuple[int, int], PyinkAnnotation],
    weights: np.ndarray,
    lattice: Lattice,
    channels: Sequence[str],
    som_sha256: str,
    *,
    author: str,
) -> AnnotationSet:
    """An annotation set of what `read_pyink_annotations` found, for the map it was made for.

    Labels come in the order of their primes. Clicks and lassos are not kept: the masks say what they made.

    Parameters
    ----------
    weights : (N, C, D, D) float32 of the map; lattice : its lattice; channels : C names.

    Raises
    ------
    AnnotationError : nothing annotated, a neuron the map lacks, or one whose copy in the file is not the map's neuron.
    ReadingError : masks that are no products of the labels' primes.
    """
    flat = {(int(first), int(second)): n for n, (first, second, depth) in enumerate(lattice.positions()) if depth == 0}
    if not found:
        raise AnnotationError("the file has no annotated neuron; annotate one, or begin with a new set")
    pairs = sorted(next(iter(found.values())).labels, key=lambda pair: pair[1])
    names, primes = [name for name, _ in pairs], [prime for _, prime in pairs]
    masks: dict[tuple[int, int, str], np.ndarray] = {}
    for position, annotation in found.items():
        neuron = flat.get(position)
        if neuron is None:
            raise AnnotationError(
                f"the file annotates neuron {position}, the map's lattice is {lattice_to_dict(lattice)}; "
                "import it for the map it was made for"
            )
        _check_copy(position, annotation.neuron, weights[neuron])
        for channel, values in annotation.filters.items():
            try:
                planes = planes_from_products(values, primes)
            except ReadingError as error:
                raise ReadingError(f"neuron {position}, channel {channel}: {error}") from None
            for name, mask in zip(names, unpack(planes, len(names)), strict=True):
                if mask.any():
                    masks[neuron, channel, name] = mask
    result = new_annotation_set(som_sha256, lattice_to_dict(lattice), len(weights), weights.shape[-1], channels)
    for name in names:
        result = with_label(result, name, author=author)
    return with_masks(result, masks, author=author) if masks else result


def pyink_from_annotations(
    annotations: AnnotationSet, weights: np.ndarray, lattice: Lattice, neurons: Sequence[int] | None = None
) -> dict[tuple[int, int], PyinkAnnotation]:
    """What `write_pyink_annotations` writes: all neurons by default, since the peer needs each one that it meets.

    Text labels, notes and history have no place there.

    Raises
    ------
    AnnotationError : a map of three dimensions, which the peer has no place for, more labels than it has primes, or
    weights that are not of the annotated map's shape.
    ReadingError : a pixel whose product the peer cannot hold.
    """
    if lattice.depth > 1:
        raise AnnotationError(f"the map has {lattice.depth} depths, pyink's files name neurons by two indices only")
    if len(annotations.labels) > len(PRIMES):
        raise AnnotationError(
            f"there are {len(annotations.labels)} labels for masks, the peer has primes for {len(PRIMES)}; remove some"
        )
    shape = (annotations.neurons, len(annotations.channels), annotations.side, annotations.side)
    if weights.shape != shape:
        raise AnnotationError(f"the weights have shape {weights.shape}, the annotations are of a map of {shape}")
    labels = tuple(zip(annotations.labels, PRIMES, strict=False))
    positions = lattice.positions()
    result = {}
    for neuron in range(annotations.neurons) if neurons is None else neurons:
        planes = annotations.planes([neuron])[0]
        values = products_from_planes(planes, PRIMES) if labels else np.zeros(shape[1:], np.int64)
        first, second, _ = (int(index) for index in positions[neuron])
        result[first, second] = PyinkAnnotation(weights[neuron], dict(enumerate(values)), labels)
    return result


def _check_copy(position: tuple[int, int], copy: np.ndarray, neuron: np.ndarray) -> None:
    if copy.shape != neuron.shape:
        raise AnnotationError(f"neuron {position} is of shape {copy.shape} in the file and {neuron.shape} in the map")
    if not np.array_equal(copy, neuron, equal_nan=True):
        difference = float(np.nanmax(np.abs(copy.astype(np.float64) - neuron)))
        raise AnnotationError(
            f"neuron {position} in the file is not the map's: they differ by up to {difference:.3g}; "
            "import the file for the map it was made for"
        )
