"""What people say about a map, as a value: labels and notes of neurons, masks on them, and every edit, undoable.

An `AnnotationSet` never changes; an edit returns another set that shares what stayed, so a server may hand one to many
readers. `skysom.storage.annotations` keeps sets. A mask belongs to a neuron, a channel and a label: a pixel may carry
any number of labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from skysom.storage.errors import StorageError

KEPT_EDITS = 200
"""Edits that can be undone; of older ones stays who made what, and when."""
MAX_NAME, MAX_NOTE = 200, 20_000
"""Characters of a label, of a note."""


class AnnotationError(StorageError):
    """An annotation that does not fit its map, or cannot be read."""


@dataclass(frozen=True, eq=False)
class NeuronRecord:
    """What is said about one neuron: text labels, a note, and masks (D, D) bool by (channel, label)."""

    labels: tuple[str, ...] = ()
    note: str = ""
    masks: Mapping[tuple[int, str], np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Contents:
    """One side of an edit: the mask labels, and the records of the neurons it touches."""

    labels: tuple[str, ...]
    records: Mapping[int, NeuronRecord]


@dataclass(frozen=True, eq=False)
class Edit:
    """Who did what, when (ISO 8601); the contents before and after are None once it is too old to be undone."""

    author: str
    time: str
    what: str
    before: Contents | None = None
    after: Contents | None = None


@dataclass(frozen=True, eq=False)
class AnnotationSet:
    """Annotations of one map.

    som_sha256 : of the map's weights, float32 in neuron order (as the store keeps it).
    lattice : plain values of the lattice; neurons N, side D in pixels, channels C names.
    labels : of masks, in order of creation; label p is bit p of the planes.
    records : by neuron, only those of which something is said.
    history : edits, the oldest first; undone : those that `redo` brings back, the next one last.
    version, saved_by, saved_at : of the version it was loaded from or saved as; 0 where it never was.
    """

    som_sha256: str
    lattice: Mapping[str, Any]
    neurons: int
    side: int
    channels: tuple[str, ...]
    labels: tuple[str, ...] = ()
    records: Mapping[int, NeuronRecord] = field(default_factory=dict)
    history: tuple[Edit, ...] = ()
    undone: tuple[Edit, ...] = ()
    version: int = 0
    saved_by: str = ""
    saved_at: str = ""

    def record(self, neuron: int) -> NeuronRecord:
        """What is said about ``neuron``; AnnotationError where the map has no such one."""
        if not _is_index(neuron, self.neurons):
            raise AnnotationError(f"there is no neuron {neuron!r}; the map has 0..{self.neurons - 1}")
        return self.records.get(int(neuron), NeuronRecord())

    def mask(self, neuron: int, channel: int, label: str) -> np.ndarray:
        """Pixels (D, D) bool of ``label`` on a channel of a neuron."""
        self._check_channel(channel)
        self._check_label(label)
        found = self.record(neuron).masks.get((int(channel), label))
        return np.zeros((self.side, self.side), bool) if found is None else found

    def planes(self, neurons: Sequence[int] | None = None) -> np.ndarray:
        """Bit planes (n, C, D, D, W) uint8 of ``neurons`` (all by default), as `skysom.engine.reading.masks` reads."""
        wanted = range(self.neurons) if neurons is None else neurons
        shape = (len(wanted), len(self.channels), self.side, self.side, -(-len(self.labels) // 8))
        result = np.zeros(shape, np.uint8)
        for row, neuron in enumerate(wanted):
            for (channel, label), mask in self.record(neuron).masks.items():
                word, bit = divmod(self.labels.index(label), 8)
                result[row, channel, ..., word] |= mask.astype(np.uint8) << np.uint8(bit)
        return result

    def neuron_labels(self) -> list[tuple[str, ...]]:
        """The text labels of each of the N neurons."""
        return [self.record(neuron).labels for neuron in range(self.neurons)]

    def check_map(self, som_sha256: str) -> None:
        """AnnotationError unless these are annotations of the map with that hash."""
        if som_sha256 != self.som_sha256:
            raise AnnotationError(
                f"the annotations are of the map {self.som_sha256[:12]}..., this map is {som_sha256[:12]}...; "
                "move their folder away to begin new ones, or load the map they were made for"
            )

    def _check_channel(self, channel: int) -> None:
        if not _is_index(channel, len(self.channels)):
            raise AnnotationError(f"there is no channel {channel!r}; the map has {list(self.channels)}, counted from 0")

    def _check_label(self, label: str) -> None:
        if label not in self.labels:
            raise AnnotationError(f"there is no label {label!r} for masks; there are {list(self.labels)}, or add it")


def new_annotation_set(
    som_sha256: str, lattice: Mapping[str, Any], neurons: int, side: int, channels: Sequence[str]
) -> AnnotationSet:
    """An empty set for a map of N ``neurons`` of (channels, side, side) pixels."""
    if neurons < 1 or side < 1 or not channels:
        raise AnnotationError(f"a map has neurons, pixels and channels; got {neurons}, {side} and {list(channels)}")
    return AnnotationSet(som_sha256, dict(lattice), neurons, side, tuple(channels))


# --- edits ----------------------------------------------------------------------------------------


def with_label(annotations: AnnotationSet, name: str, *, author: str, time: str | None = None) -> AnnotationSet:
    """Add a label for masks. AnnotationError where it is empty or there already."""
    labels = (*annotations.labels, _new_name(name, annotations.labels))
    return _edited(annotations, f"add label {name!r}", {}, author, time, labels)


def with_label_renamed(
    annotations: AnnotationSet, old: str, new: str, *, author: str, time: str | None = None
) -> AnnotationSet:
    """Give a label for masks another name; its masks stay. AnnotationError as `with_label`, or for an unknown one."""
    annotations._check_label(old)
    _new_name(new, annotations.labels)
    changed = {}
    for neuron, record in annotations.records.items():
        if any(label == old for _, label in record.masks):
            masks = {(channel, new if label == old else label): m for (channel, label), m in record.masks.items()}
            changed[neuron] = replace(record, masks=masks)
    labels = tuple(new if label == old else label for label in annotations.labels)
    return _edited(annotations, f"rename label {old!r} to {new!r}", changed, author, time, labels)


def without_label(annotations: AnnotationSet, name: str, *, author: str, time: str | None = None) -> AnnotationSet:
    """Take a label for masks away, with its masks. AnnotationError where there is none of that name."""
    annotations._check_label(name)
    changed = {}
    for neuron, record in annotations.records.items():
        kept = {key: mask for key, mask in record.masks.items() if key[1] != name}
        if len(kept) < len(record.masks):
            changed[neuron] = replace(record, masks=kept)
    labels = tuple(label for label in annotations.labels if label != name)
    return _edited(annotations, f"remove label {name!r}", changed, author, time, labels)


def with_mask(
    annotations: AnnotationSet,
    neuron: int,
    channel: int,
    label: str,
    mask: np.ndarray,
    *,
    author: str,
    time: str | None = None,
) -> AnnotationSet:
    """Put ``mask`` (D, D) bool in the place of the one of that neuron, channel and label; an empty one removes it.

    AnnotationError for another size or type, an unknown neuron, channel or label.
    """
    return with_masks(annotations, {(neuron, channel, label): mask}, author=author, time=time)


def with_masks(
    annotations: AnnotationSet,
    masks: Mapping[tuple[int, int, str], np.ndarray],
    *,
    author: str,
    time: str | None = None,
) -> AnnotationSet:
    """`with_mask` for many (neuron, channel, label), as one edit."""
    changed: dict[int, NeuronRecord] = {}
    side = annotations.side
    for (neuron, channel, label), mask in masks.items():
        record = changed.get(neuron) or annotations.record(neuron)
        annotations._check_channel(channel)
        annotations._check_label(label)
        if np.shape(mask) != (side, side) or np.asarray(mask).dtype != bool:
            found = f"{np.shape(mask)} {np.asarray(mask).dtype}"
            raise AnnotationError(f"the mask of neuron {neuron} is {found}; neurons here need ({side}, {side}) bool")
        kept = {key: value for key, value in record.masks.items() if key != (channel, label)}
        if mask.any():
            kept[int(channel), label] = _frozen(mask)
        changed[int(neuron)] = replace(record, masks=kept)
    if len(masks) == 1:
        ((neuron, channel, label),) = masks
        what = f"mask {label!r} on neuron {neuron}, channel {annotations.channels[channel]}"
    else:
        what = f"{len(masks)} masks on {len(changed)} neurons"
    return _edited(annotations, what, changed, author, time)


def with_neuron_labels(
    annotations: AnnotationSet, labels: Mapping[int, Iterable[str]], *, author: str, time: str | None = None
) -> AnnotationSet:
    """Put text labels in the place of those of each neuron in ``labels``, as one edit.

    AnnotationError for an unknown neuron, and for labels that are empty or twice on one neuron.
    """
    changed = {}
    for neuron, names in labels.items():
        given: tuple[str, ...] = ()
        for name in [names] if isinstance(names, str) else names:
            given = (*given, _new_name(name, given))
        changed[int(neuron)] = replace(annotations.record(neuron), labels=given)
    one = next(iter(changed.items()), None)
    what = f"labels {list(one[1].labels)} on neuron {one[0]}" if one and len(changed) == 1 else None
    return _edited(annotations, what or f"labels on {len(changed)} neurons", changed, author, time)


def with_note(
    annotations: AnnotationSet, neuron: int, note: str, *, author: str, time: str | None = None
) -> AnnotationSet:
    """Put a note in the place of that of a neuron. AnnotationError for an unknown one, or a note that is too long."""
    if not isinstance(note, str) or len(note) > MAX_NOTE:
        raise AnnotationError(f"a note is text of up to {MAX_NOTE} characters")
    record = replace(annotations.record(neuron), note=note)
    return _edited(annotations, f"note on neuron {neuron}", {int(neuron): record}, author, time)


def undo(annotations: AnnotationSet) -> AnnotationSet:
    """Without the last edit, which `redo` brings back. AnnotationError where there is none, or it is too old."""
    last = annotations.history[-1] if annotations.history else None
    if last is None or last.before is None:
        what = "no edit to undo" if last is None else f"only the last {KEPT_EDITS} edits can be undone"
        raise AnnotationError(f"{what}; earlier versions of the file are still there to load")
    there = _applied(annotations, last.before)
    return replace(there, history=annotations.history[:-1], undone=(*annotations.undone, last))


def redo(annotations: AnnotationSet) -> AnnotationSet:
    """With the last edit again that `undo` took away. AnnotationError where there is none; a new edit forgets them."""
    last = annotations.undone[-1] if annotations.undone else None
    if last is None or last.after is None:
        raise AnnotationError("no undone edit to bring back")
    there = _applied(annotations, last.after)
    return replace(there, history=(*annotations.history, last), undone=annotations.undone[:-1])


def check_author(author: str) -> str:
    """``author`` without surrounding blanks; AnnotationError where nothing is left."""
    if not isinstance(author, str) or not author.strip() or len(author) > MAX_NAME:
        raise AnnotationError(f"the author is {author!r}; every edit needs a name")
    return author.strip()


def now() -> str:
    """This moment, ISO 8601 in UTC to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _edited(
    annotations: AnnotationSet,
    what: str,
    changed: Mapping[int, NeuronRecord],
    author: str,
    time: str | None,
    labels: tuple[str, ...] | None = None,
) -> AnnotationSet:
    before = Contents(annotations.labels, {neuron: annotations.record(neuron) for neuron in changed})
    after = Contents(annotations.labels if labels is None else labels, dict(changed))
    edit = Edit(check_author(author), now() if time is None else time, what, before, after)
    history = (*annotations.history, edit)
    if len(history) > KEPT_EDITS and history[-KEPT_EDITS - 1].before is not None:
        history = tuple(replace(old, before=None, after=None) for old in history[:-KEPT_EDITS]) + history[-KEPT_EDITS:]
    return replace(_applied(annotations, after), history=history, undone=())


def _applied(annotations: AnnotationSet, contents: Contents) -> AnnotationSet:
    records = {**annotations.records, **contents.records}
    said = {n: record for n, record in records.items() if record.labels or record.note or record.masks}
    return replace(annotations, labels=contents.labels, records=said)


def _new_name(name: str, there: Sequence[str]) -> str:
    if not isinstance(name, str) or not name.strip() or name != name.strip() or len(name) > MAX_NAME:
        raise AnnotationError(
            f"the label {name!r} cannot be used; give text of 1 to {MAX_NAME} characters without blanks around it"
        )
    if name in there:
        raise AnnotationError(f"the label {name!r} is there already; there are {list(there)}")
    return name


def _is_index(value: Any, count: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < count


def _frozen(mask: np.ndarray) -> np.ndarray:
    kept = np.array(mask, bool)
    kept.flags.writeable = False
    return kept
