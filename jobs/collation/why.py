"""Why grouped: for a source of a collation, in words and as a picture, which masks made it and what lay under them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysom.engine.collation.neighbours import positions_of_vectors, unit_vectors
from skysom.engine.collation.projection import sky_offsets_arcsec
from skysom.engine.collation.shapes import ranked_by_separation
from skysom.jobs.collation.inputs import CollationInputs
from skysom.jobs.collation.why_images import Cutout, Images, stitched
from skysom.jobs.collation.why_island import Island, Place, find_island
from skysom.jobs.collation.why_words import story
from skysom.jobs.errors import ConfigError
from skysom.jobs.pictures.grouping import MOST_NAMED, MaskOnSky, SourcePicture, draw_grouping, mask_on_sky
from skysom.jobs.pictures.style import INK, MUTED, any_letters, plain
from skysom.storage.place import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 1.35
"""The picture reaches so much further than the members."""
LEAST_HALF_ARCSEC, MOST_PIXELS = 30.0, 600
MOST_CUTOUTS = 24
"""Cut-outs that are read for one picture."""
FORMATS = ("png", "pdf", "svg")
"""Of pictures, by suffix."""


@dataclass(frozen=True, eq=False)
class Why:
    """A source explained.

    row : that was asked for. members : (k,) base rows. representative : the row whose mask gave the source its hosts,
    -1 for none. title, lines : the words. centre_deg : the middle of the picture. island : all that it is told from.
    hosts : by channel, the rows that its representative's mask carries, nearest to the middle first; other_hosts :
    those of other masks. cutouts : images by base row.
    """

    inputs: CollationInputs
    island: Island
    row: int
    members: np.ndarray
    representative: int
    title: str
    lines: Sequence[str]
    centre_deg: tuple[float, float]
    hosts: Mapping[int, np.ndarray]
    other_hosts: Mapping[int, np.ndarray]
    cutouts: Mapping[int, Cutout] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Title and lines."""
        return "\n".join([self.title, *self.lines])

    def picture(self, channel: int) -> SourcePicture:
        """What is drawn on the image of a channel, for `draw_grouping`."""
        base, side, pixel = self.island.base, *self._grid()
        others = base.row[~np.isin(base.row, self.members) & np.isfinite(base.ra_deg)]
        groups = self.island.groups
        placed = [(cutout, tuple(self._places([row])[0].tolist())) for row, cutout in self.cutouts.items()]
        image = stitched(placed, channel, side, pixel) if placed else np.full((side, side), np.nan, np.float32)
        drawn = self.members[np.isfinite(base.ra_deg[base.at(self.members)])]
        first = np.flatnonzero(drawn == self.representative)
        return SourcePicture(
            image,
            pixel,
            self._places(drawn),
            int(first[0]) if len(first) else -1,
            groups.isolated[np.searchsorted(groups.rows, drawn)] >= 0,
            self._places(others),
            self._masks(channel),
            self._host_places(self.hosts),
            self._host_places(self.other_hosts),
        )

    def figure(self) -> "Figure":
        """A panel a channel of the map, under one title. ConfigError for a component without a position."""
        from matplotlib.figure import Figure

        if not np.isfinite(self.centre_deg).all():
            raise ConfigError(f"{self.title}: it cannot be drawn; correct its position and collate again")

        channels = list(range(self.inputs.planes.shape[1]))
        figure = Figure(figsize=(4.3 * len(channels) + 2.4, 4.9), layout="compressed")
        panels = figure.subplots(1, len(channels), squeeze=False)[0]
        names = self._channel_names()
        pictures = [self.picture(channel) for channel in channels]
        for channel, axes in zip(channels, panels, strict=True):
            legend = pictures if channel == channels[-1] else ()
            draw_grouping(axes, pictures[channel], title=names[channel], legend=legend)
        look: dict[str, Any] = {"x": 0.01, "ha": "left", "parse_math": False}
        figure.suptitle(plain(self.title), fontsize=11, color=INK, **look)
        figure.supxlabel(self._caption(), fontsize=8, color=MUTED, **look)
        return figure

    def save(self, path: str | Path) -> None:
        """Write the picture as the suffix says (`FORMATS`), whole or not at all; raises as `check_picture`."""
        path, written = Path(path), io.BytesIO()
        check_picture(path)
        with any_letters():
            self.figure().savefig(written, format=path.suffix.lower()[1:], dpi=150)
        write_atomically(path, written.getvalue())

    # --- places -----------------------------------------------------------------------------------

    def _places(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Offsets (k, 2) arcsec east, north of base rows from the middle."""
        base = self.island.base
        at = base.at(rows)
        return self._offsets(base.ra_deg[at], base.dec_deg[at])

    def _offsets(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
        return _offsets_arcsec(self.centre_deg, ra_deg, dec_deg)

    def _host_places(self, rows_of: Mapping[int, np.ndarray]) -> np.ndarray:
        found = [np.empty((0, 2))]
        for channel, rows in rows_of.items():
            place = self.island.base if self.inputs.base_channels[channel] else self.island.others[channel]
            at = place.at(rows)
            found.append(self._offsets(place.ra_deg[at], place.dec_deg[at]))
        return np.concatenate(found)

    def _grid(self) -> tuple[int, float]:
        """Pixels of the picture's side, and arcsec a pixel."""
        pixel = min(
            (cutout.pixel_arcsec for cutout in self.cutouts.values()), default=self.inputs.pixel_scale_arcsec[0]
        )
        reach = np.abs(self._places(self.members))
        masks = [np.abs(line) for mask in self._masks(None) for line in mask.lines]
        extent = max([float(np.nanmax(reach, initial=0.0)), *(float(line.max()) for line in masks)])
        half = max(MARGIN * extent, LEAST_HALF_ARCSEC, 16 * pixel)
        pixel = max(pixel / 2, 2 * half / MOST_PIXELS)
        return int(np.ceil(2 * half / pixel)), pixel

    def _masks(self, channel: int | None) -> list[MaskOnSky]:
        """Outlines of the masks that made the source, of one channel or of all."""
        groups, planes = self.island.groups, self.inputs.planes
        used = self.members[groups.count[np.searchsorted(groups.rows, self.members)] >= 0]
        linking = groups.evidence_source[self._evidence()]
        found = []
        for row in np.union1d(used, linking).tolist():
            neuron, angle, flip = self.island.frame(row)
            if neuron < 0:
                continue
            offset = tuple(self._places([row])[0].tolist())
            for number, label in enumerate(self.inputs.labels):
                for own in range(planes.shape[1]) if channel is None else [channel]:
                    mask = (planes[neuron, own] >> np.uint64(number)) & np.uint64(1) != 0
                    if mask.any():
                        lines = mask_on_sky(mask, angle, flip, self.inputs.pixel_scale_arcsec, offset)
                        found.append(MaskOnSky(label, number, lines, row == self.representative))
        return found

    def _evidence(self) -> slice:
        groups = self.island.groups
        group = int(groups.group_of[np.searchsorted(groups.rows, self.row)])
        return slice(*groups.evidence_starts[group : group + 2].tolist())

    # --- words ------------------------------------------------------------------------------------

    def _channel_names(self) -> list[str]:
        files = enumerate(self.inputs.catalogues)
        return [plain(f"channel {channel}: {file.path.name}") for channel, file in files]

    def _caption(self) -> str:
        lines = [f"Members: {_numbered(self.island.base, self.members)}"]
        for channel, rows in self.hosts.items():
            place = self.island.base if self.inputs.base_channels[channel] else self.island.others[channel]
            lines.append(f"Host candidates (channel {channel}): {_numbered(place, rows)}")
        return "\n".join(lines)


def _numbered(place: Place, rows: np.ndarray) -> str:
    names = [f"{number + 1}: {plain(place.name(row))}" for number, row in enumerate(rows[:MOST_NAMED].tolist())]
    return ", ".join(names) + (f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else "")


def check_picture(path: Path) -> None:
    """ConfigError where no picture can be written: another suffix than `FORMATS`, a directory, or none to hold it."""
    if path.is_dir():
        raise ConfigError(f"--output {path} is a directory; give a file in it, such as {path / 'source.png'}")
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise ConfigError(
            f"--output {path} has the suffix {path.suffix!r}; pictures are written as .{', .'.join(FORMATS)}"
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--output {path}: there is no folder {path.parent}; make it, or write elsewhere")


def why(
    inputs: CollationInputs, row: int, *, images: Images | None = None, source: Mapping[str, Any] | None = None
) -> Why:
    """Explain the source of a component.

    The island of the component is grouped again, so that what is told is what decides, and no table is needed.

    Parameters
    ----------
    inputs : of the collation, as `collate` takes them. row : of the base.
    images : where cut-outs come from, such as `SurveyImages`; without them masks are drawn on grey.
    source : the source's row of ``sources.parquet``, which gives its number, name and position.

    Raises
    ------
    ConfigError : a row that the base has not, or a source of other members than these inputs give.
    """
    if not 0 <= row < inputs.base.rows:
        raise ConfigError(f"there is no row {row}; the base {inputs.base.path} has rows 0 to {inputs.base.rows - 1}")
    island = find_island(inputs, row)
    groups = island.groups
    group = int(groups.group_of[np.searchsorted(groups.rows, row)])
    members = groups.members[groups.starts[group] : groups.starts[group + 1]]
    if source is not None and [int(member) for member in source["members"]] != members.tolist():
        raise ConfigError(
            f"source {source['source']} has the members {list(source['members'])} in its table, the inputs make "
            f"{members.tolist()} of them: masks, catalogues or mapping have changed since; collate again with --redo"
        )
    centre = _centre(island, members)
    if source is not None and source["ra_deg"] is not None:
        centre = float(source["ra_deg"]), float(source["dec_deg"])
    hosts, others = _hosts(inputs, island, group, centre)
    title = _title(island, members, centre, source)
    representative = int(groups.representative[group])
    wanted = [] if images is None else _with_images(island, members, representative, centre)
    cutouts = {} if images is None else images.cutouts(inputs, island, wanted)
    return Why(
        inputs, island, row, members, representative, title, story(inputs, island, group), centre,
        hosts, others, cutouts,
    )  # fmt: skip


def _centre(island: Island, members: np.ndarray) -> tuple[float, float]:
    """The mean direction of the members; NaN of one without a position."""
    at = island.base.at(members)
    vectors = unit_vectors(island.base.ra_deg[at], island.base.dec_deg[at])
    if not np.isfinite(vectors).any():
        return np.nan, np.nan
    ra, dec = positions_of_vectors(vectors[np.isfinite(vectors).all(axis=1)].sum(axis=0)[None])
    return float(ra[0]), float(dec[0])


def _hosts(
    inputs: CollationInputs, island: Island, group: int, centre: tuple[float, float]
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Rows by channel that labels attach: by the representative's mask, and by others; nearest to the middle first."""
    from skysom.engine.collation.evidence import attached_rows

    found: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
    for label, action in enumerate(inputs.actions):
        if not (action.data or action.nodes):
            continue
        rows = attached_rows(island.groups, island.carried, label, inputs.actions, inputs.base_channels)
        own = slice(*rows.starts[group : group + 2].tolist())
        triples = zip(
            rows.channel[own].tolist(), rows.row[own].tolist(), rows.by_representative[own].tolist(), strict=True
        )
        for channel, row, first in triples:
            found[0 if first else 1].setdefault(channel, []).append(row)
    ranked = []
    for kind in found:
        ranked.append(
            {c: _nearest_first(inputs, island, c, np.unique(rows), centre) for c, rows in sorted(kind.items())}
        )
    return ranked[0], ranked[1]


def _nearest_first(
    inputs: CollationInputs, island: Island, channel: int, rows: np.ndarray, centre: tuple[float, float]
) -> np.ndarray:
    """As the source table ranks them."""
    place = island.base if inputs.base_channels[channel] else island.others[channel]
    at, middle = place.at(rows), np.array([centre])
    ends = np.array([0, len(rows)])
    return rows[ranked_by_separation(place.ra_deg[at], place.dec_deg[at], middle[:, 0], middle[:, 1], ends, rows)[1]]


def _offsets_arcsec(centre: tuple[float, float], ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Offsets (k, 2) arcsec east, north of positions from a centre, degrees."""
    ra, dec = (np.full(len(ra_deg), value) for value in centre)
    return np.stack(sky_offsets_arcsec(ra, dec, ra_deg, dec_deg), axis=1)


def _away(centre: tuple[float, float], ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Arcsec (k,) of positions from a centre."""
    return np.hypot(*_offsets_arcsec(centre, ra_deg, dec_deg).T)


def _with_images(island: Island, members: np.ndarray, representative: int, centre: tuple[float, float]) -> list[int]:
    """Rows whose cut-outs are wanted, those on top first: the representative, members, then the nearest others."""
    first = [representative] if representative >= 0 else []
    order = np.argsort(_away(centre, island.base.ra_deg, island.base.dec_deg), kind="stable")
    return list(dict.fromkeys([*first, *members.tolist(), *island.base.row[order].tolist()]))[:MOST_CUTOUTS]


def _title(island: Island, members: np.ndarray, centre: tuple[float, float], source: Mapping[str, Any] | None) -> str:
    count = f"{len(members)} component{'s' * (len(members) > 1)}"
    where = f" at {centre[0]:.5f} {centre[1]:+.5f}" if np.isfinite(centre).all() else ", without a position"
    if source is not None:
        name = f", {source['name']}" if source["name"] else ""
        return f"Source {source['source']}{name}: {count}{where}"
    return f"Source of {island.base.name(members[0])}: {count}{where}"
