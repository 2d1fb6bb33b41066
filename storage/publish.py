"""Publishing: a Zarr group is written beside its place and then put there, so that no half-written one is seen.

On a file system the old group is renamed away and the new one into its place. An object store cannot
rename: there the new group is copied over the old one, its root ``zarr.json`` last, and stays beside until the
copy is whole. `recover` ends what a kill interrupted; a group beside is whole once its root is marked `WHOLE`.
"""

import json
from pathlib import Path
from typing import Any

from skysom.storage import place as places
from skysom.storage.place import Place, is_remote, patiently, remove_tree

ROOT = "zarr.json"
WHOLE = "skysom_written_to_the_end"
"""Attribute of the root of a remote group that is written to the end; the published one does not carry it."""


def beside_of(final: Place) -> Place:
    """Where the successor of ``final`` is written."""
    return final.with_name(f".{final.name}.partial")


def publish(beside: Place, final: Place) -> None:
    """Put the finished group ``beside`` in the place of ``final``; a kill leaves either, or what `recover` ends."""
    if isinstance(beside, Path) and isinstance(final, Path):
        old = _old(final)
        remove_tree(old)
        if final.exists():
            final.rename(old)
        beside.rename(final)
        remove_tree(old)
        return
    root = json.loads(places.read_bytes(beside / ROOT))
    root["attributes"][WHOLE] = True
    places.write_atomically(beside / ROOT, json.dumps(root, indent=2).encode())
    _copy(beside, final)


def recover(folder: Place) -> int:
    """End every replacement in ``folder`` that was killed half-way; returns how many partial groups it removed."""
    swept = 0
    for entry in places.entries(folder):
        if not entry.name.startswith("."):
            continue
        if entry.name.endswith(".old") and isinstance(entry, Path):
            final = entry.with_name(entry.name[1 : -len(".old")])
            if final.exists():
                remove_tree(entry)
            else:
                entry.rename(final)
        elif entry.name.endswith(".partial"):
            if is_remote(entry) and _root_attributes(entry).get(WHOLE):
                _copy(entry, entry.with_name(entry.name[1 : -len(".partial")]))
            else:
                remove_tree(entry)
                swept += 1
    return swept


def _copy(beside: Any, final: Any) -> None:
    """Copy ``beside`` over ``final``, the root last and without its mark; then remove ``beside``."""
    names = [str(path.relative_to(beside)) for path in places.files_below(beside)]
    others = [name for name in names if name != ROOT]
    stale = {str(path.relative_to(final)) for path in places.files_below(final)} - set(names)
    if others:
        source, target = ([(root / name).path for name in others] for root in (beside, final))
        patiently(beside.fs.copy, source, target)
    root = json.loads(places.read_bytes(beside / ROOT))
    root["attributes"].pop(WHOLE, None)
    places.write_atomically(final / ROOT, json.dumps(root, indent=2).encode())
    for name in sorted(stale):
        places.remove(final / name)
    remove_tree(beside)


def _root_attributes(group: Place) -> dict[str, Any]:
    try:
        return dict(json.loads(places.read_bytes(group / ROOT))["attributes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")
