"""The peer's annotation file (``<som>.results.pkl``), read without executing anything and written without the peer.

The file is a pickle of {(i0, i1): Annotation}, the neuron's two lattice indices (`skysom.engine.lattice`); what an
Annotation holds is in specs/pyink.md, section 5. Masks are products of primes here, as in the file;
`skysom.jobs.pyink_annotations` turns them into an annotation set and back.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skysom.storage import place as places
from skysom.storage.annotation_set import AnnotationError
from skysom.storage.place import Place, place
from skysom.storage.plain_pickle import Instance, PickleRefused, read_pickle

CLASS = "pyink.annotator Annotation"
MAX_BYTES = 2**31
"""Larger files are refused before they are read: 100 neurons of 2 channels and 213 pixels take 0.1 GB."""

_INTEGER, _UNSIGNED = struct.Struct("<i"), struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class PyinkAnnotation:
    """What the peer keeps of one neuron.

    neuron : (C, D, D) float32, its copy of the weights.
    filters : channel -> (D, D) int64, the product of the primes of a pixel's labels, 0 for none.
    labels : (name, prime) in order of creation.
    clicks : channel -> [row, column, value, sigma] of each click; lassos : channel -> (D, D) arrays of 0 and 1.
    """

    neuron: np.ndarray
    filters: Mapping[int, np.ndarray]
    labels: tuple[tuple[str, int], ...]
    clicks: Mapping[int, list[list[float]]] = field(default_factory=dict)
    lassos: Mapping[int, list[np.ndarray]] = field(default_factory=dict)


def read_pyink_annotations(path: str | Place, max_bytes: int = MAX_BYTES) -> dict[tuple[int, int], PyinkAnnotation]:
    """The annotations of a file by lattice position, in its order; labels are the same in all of them.

    Raises
    ------
    AnnotationError : no file, one that is too large, no such pickle (with the byte and the cause), or one whose
        neurons, masks and labels do not fit each other.
    """
    path = place(path)
    if not places.is_file(path):  # nor a pipe or device, of which there is no end
        raise AnnotationError(f"no annotation file at {path}; check the path")
    try:
        with places.open_binary(path) as stream:
            size = stream.seek(0, io.SEEK_END)
            if size > max_bytes:
                raise AnnotationError(
                    f"{path} has {size} bytes, more than the {max_bytes} that an annotation file is allowed"
                )
            stream.seek(0)
            start = stream.read(1)
            if start == b"\0":  # before two gigabytes of nothing are read
                raise AnnotationError(f"{path} is no pickle: it begins with zeros; give a .results.pkl of pyink")
            data = start + stream.read()
    except (FileNotFoundError, IsADirectoryError):
        raise AnnotationError(f"no annotation file at {path}; check the path") from None
    try:
        found = read_pickle(data, [CLASS])
    except PickleRefused as error:
        raise AnnotationError(f"{path} is refused, and nothing in it was executed: {error}") from None
    if not isinstance(found, dict):
        raise AnnotationError(f"{path} holds no dictionary of annotations")
    result = {}
    for key, value in found.items():
        try:
            position = _position(key)
            result[position] = _annotation(value)
        except AnnotationError as error:
            raise AnnotationError(f"{path}, neuron {key}: {error}") from None
    labels = {annotation.labels for annotation in result.values()}
    if len(labels) > 1:
        raise AnnotationError(f"{path} has neurons with different lists of labels: {sorted(labels)[:2]}")
    return result


def write_pyink_annotations(path: str | Place, annotations: Mapping[tuple[int, int], PyinkAnnotation]) -> None:
    """Write a file that the peer loads, atomically; clicks and lassos are left out, the masks say all."""
    out = io.BytesIO()
    out.write(b"\x80\x03}")
    for (first, second), annotation in annotations.items():
        out.write(_tuple(_integer(first), _integer(second)))
        out.write(_named(CLASS) + b")\x81}(")
        out.write(_text("neuron") + _array(annotation.neuron.astype("<f4", copy=False)))
        out.write(_text("clicks") + _EMPTY_LISTS)
        out.write(_text("filters") + b"}")
        for channel, values in annotation.filters.items():
            out.write(_integer(channel) + _array(values.astype("<i8", copy=False)) + b"s")
        out.write(_text("lasso_filters") + _EMPTY_LISTS)
        pairs = b"".join(_tuple(_text(name), _integer(prime)) for name, prime in annotation.labels)
        out.write(_text("labels") + b"](" + pairs + b"eubs")
    out.write(b".")
    places.write_atomically(place(path), out.getvalue())


# --- from plain values ----------------------------------------------------------------------------


def _position(key: Any) -> tuple[int, int]:
    if not isinstance(key, tuple) or len(key) != 2 or not all(type(index) is int and index >= 0 for index in key):
        raise AnnotationError("it is named by no pair of lattice indices")
    return key


def _annotation(value: Any) -> PyinkAnnotation:
    state = value.state if isinstance(value, Instance) else None
    if not isinstance(state, dict):
        raise AnnotationError("it is no annotation")
    missing = {"neuron", "filters", "labels"} - set(state)
    if missing:
        raise AnnotationError(f"its annotation lacks {sorted(missing)}")
    neuron, filters = state["neuron"], state["filters"]
    if not isinstance(neuron, np.ndarray) or neuron.ndim not in (2, 3) or neuron.dtype.kind != "f":
        raise AnnotationError("its copy of the neuron is no image")
    neuron = neuron.reshape(-1, *neuron.shape[-2:])
    if not isinstance(filters, dict):
        raise AnnotationError("its masks are no dictionary by channel")
    for channel, values in filters.items():
        if type(channel) is not int or not 0 <= channel < len(neuron):
            raise AnnotationError(f"it has a mask of channel {channel!r}, its image has {len(neuron)} channels")
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "iu" or values.shape != neuron.shape[1:]:
            raise AnnotationError(
                f"the mask of channel {channel} is of shape {np.shape(values)} and type "
                f"{getattr(values, 'dtype', type(values).__name__)}; {neuron.shape[1:]} integers are needed"
            )
    plain = {int(channel): values.astype(np.int64) for channel, values in filters.items()}
    return PyinkAnnotation(
        neuron, plain, _labels(state["labels"]), dict(state.get("clicks") or {}), dict(state.get("lasso_filters") or {})
    )


def _labels(pairs: Any) -> tuple[tuple[str, int], ...]:
    found = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, tuple | list) or list(map(type, pair)) != [str, int]:
            raise AnnotationError("its labels are no list of names and primes")
        found.append((pair[0], pair[1]))
    for what, values in (("name", [name for name, _ in found]), ("prime", [prime for _, prime in found])):
        if len(set(values)) != len(values):
            raise AnnotationError(f"two of its labels have the same {what}: {values}")
    return tuple(found)


# --- to opcodes (protocol 3) ----------------------------------------------------------------------


def _named(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + _UNSIGNED.pack(len(data)) + data


def _integer(value: int) -> bytes:
    return b"J" + _INTEGER.pack(value)


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _array(array: np.ndarray) -> bytes:
    # Both old and new numpy know this older name of the module.
    shell = _named("numpy.core.multiarray _reconstruct") + _tuple(
        _named("numpy ndarray"), _tuple(_integer(0)), b"C\x01b"
    )
    kind = _named("numpy dtype") + _tuple(_text(array.dtype.str[1:]), b"\x89", b"\x88") + b"R"
    kind += _tuple(_integer(3), _text("<"), b"NNN", _integer(-1), _integer(-1), _integer(0)) + b"b"
    raw = array.tobytes()
    shape = _tuple(*map(_integer, array.shape))
    return shell + b"R" + _tuple(_integer(1), shape, kind, b"\x89", b"B" + _UNSIGNED.pack(len(raw)) + raw) + b"b"


_EMPTY_LISTS = _named("collections defaultdict") + _tuple(_named("builtins list")) + b"R"
