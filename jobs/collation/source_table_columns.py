"""Which columns a source table has, their names and meanings: fixed by the settings, whatever the rows."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from skysom.engine.collation.actions import Action, built_in
from skysom.jobs.errors import ConfigError
from skysom.storage.table_export import described

if TYPE_CHECKING:
    from skysom.jobs.collation.inputs import CollationInputs
    from skysom.jobs.collation.source_table_extra import SourceView

EXTRA_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
"""What a user's column may hold."""
BEST = "best"
"""``redshift_of`` for the redshift of the best component."""
_SUFFIXES = ["", "_union", "_count", "_rows", "_ids", "_separation_arcsec", "_ra_deg", "_dec_deg", "_rows_union"]
_SUFFIXES += ["_channels", "_channels_union"]
_ROWS, _TEXTS, _NUMBERS = pa.list_(pa.int64()), pa.list_(pa.string()), pa.list_(pa.float64())


@dataclass(frozen=True)
class SourceColumns:
    """What the tables of sources and components hold beside what all have.

    labels, actions : one action a label. label_channels : of each label the channels in whose masks it is drawn; more
    than one gives its rows a column of channels. base_channels : channels whose catalogue is the base.
    neuron_labels : of each neuron its text labels. flux : columns of the base that are summed; the first weighs
    positions and chooses the best component. flux_units : of them, where known. redshift : column of redshifts, of the
    best component, or (``redshift_of`` a label) of the first row that this label attached. prefix : before every name.
    id_name : the column of the base that the ids are. extra : a user's columns of a source, see `SourceView`;
    extra_types : their names and types, of `EXTRA_TYPES`.

    Raises
    ------
    ConfigError : columns of one name, lengths or names that do not fit.
    """

    labels: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    label_channels: tuple[tuple[int, ...], ...] = ()
    base_channels: tuple[bool, ...] = (True,)
    neuron_labels: tuple[tuple[str, ...], ...] = ()
    flux: tuple[str, ...] = ()
    flux_units: Mapping[str, str] = field(default_factory=dict)
    redshift: str | None = None
    redshift_of: str = BEST
    prefix: str = ""
    id_name: str = "id"
    extra: "Callable[[SourceView], Mapping[str, Any]] | None" = None
    extra_types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (len(self.labels), len(self.actions), len(self.label_channels))
        if len(set(counts)) != 1:
            raise ConfigError(f"{counts[0]} labels, {counts[1]} actions, {counts[2]} sets of channels; give one each")
        if self.redshift and self.redshift_of not in (BEST, *(self.labels[label] for label in self.data_labels)):
            raise ConfigError(
                f"the redshift of {self.redshift_of!r} is asked for; give {BEST!r}, or a label that attaches rows"
            )
        unknown = {name: kind for name, kind in self.extra_types.items() if kind not in EXTRA_TYPES}
        if unknown or (self.extra is None) != (not self.extra_types):
            raise ConfigError(
                f"types of further columns are {dict(self.extra_types)}; give a function together with the names it "
                f"returns, each with one of {', '.join(EXTRA_TYPES)}"
            )
        names = self.schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the source table would have two columns {twice[0]!r}; name the added column otherwise")

    @classmethod
    def of(cls, inputs: "CollationInputs", **more: Any) -> "SourceColumns":
        """Those of a collation; ``more``: fields that its inputs do not tell."""
        drawn = np.bitwise_or.reduce(inputs.planes, axis=(0, 2, 3))
        channels = tuple(
            tuple(c for c, bits in enumerate(drawn.tolist()) if bits >> label & 1)
            for label in range(len(inputs.labels))
        )
        known = {
            "labels": inputs.labels,
            "actions": inputs.actions,
            "label_channels": channels,
            "base_channels": tuple(bool(base) for base in inputs.base_channels),
            "neuron_labels": inputs.neuron_labels,
            "flux": tuple(inputs.flux_columns),
            "flux_units": {name: unit for name, unit in inputs.base.units.items() if name in inputs.flux_columns},
            "redshift": inputs.redshift_column,
            "id_name": inputs.base.id_column,
        }
        return cls(**(known | more))

    # --- labels -----------------------------------------------------------------------------------

    @cached_property
    def data_labels(self) -> tuple[int, ...]:
        """Labels that attach rows of catalogues; those whose action is on data also where they are not drawn yet."""
        return tuple(label for label, action in enumerate(self.actions) if action.data or self.data_channels(label))

    @cached_property
    def flag_labels(self) -> tuple[int, ...]:
        """Labels that set a flag."""
        return tuple(label for label, action in enumerate(self.actions) if action.flag)

    @cached_property
    def slugs(self) -> tuple[str, ...]:
        """Of each label the text that its columns begin with: small letters, digits and underscores.

        No column of a label, whatever its action, has the name of one of another label, of a flux, or that all have.
        """
        others = _FIXED_NAMES | {flux.name.casefold() for flux in self._flux_fields}
        taken, found = set(others), []
        for label in self.labels:
            letters = unicodedata.normalize("NFKD", label.casefold()).encode("ascii", "ignore").decode()
            plain = re.sub(r"[^a-z0-9]+", "_", letters).strip("_")
            usable = plain and not plain[0].isdigit() and others.isdisjoint(_names(plain))
            slug = base = plain if usable else f"label_{plain}"
            number = 2
            while not taken.isdisjoint(_names(slug)):
                slug, number = f"{base}_{number}", number + 1
            found.append(slug)
            taken |= _names(slug)
        return tuple(found)

    def data_channels(self, label: int) -> tuple[int, ...]:
        """Channels whose rows under a label are data of it.

        All in which it is drawn where its action is on data; where it is a built-in one on nodes, such as LINK, those
        whose catalogue is not the base, since only rows of the base are nodes.
        """
        action = self.actions[label]
        if action.data:
            return self.label_channels[label]
        if action.nodes and built_in([action]):
            return tuple(c for c in self.label_channels[label] if not self.base_channels[c])
        return ()

    def many_channels(self, label: int) -> bool:
        """Whether rows that a label attaches may be of several catalogues."""
        kinds = {0 if self.base_channels[c] else c for c in self.data_channels(label)}
        return len(kinds) > 1

    # --- schemas ----------------------------------------------------------------------------------

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the source table."""
        fields = [*_FIRST, *self._flux_fields, *_SHAPE]
        if self.redshift:
            whose = "best component" if self.redshift_of == BEST else f"first row of label {self.redshift_of!r}"
            fields.append(described("redshift", pa.float64(), f"{self.redshift} of the {whose}", ucd="src.redshift"))
            fields.append(
                described("size_kpc", pa.float64(), "size at this redshift (Planck18)", "kpc", "phys.size.diameter")
            )
        fields += _MASK
        for label in self.data_labels:
            fields += self._data_fields(label)
        for label in self.flag_labels:
            slug, text = self.slugs[label], self.labels[label]
            fields.append(described(slug, pa.bool_(), f"flag of label {text!r} by the mask used; empty: not set"))
            fields.append(described(f"{slug}_union", pa.bool_(), f"flag of label {text!r} by any mask of the source"))
        for name, kind in self.extra_types.items():
            fields.append(described(name, EXTRA_TYPES[kind], "added by a user's function"))
        return pa.schema([*fields, *_LAST])

    @cached_property
    def component_schema(self) -> pa.Schema:
        """Of the component table."""
        return pa.schema(
            [
                described("row", pa.int64(), "row of the base catalogue, from 0", ucd="meta.record"),
                described("id", pa.string(), f"{self.id_name} of the base catalogue", ucd="meta.id;meta.main"),
                described("source", pa.int64(), "number of the source in the source table", ucd="meta.id.parent"),
                described("source_name", pa.string(), "name of the source", ucd="meta.id.parent"),
                described("components", pa.int32(), "components of the source", ucd="meta.number"),
                described("role", pa.string(), "best: the source's best component; member", ucd="meta.code"),
                described("ra_deg", pa.float64(), "right ascension, ICRS", "deg", "pos.eq.ra;meta.main"),
                described("dec_deg", pa.float64(), "declination, ICRS", "deg", "pos.eq.dec;meta.main"),
                described("isolated", pa.string(), "label by which the component was isolated"),
                described("status", pa.string(), "ok, or why its own mask could not be used", ucd="meta.code.status"),
            ]
        )

    @property
    def _flux_fields(self) -> list[pa.Field]:
        fields = []
        for name in self.flux:
            unit = self.flux_units.get(name, "")
            fields.append(described(f"{name}_sum", pa.float64(), f"sum of {name} of the members", unit, "phot.flux"))
            fields.append(described(f"{name}_values", pa.int32(), f"members with {name}", ucd="meta.number"))
        return fields

    def _data_fields(self, label: int) -> list[pa.Field]:
        slug, what = self.slugs[label], f"that label {self.labels[label]!r} attached"
        mask = f"rows {what} by the mask used, nearest to the position first"
        fields = [
            described(f"{slug}_count", pa.int32(), f"number of {mask}", ucd="meta.number"),
            described(f"{slug}_rows", _ROWS, f"catalogue {mask}", ucd="meta.record"),
            described(f"{slug}_ids", _TEXTS, f"ids of {mask}", ucd="meta.id"),
            described(f"{slug}_separation_arcsec", _NUMBERS, f"from position to {mask}", "arcsec", "pos.angDistance"),
            described(f"{slug}_ra_deg", _NUMBERS, f"right ascension of {mask}", "deg", "pos.eq.ra"),
            described(f"{slug}_dec_deg", _NUMBERS, f"declination of {mask}", "deg", "pos.eq.dec"),
            described(f"{slug}_rows_union", _ROWS, f"rows {what} by any mask of the source, nearest first"),
        ]
        if self.many_channels(label):
            kind = pa.list_(pa.int8())
            fields.append(described(f"{slug}_channels", kind, f"channels of {slug}_rows"))
            fields.append(described(f"{slug}_channels_union", kind, f"channels of {slug}_rows_union"))
        return fields


def _names(slug: str) -> set[str]:
    """All columns that a label may have."""
    return {f"{slug}{suffix}" for suffix in _SUFFIXES}


def _fields(*rows: Sequence[Any]) -> list[pa.Field]:
    return [described(*row) for row in rows]


_FIRST = _fields(
    ("source", pa.int64(), "number of the source, from 0, by its smallest member row", "", "meta.id;meta.main"),
    ("name", pa.string(), "J name of the position, digits cut off as the IAU asks; may repeat", "", "meta.id"),
    ("ra_deg", pa.float64(), "right ascension, ICRS", "deg", "pos.eq.ra;meta.main"),
    ("dec_deg", pa.float64(), "declination, ICRS", "deg", "pos.eq.dec;meta.main"),
    ("position_weighted", pa.bool_(), "the position is weighted by flux; else the plain mean of its members"),
    ("components", pa.int32(), "number of members", "", "meta.number"),
    ("members", _ROWS, "rows of the base catalogue, from 0, ascending", "", "meta.record"),
    ("member_ids", _TEXTS, "ids of the members in the base catalogue", "", "meta.id.part"),
    ("best_component", pa.int64(), "row of the member of largest flux; else that whose mask was used, or the first"),
    ("best_component_id", pa.string(), "its id", "", "meta.id.part"),
)
_SHAPE = _fields(
    ("size_arcsec", pa.float64(), "largest separation of two members", "arcsec", "phys.angSize"),
    ("position_angle_deg", pa.float64(), "of these two, east of north; empty for one member", "deg", "pos.posAng"),
    ("path_arcsec", pa.float64(), "shortest path from one to the other by all members", "arcsec", "pos.angDistance"),
    ("curvature", pa.float64(), "path over size, 1 for a straight source; 0 for fewer than three members"),
    ("path_approximate", pa.bool_(), "more than 12 members: a short path, not surely the shortest"),
)
_MASK = _fields(
    ("representative", pa.int64(), "row of the base whose mask was used; -1: none was"),
    ("count", pa.int64(), "place of that row in the order of sources; -1: none", "", "meta.number"),
    ("masks", pa.int32(), "masks whose edges, also to the source itself, lie in it", "", "meta.number"),
    ("neuron", pa.int32(), "neuron whose mask was used; -1: none"),
    ("distance", pa.float32(), "Euclidean distance of that row's image to the neuron", "", "stat.value"),
    ("neuron_labels", _TEXTS, "labels of the neuron", "", "meta.code.class"),
)
_LAST = _fields(
    ("isolated", pa.string(), "label by which a member was isolated"),
    ("status", pa.string(), "ok: a mask was used, or could be; else why that of the best component could not"),
)
_FIXED_NAMES = {field.name for field in (*_FIRST, *_SHAPE, *_MASK, *_LAST)} | {"redshift", "size_kpc"}
