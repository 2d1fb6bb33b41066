"""Annotation sets as JSON and back; masks of edits are packed bits, zlib, base64. Current masks are kept elsewhere."""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skysom.storage.annotation_set import AnnotationError, AnnotationSet, Contents, Edit, NeuronRecord

FORMAT, FORMAT_VERSION = "skysom annotations", 1


def encoded(annotations: AnnotationSet) -> dict[str, Any]:
    """Plain values of all but the current masks."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": annotations.version,
        "saved_by": annotations.saved_by,
        "saved_at": annotations.saved_at,
        "som_sha256": annotations.som_sha256,
        "lattice": dict(annotations.lattice),
        "neurons": annotations.neurons,
        "side": annotations.side,
        "channels": list(annotations.channels),
        "labels": list(annotations.labels),
        "records": {
            str(neuron): {"labels": list(record.labels), "note": record.note}
            for neuron, record in sorted(annotations.records.items())
        },
        "history": [_edit(edit) for edit in annotations.history],
        "undone": [_edit(edit) for edit in annotations.undone],
    }


def decoded(state: Mapping[str, Any], masks: tuple[Sequence[int], np.ndarray]) -> AnnotationSet:
    """The set of plain values and of the planes (n, C, D, D, W) of its neurons with masks.

    Raises
    ------
    AnnotationError : another format or version of it.
    KeyError, TypeError, ValueError, IndexError : damaged values.
    """
    if state["format"] != FORMAT or state["format_version"] != FORMAT_VERSION:
        raise AnnotationError(
            f"these are {state['format']!r} of format {state['format_version']!r}; this skysom reads "
            f"{FORMAT!r} of format {FORMAT_VERSION}"
        )
    side, labels, channels = int(state["side"]), _texts(state["labels"]), _texts(state["channels"])
    neurons = int(state["neurons"])
    records = {_neuron(key, neurons): _record(values, side) for key, values in state["records"].items()}
    for neuron, planes in zip(*masks, strict=True):
        found = _masks_of(planes, (len(channels), side, side, -(-len(labels) // 8)), labels)
        record = records[_neuron(neuron, neurons)]
        records[neuron] = NeuronRecord(record.labels, record.note, found)
    return AnnotationSet(
        str(state["som_sha256"]),
        dict(state["lattice"]),
        neurons,
        side,
        channels,
        labels,
        records,
        tuple(_read_edit(edit, neurons, side) for edit in state["history"]),
        tuple(_read_edit(edit, neurons, side) for edit in state["undone"]),
        int(state["version"]),
        str(state["saved_by"]),
        str(state["saved_at"]),
    )


def _edit(edit: Edit) -> dict[str, Any]:
    result: dict[str, Any] = {"author": edit.author, "time": edit.time, "what": edit.what}
    for side in ("before", "after"):
        contents: Contents | None = getattr(edit, side)
        if contents is not None:
            records = {str(neuron): _whole(record) for neuron, record in contents.records.items()}
            result[side] = {"labels": list(contents.labels), "records": records}
    return result


def _read_edit(values: Mapping[str, Any], neurons: int, side: int) -> Edit:
    sides: list[Contents | None] = []
    for name in ("before", "after"):
        found = values.get(name)
        if found is None:
            sides.append(None)
            continue
        records = {_neuron(key, neurons): _record(record, side) for key, record in found["records"].items()}
        sides.append(Contents(_texts(found["labels"]), records))
    return Edit(str(values["author"]), str(values["time"]), str(values["what"]), *sides)


def _whole(record: NeuronRecord) -> dict[str, Any]:
    masks = [[channel, label, _packed(mask)] for (channel, label), mask in record.masks.items()]
    return {"labels": list(record.labels), "note": record.note, "masks": masks}


def _record(values: Mapping[str, Any], side: int) -> NeuronRecord:
    masks = {(int(channel), str(label)): _unpacked(text, side) for channel, label, text in values.get("masks", [])}
    return NeuronRecord(_texts(values["labels"]), str(values["note"]), masks)


def _masks_of(planes: np.ndarray, shape: tuple[int, ...], labels: tuple[str, ...]) -> dict[tuple[int, str], np.ndarray]:
    if planes.shape != shape:
        raise ValueError(f"planes have shape {planes.shape}, not {shape}")
    found = {}
    for index, label in enumerate(labels):
        bits = (planes[..., index // 8] >> np.uint8(index % 8) & 1).view(bool)
        bits.flags.writeable = False
        found.update({(channel, label): mask for channel, mask in enumerate(bits) if mask.any()})
    return found


def _packed(mask: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 1)).decode()


def _unpacked(text: str, side: int) -> np.ndarray:
    size = -(-side * side // 8)
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(base64.b64decode(text, validate=True), size + 1)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(f"a mask in an edit is damaged ({error})") from error
    if len(data) != size or not reader.eof:
        raise ValueError(f"a mask in an edit is not of {size} bytes, or cut off")
    mask = np.unpackbits(np.frombuffer(data, np.uint8), count=side * side).view(bool).reshape(side, side)
    mask.flags.writeable = False
    return mask


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"a list of texts is expected, not {str(values)[:60]}")
    return tuple(values)


def _neuron(key: Any, neurons: int) -> int:
    if not 0 <= int(key) < neurons:
        raise ValueError(f"it has a neuron {key}, the map has {neurons}")
    return int(key)
