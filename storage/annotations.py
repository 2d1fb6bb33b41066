"""Annotation sets on disk or in an object store: numbered versions that never change; the highest is the current one.

    OUTPUT/annotations/NAME/000001/state.json         what is said, the edits, who saved it and when, the map's hash
    OUTPUT/annotations/NAME/000001/masks-ID.zarr      bit planes of the neurons with masks, where there are any

A version is there once its ``state.json`` is. On a file system the folder of a version is written beside and renamed
into place, which fails where another editor was first; in an object store the masks are written first and
``state.json`` by one PUT on the condition that there is none. So a kill at any moment leaves the old version or the new
one, and of two editors who began from the same version, the second is refused.
"""

import contextlib
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from skysom.storage import place as places
from skysom.storage.annotation_json import decoded, encoded
from skysom.storage.annotation_set import AnnotationError, AnnotationSet, check_author, now
from skysom.storage.place import Place, patiently, place, remove_tree
from skysom.storage.zarr_store import zarr_store

STATE = "state.json"
CHUNK_NEURONS = 16
"""Neurons in a chunk of masks; all chunks are in one file."""
NUMBER = re.compile(r"\d{6,}")
PARTIAL = re.compile(r"\.(\d{6,})-[0-9a-f]+\.partial")


class AnnotationConflictError(AnnotationError):
    """Somebody else saved meanwhile."""


@dataclass(frozen=True)
class Version:
    """One saved version: its number, who saved it when (ISO 8601), and its last edit."""

    number: int
    author: str
    time: str
    last_edit: str


def load(folder: str | Place, version: int | None = None, *, som_sha256: str | None = None) -> AnnotationSet:
    """The annotations kept in ``folder``: the current version, or an older one.

    Raises
    ------
    AnnotationError : none there, no such version, damaged, or (where ``som_sha256`` is given) of another map.
    """
    folder = place(folder)
    number = current_version(folder) if version is None else version
    if number == 0:
        raise AnnotationError(f"no annotations at {folder}; begin with a new set and save it")
    where = _folder_of(folder, number)
    try:
        state = json.loads(places.read_bytes(where / STATE))
    except FileNotFoundError:
        raise AnnotationError(
            f"{folder} has no version {number}; the current one is {current_version(folder)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(where, error) from error
    try:
        result = decoded(state, _read_masks(where, state["masks"]))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(where, error) from error
    if som_sha256 is not None:
        result.check_map(som_sha256)
    return result


def save(
    folder: str | Place, annotations: AnnotationSet, *, author: str, expected_version: int | None = None
) -> AnnotationSet:
    """Keep ``annotations`` as the next version; returns them with its number, author and time.

    expected_version : what the current version must be, by default the one that ``annotations`` were loaded from.

    Raises
    ------
    AnnotationConflictError : another version is current (the message says whose, and when).
    AnnotationError : no author, or the folder holds annotations of another map.
    """
    folder = place(folder)
    expected = annotations.version if expected_version is None else expected_version
    author = check_author(author)
    current = current_version(folder)
    if current != expected:
        raise _conflict(folder, expected)
    if current:
        annotations.check_map(_state(folder, current)["som_sha256"])
    saved = replace(annotations, version=expected + 1, saved_by=author, saved_at=now())
    identity = uuid.uuid4().hex[:12]
    final = _folder_of(folder, saved.version)
    beside = folder / f".{saved.version:06d}-{identity}.partial" if isinstance(folder, Path) else final
    masks = beside / f"masks-{identity}.zarr"
    try:
        places.make_directory(beside)
        state = encoded(saved) | {"masks": _write_masks(masks, saved), "skysom_version": package_version("skysom")}
        committed = _committed(beside, final, json.dumps(state, ensure_ascii=False).encode())
    except OSError:  # who saves first sweeps away what others have beside
        if current_version(folder) == expected:
            raise
        committed = False
    if not committed:
        with contextlib.suppress(OSError):  # who was first removes it, too
            places.remove_tree(beside if isinstance(beside, Path) else masks)
        raise _conflict(folder, expected)
    _sweep(folder, saved.version)
    return saved


def current_version(folder: str | Place) -> int:
    """Number of the current version, 0 where there is none."""
    folder = place(folder)
    for number in reversed(_numbers(folder)):
        if places.is_file(_folder_of(folder, number) / STATE):
            return number
    return 0


def versions(folder: str | Place) -> list[Version]:
    """The versions that are kept, the oldest first."""
    folder, found = place(folder), []
    for number in _numbers(folder):
        with contextlib.suppress(FileNotFoundError):  # a save that was killed
            state = _state(folder, number)
            try:
                last = state["history"][-1]["what"] if state["history"] else ""
                found.append(Version(number, state["saved_by"], state["saved_at"], last))
            except (KeyError, TypeError, IndexError) as error:
                raise _damaged(_folder_of(folder, number), error) from error
    return found


def prune(folder: str | Place, keep: int) -> list[int]:
    """Remove all but the last ``keep`` versions; returns the numbers of those removed.

    The current version is never among them, and it can undo as before: it holds its edits itself.
    """
    if keep < 1:
        raise AnnotationError(f"keep is {keep}; at least the current version stays")
    folder = place(folder)
    _sweep(folder, current_version(folder))
    kept = [found.number for found in versions(folder)][-keep:]
    gone = [number for number in _numbers(folder) if kept and number < kept[0]]
    for number in gone:
        where = _folder_of(folder, number)
        places.remove(where / STATE)  # first: without it there is no version
        places.remove_tree(where)
    return gone


# --- committing -----------------------------------------------------------------------------------


def _committed(beside: Place, final: Place, data: bytes) -> bool:
    """Make the version ``final`` of its state and what is in ``beside``; False where there is one already."""
    if isinstance(beside, Path) and isinstance(final, Path):
        places.write_atomically(beside / STATE, data)
        try:
            beside.rename(final)  # fails onto a folder that is not empty
        except OSError:
            if places.is_file(final / STATE) or not beside.exists():
                return False
            if final.is_dir():
                remove_tree(beside)
                raise AnnotationError(f"{final} has lost its {STATE}; restore it, or move that folder away") from None
            raise
        places.sync_directory(final.parent)
        return True
    target: Any = final / STATE
    try:
        patiently(target.fs.pipe_file, target.path, data, mode="create")
    except OSError:
        try:  # a PUT whose answer was lost is found made when it is tried again
            return places.read_bytes(target) == data
        except FileNotFoundError:
            pass
        raise
    return True


def _sweep(folder: Place, current: int) -> None:
    """Remove what killed or refused saves left: whatever would have become a version that is there already."""
    for entry in places.entries(folder):
        match = PARTIAL.fullmatch(entry.name)
        if match and int(match[1]) <= current:
            with contextlib.suppress(OSError):  # who is still writing there will be refused, and removes it
                places.remove_tree(entry)
    if not isinstance(folder, Path) and current:
        kept = (_state(folder, current)["masks"] or {}).get("folder")
        for entry in places.entries(_folder_of(folder, current)):
            if entry.name not in (kept, STATE):
                places.remove_tree(entry)


def _conflict(folder: Place, expected: int) -> AnnotationConflictError:
    current = current_version(folder)
    if current < expected:
        return AnnotationConflictError(f"{folder} has version {current}, not {expected}; load it again and edit that")
    state = _state(folder, current)
    return AnnotationConflictError(
        f"{state['saved_by']} saved version {current} of {folder} at {state['saved_at']}, these edits are based on "
        f"version {expected}; load it again and repeat them"
    )


def _numbers(folder: Place) -> list[int]:
    return sorted(int(entry.name) for entry in places.entries(folder) if NUMBER.fullmatch(entry.name))


def _folder_of(folder: Place, number: int) -> Place:
    return folder / f"{number:06d}"


def _state(folder: Place, number: int) -> dict[str, Any]:
    where = _folder_of(folder, number)
    try:
        return dict(json.loads(places.read_bytes(where / STATE)))
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(where, error) from error


def _damaged(where: Place, error: Exception) -> AnnotationError:
    return AnnotationError(
        f"the annotations {where} are damaged ({type(error).__name__}: {error}); load an earlier version"
    )


# --- masks ----------------------------------------------------------------------------------------


def _write_masks(where: Place, annotations: AnnotationSet) -> dict[str, Any] | None:
    """Write the planes of the neurons with masks, and what finds them again; None where there are none."""
    neurons = sorted(neuron for neuron, record in annotations.records.items() if record.masks)
    if not neurons:
        return None
    planes, rows = annotations.planes(neurons), min(len(neurons), CHUNK_NEURONS)
    group = zarr.create_group(zarr_store(where))
    array = group.create_array(
        "masks",
        shape=planes.shape,
        dtype="uint8",
        chunks=(rows, *planes.shape[1:]),
        shards=(-(-len(neurons) // rows) * rows, *planes.shape[1:]),
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.noshuffle), Crc32cCodec()],
        dimension_names=("annotated", "channel", "neuron_y", "neuron_x", "word"),
        attributes={"long_name": "bit p % 8 of word p // 8 says whether the pixel carries label p"},
    )
    array[:] = planes
    index = group.create_array("neuron", shape=(len(neurons),), dtype="int64", dimension_names=("annotated",))
    index[:] = np.array(neurons)
    group.attrs.update({"labels": list(annotations.labels), "channels": list(annotations.channels)})
    return {"folder": where.name, "neurons": neurons, "sha256": hashlib.sha256(planes.tobytes()).hexdigest()}


def _read_masks(where: Place, described: Mapping[str, Any] | None) -> tuple[list[int], np.ndarray]:
    if described is None:
        return [], np.zeros((0, 0, 0, 0, 0), np.uint8)
    if not re.fullmatch(r"masks-[0-9a-f]+\.zarr", described["folder"]):
        raise ValueError(f"masks are said to be in {described['folder']!r}")
    try:
        group = zarr.open_group(zarr_store(where / described["folder"]), mode="r")
        planes = np.asarray(group["masks"][:])  # type: ignore[index]
    except (FileNotFoundError, RuntimeError) as error:
        raise ValueError(f"its masks are not whole: {error}") from error
    if hashlib.sha256(planes.tobytes()).hexdigest() != described["sha256"]:
        raise ValueError("its masks differ from their checksum")
    return list(described["neurons"]), planes
