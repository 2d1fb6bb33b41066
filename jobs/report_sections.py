"""The sections of the report: HTML made of what was gathered, with captions that say how to read each picture.

Everything that comes from a file is escaped.
"""

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import metadata

import numpy as np

from skysom.jobs import report_figures as figures
from skysom.jobs.report_data import RANDOM, Content, MappingSummary, quarter_turn_excess

WORST_SIDE, GALLERY_SIDE = 112, 64
MAX_PICTURES = 12
"""Pictures of the map at most (channels times depths)."""
MAX_CONFIG = 20_000

CAUSES = {
    "no_file_name": (
        "The row names no file",
        "fill the file column, or give ra and dec and cut from mosaics",
    ),
    "missing_file": ("The named file is not there", "check --images and the file column"),
    "unreadable_file": ("The file is truncated or not FITS", "fetch it again"),
    "wrong_dimensions": ("The image is not two-dimensional", "select one plane of the cube"),
    "wrong_size": ("The image is not square or not of the survey's side", "cut it again, or set the side"),
    "all_nan": ("No pixel of the cut-out has data", "the position lies in a blank part of the mosaic"),
    "constant": ("All pixels are equal", "check how the cut-out was made"),
    "no_wcs": ("The header has no sky coordinates", "add a WCS, or name cut-outs by file"),
    "bad_position": ("Coordinates are missing or out of range", "correct ra and dec (degrees)"),
    "no_coverage": ("No image covers the position", "add the missing tiles, or drop the row"),
    "duplicate_id": ("An earlier row has the same id", "make ids unique, or choose another --id-column"),
    "empty_mask": ("Nothing rises above the signal-to-noise threshold", "lower the threshold"),
    "no_noise": ("The noise could not be estimated", "use larger cut-outs, or give the noise"),
    "bad_redshift": ("The redshift is missing or not positive", "fill the redshift column"),
}
"""Status: what it means, and what to do about it."""


@dataclass(frozen=True)
class Section:
    """A part of the page with its anchor; ``body`` is HTML."""

    anchor: str
    title: str
    body: str

    def html(self) -> str:
        return f'<section id="{self.anchor}"><h2>{escape(self.title)}</h2>\n{self.body}\n</section>'


def all_sections(content: Content, config_text: str) -> list[Section]:
    """The sections that the content allows, top to bottom."""
    found = []
    if content.lattice is not None:
        found.append(_map(content))
    mapping = content.mapping
    if mapping is not None and mapping.mapped:
        found += [_occupation(content, mapping), _members(content, mapping)]
        found += [_distances(content, mapping), _angles(mapping)]
    elif content.u_matrix is not None:
        figure = _cells(content, content.u_matrix, "U-matrix", "magma", "", U_MATRIX_CAPTION)
        found.append(Section("occupation", "Neighbourhoods", figure))
    if content.history["training"]:
        found.append(_training(content))
    return [*found, _failures(content), _run(content, config_text)]


def summary(content: Content) -> str:
    """One paragraph: sources, map, failures, distances, time."""
    counts = content.counts
    failed = counts.sources - counts.usable
    parts = [f"{_n(counts.sources)} source{'s' * (counts.sources != 1)} in the catalogue"]
    if content.lattice is None:
        parts[0] += "; no map has been trained yet"
    elif content.mapping is None:
        parts[0] += f"; a map of {_map_size(content)} has been trained, nothing has been mapped yet"
    else:
        parts[0] += f", {_n(content.mapping.mapped)} of them mapped to {_map_size(content)}"
    parts[0] += "."
    parts.append(
        f"{_n(failed)} could not be used ({100 * failed / max(counts.sources, 1):.1f} %) and "
        f"{'is' if failed == 1 else 'are'} kept in the catalogue with the cause."
        if failed
        else "Every source could be used."
    )
    if size := _angular_size(content):
        parts.append(f"Each was compared as a cut-out of {size}.")
    if content.mapping is not None and content.mapping.mapped:
        empty = int((content.mapping.hits == 0).sum())
        parts.append(
            f"Half of the sources lie within {content.mapping.quantile(0.5):.3g} of their neuron"
            + (f"; {_n(empty)} of {_n(len(content.mapping.hits))} neurons have no member." if empty else ".")
        )
    return escape(" ".join(parts))


def key_figures(content: Content) -> str:
    """The numbers in large print."""
    counts, mapping = content.counts, content.mapping
    values = [(_n(counts.sources), "sources")]
    if mapping is not None:
        values.append((_n(mapping.mapped), "mapped"))
    values.append((_n(counts.sources - counts.usable), "not usable"))
    if content.lattice is not None:
        values.append((" × ".join(map(str, content.lattice.shape)), f"{content.lattice.kind} map"))
    if mapping is not None and mapping.mapped:
        values.append((f"{mapping.quantile(0.5):.3g}", "median distance"))
    if content.history["stage_end"]:
        total = sum(_float(event.get("seconds")) for event in content.history["stage_end"])
        values.append((_duration(total), "computing time"))
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in values)


def footer(content: Content) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"Written {now} by skysom {escape(_version('skysom'))} from {escape(str(content.output.resolve()))}."
    )


# --- the map --------------------------------------------------------------------------------------


def _map(content: Content) -> Section:
    layout = figures.layout_of(content.lattice)
    linked = frozenset(content.gallery)
    titles = _titles(content, layout)
    shown, pictures = content.weights, []
    panels = [(channel, panel) for channel in range(len(content.channels)) for panel in range(layout.panels)]
    for channel, panel in panels[:MAX_PICTURES]:
        name = content.channels[channel] if len(content.channels) > 1 else ""
        depth = f"depth {panel}" if layout.panels > 1 else ""
        heading = ", ".join(part for part in (name, depth) if part)
        picture = figures.mosaic(
            layout, panel, shown[:, channel], content.side, 1400 if len(panels) == 1 else 900
        )
        svg = figures.lattice_svg(
            layout, panel, image=picture, titles=titles, linked=linked, label=f"the map {heading}"
        )
        pictures.append(f"<figure>{f'<h3>{escape(heading)}</h3>' if heading else ''}{svg}</figure>")
    body = f'<div class="{"one" if len(panels) == 1 else "pair"}">{"".join(pictures)}</div>'
    if len(panels) > MAX_PICTURES:
        body += f'<p class="caption">The first {MAX_PICTURES} of {len(panels)} pictures.</p>'
    return Section("map", "The map", f'<p class="caption">{_map_caption(content, layout)}</p>{body}')


def _map_caption(content: Content, layout: figures.Layout) -> str:
    neuron = content.weights.shape[-1]
    text = (
        "Each picture is a neuron: what the sources around it have in common, whatever their orientation. "
        "Similar neurons lie side by side, so morphology changes smoothly across the map. "
    )
    if layout.hexagonal:
        text += "Rows count downwards; columns are axial. "
    elif content.lattice.rank == 1:
        text += "The map is one-dimensional and folded into lines; read it like text. "
    else:
        text += "The first lattice index (bmu_row) counts downwards, the second (bmu_col) to the right. "
    if content.lattice.periodic:
        text += "The map is periodic: opposite edges are neighbours. "
    text += "Colours run from the faintest to the brightest pixel of each neuron. "
    if content.side < neuron:
        text += (
            f"Shown are the central {content.side} of {neuron} pixels; the rest is room for the corners of turned "
            "images. "
        )
    if content.mapping is not None:
        text += "Point at a neuron for its numbers, click it for its members."
    return escape(text)


U_MATRIX_CAPTION = (
    "Mean distance of a neuron to its neighbours on the map, after turning one onto the other. Dark: a family of "
    "look-alikes. Bright ridges: borders between families."
)


def _occupation(content: Content, mapping: MappingSummary) -> Section:
    members = np.where(mapping.hits > 0, mapping.hits, np.nan).astype(float)
    spread = np.where(mapping.hits > 1, mapping.std, np.nan) / np.where(
        mapping.mean > 0, mapping.mean, np.nan
    )
    parts = [
        _cells(
            content,
            members,
            "Hit map",
            "viridis",
            "members",
            "How many sources have each neuron as their best match. Grey: none. A few crowded neurons mean common "
            "shapes; a rare neuron is a place to look for rare objects.",
            texts=[_compact(n) for n in mapping.hits],
            power=0.5,
        )
    ]
    if content.u_matrix is not None:
        parts.append(_cells(content, content.u_matrix, "U-matrix", "magma", "", U_MATRIX_CAPTION))
    parts.append(
        _cells(
            content,
            mapping.mean,
            "Mean distance",
            "cividis",
            "",
            "Mean distance of the members to their neuron. Large: shapes too varied, or too noisy, for one picture.",
            texts=[f"{v:.2g}" if np.isfinite(v) else "" for v in mapping.mean],
        )
    )
    parts.append(
        _cells(
            content,
            spread,
            "Dispersion",
            "cividis",
            "",
            "Standard deviation of those distances over their mean. High values flag neurons with mixed membership; "
            "check their members before a label is carried over to all of them.",
            texts=[f"{v:.2f}" if np.isfinite(v) else "" for v in spread],
        )
    )
    return Section(
        "occupation", "How the survey lies on the map", f'<div class="pair">{"".join(parts)}</div>'
    )


def _cells(
    content: Content,
    values: np.ndarray,
    heading: str,
    colours: str,
    unit: str,
    caption: str,
    texts: list[str] | None = None,
    power: float = 1.0,
) -> str:
    """A figure of one value a neuron; one lattice a depth."""
    layout = figures.layout_of(content.lattice)
    fills = figures.value_colours(values, colours, power)
    drawings = ""
    for panel in range(min(layout.panels, MAX_PICTURES)):
        drawings += f'<p class="small">depth {panel}</p>' if layout.panels > 1 else ""
        drawings += figures.lattice_svg(
            layout,
            panel,
            fills=fills,
            texts=texts,
            titles=_titles(content, layout),
            linked=frozenset(content.gallery),
            label=heading,
        )
    bar = figures.colour_bar(values, colours, unit, power)
    return (
        f'<figure><h3>{escape(heading)}</h3>{drawings}{bar}<p class="caption">{escape(caption)}</p></figure>'
    )


def _titles(content: Content, layout: figures.Layout) -> list[str]:
    mapping = content.mapping
    if mapping is None:
        return [f"neuron {i}: {name}" for i, name in enumerate(layout.names)]
    return [
        f"neuron {i}: {name}; {_n(mapping.hits[i])} members"
        + (f", mean distance {mapping.mean[i]:.3g}" if mapping.hits[i] else "")
        for i, name in enumerate(layout.names)
    ]


def _members(content: Content, mapping: MappingSummary) -> Section:
    populated = int((mapping.hits > 0).sum())
    which = (
        f"The {len(content.gallery)} most populated of {_n(populated)} neurons with members"
        if len(content.gallery) < populated
        else "Every neuron that has members"
    )
    if not content.pictures:
        text = "The images were not kept in the store, so members cannot be shown."
        return Section("members", "Neurons and their members", f"<p>{text}</p>")
    caption = (
        f"{which}: the neuron, the sources nearest to it, and others drawn at random among its members. If the "
        "random ones look like the neuron, the neuron can be trusted as a label; the best ones alone always do. "
        "Sources are shown as observed (north as in the images), not turned onto the neuron, each from its "
        "faintest to its brightest pixel. Point at a strip for the ids."
    )
    layout = figures.layout_of(content.lattice)
    cards = "".join(_member_card(content, mapping, layout, i) for i in content.gallery)
    return Section(
        "members",
        "Neurons and their members",
        f'<p class="caption">{caption}</p><div class="cards">{cards}</div>',
    )


def _member_card(content: Content, mapping: MappingSummary, layout: figures.Layout, i: int) -> str:
    size = next(iter(content.pictures.values())).shape[-1]
    neuron = figures.thumbnails(figures.central(content.weights[i], content.side), size)
    best, random = (
        [content.pictures.get(int(row)) for row in rows[i]] for rows in (mapping.best, mapping.random)
    )
    picture = figures.strip([[neuron], best, random], size, len(content.channels))
    gap = size // 6 / (size + 2)
    grid = f"grid-template-columns:1fr {gap:.3f}fr {len(best)}fr {gap:.3f}fr {RANDOM}fr"
    mean = (
        f"{mapping.mean[i]:.3g} ± {mapping.std[i]:.2g}" if mapping.hits[i] > 1 else f"{mapping.mean[i]:.3g}"
    )
    plural = "s" if mapping.hits[i] != 1 else ""
    return (
        f'<div class="card" id="neuron-{i}"><p><b>{escape(layout.names[i])}</b> · {_n(mapping.hits[i])} '
        f"member{plural} · distance {mean}</p>"
        f'<img src="{picture}" alt="neuron {i} with its best and random members" loading="lazy">'
        f'<div class="heads" style="{grid}"><span>neuron</span><i></i><span>best</span><i></i>'
        f"<span>{'at random' if (mapping.random[i] >= 0).any() else ''}</span></div></div>"
    )


# --- the sources ----------------------------------------------------------------------------------


def _distances(content: Content, mapping: MappingSummary) -> Section:
    marks = {"median": mapping.quantile(0.5), "95 %": mapping.quantile(0.95)}
    worst = np.array([match.distance for match in content.worst])
    chart = figures.distance_chart(mapping.edges, mapping.histogram, marks, worst)
    body = (
        f'<figure class="one"><img src="{chart}" alt="histogram of distances"></figure>'
        '<p class="caption">Euclidean distance between a source and its best-matching neuron, over the compared '
        "region and all channels, at the best angle. The bulk is what the map explains; the tail is artefacts, "
        "blends, bad cut-outs, and the objects no neuron stands for. Orange ticks: the sources below.</p>"
        "<h3>Worst matches</h3>"
        '<p class="caption">Left the source as observed, right the neuron that resembles it most.</p>'
    )
    layout = figures.layout_of(content.lattice)
    cards = []
    for match in content.worst:
        place = f'<a href="#neuron-{match.bmu}">{escape(layout.names[match.bmu])}</a>'
        place = place if match.bmu in content.gallery else escape(layout.names[match.bmu])
        sky = f"{match.ra:.5f} {match.dec:+.5f}" if np.isfinite([match.ra, match.dec]).all() else ""
        padded = f"{100 * match.coverage:.0f} % of the cut-out has data" if match.coverage < 1 else ""
        more = " · ".join(part for part in (match.status, sky, padded) if part)
        picture = ""
        if match.row in content.worst_pictures:
            neuron = figures.thumbnails(figures.central(content.weights[match.bmu], content.side), WORST_SIDE)
            uri = figures.strip(
                [[content.worst_pictures[match.row], neuron]], WORST_SIDE, len(content.channels)
            )
            picture = f'<img src="{uri}" alt="a source and its neuron" loading="lazy">'
        cards.append(
            f'<div class="card"><p><b>{escape(match.source_id)}</b></p>{picture}'
            f"<p>distance {match.distance:.3g} to {place}</p><p>{escape(more)}</p></div>"
        )
    return Section(
        "distances", "Distances and worst matches", f'{body}<div class="cards">{"".join(cards)}</div>'
    )


def _angles(mapping: MappingSummary) -> Section:
    rotations = mapping.angles.shape[1]
    if rotations == 1:
        return Section("angles", "Angles", "<p>Images were compared without turning them.</p>")
    observed, expected, clear = quarter_turn_excess(mapping.angles)
    share = (
        f"{100 * observed:.1f} % of the best angles lie within 5° of a quarter turn; "
        f"{100 * expected:.1f} % would by chance."
    )
    if clear:
        note = (
            f'<p class="note"><b>The angles prefer quarter turns.</b> {share} Sky does not do that: turning an image '
            "by bilinear interpolation averages neighbouring pixels and so damps the noise, except near 0°, 90°, "
            "180° and 270° where pixels fall on pixels. The noise left or taken away enters the distance, which "
            "therefore depends a little on the angle. Faint and round sources, whose angle the signal does not fix, "
            "are drawn most. Neurons and distances hardly suffer; do not use these angles as position angles of "
            "faint sources. Masking the noise before training, or smoothing to about two pixels, lessens it.</p>"
        )
    elif rotations < 36:
        note = f'<p class="caption">With {rotations} rotations, a preference for quarter turns cannot be told.</p>'
    else:
        note = f'<p class="note fine">{share} No clear preference, as it should be for random orientations.</p>'
    chart = figures.angle_chart(mapping.angles)
    return Section(
        "angles",
        "Best angles",
        f'<figure class="one"><img src="{chart}" alt="histogram of best angles"></figure>'
        '<p class="caption">The angle by which a source was turned (and mirrored, where that fits better) to meet its '
        "neuron. For a survey of randomly oriented sources the histogram should be flat.</p>" + note,
    )


def _training(content: Content) -> Section:
    events = content.history["training"][-2000:]
    stage = np.array([int(_float(e.get("training_stage"))) for e in events])
    seen = np.array([_float(e.get("images_seen")) for e in events])
    # counts that start again with a stage are joined to a running one
    seen = seen + np.concatenate([[0], np.cumsum(np.where(np.diff(seen) < 0, seen[:-1], 0))])
    distance = np.array([_float(e.get("mean_bmu_distance")) for e in events])
    factor = np.array([_float(e.get("update_factor")) for e in events])
    chart = figures.training_chart(seen, distance, factor, stage)
    body = (
        f'<figure class="one"><img src="{chart}" alt="training curve"></figure>'
        '<p class="caption">Mean distance of the images to their best neuron while the map learned. It should fall '
        "and level off: still falling at the end means that more iterations would help; a rise at the start of a "
        "stage comes from its larger update factor or finer angles.</p>"
    )
    return Section("training", "Training", body)


def _failures(content: Content) -> Section:
    counts = content.counts
    padded = (
        f"<p>{_n(counts.padded)} usable sources lie at an edge: part of their cut-out has no data and was filled "
        "(column <code>coverage</code>).</p>"
        if counts.padded
        else ""
    )
    if not counts.causes:
        return Section("failures", "Failures", f"<p>Every source of the catalogue could be used.</p>{padded}")
    rows = ""
    for name, cause in sorted(counts.causes.items(), key=lambda item: -item[1].count):
        words, remedy = CAUSES.get(name, (name.replace("_", " "), ""))
        more = ", …" if cause.count > len(cause.ids) else ""
        rows += (
            f'<tr><td>{escape(words)}<br><code>{escape(name)}</code></td><td class="number">{_n(cause.count)}</td>'
            f"<td>{escape(', '.join(cause.ids))}{more}</td><td>{escape(remedy)}</td></tr>"
        )
    return Section(
        "failures",
        "Failures",
        "<p>These rows stay in the catalogue, with the cause in the column <code>status</code> and no neuron.</p>"
        '<div class="scroll"><table><tr><th>Cause</th><th class="number">Rows</th><th>First ids</th>'
        f"<th>What to do</th></tr>{rows}</table></div>{padded}",
    )


# --- the run --------------------------------------------------------------------------------------


def _run(content: Content, config_text: str) -> Section:
    return Section(
        "run",
        "The run",
        _times(content) + _next_steps(content) + _configuration(config_text) + _versions(content),
    )


def _times(content: Content) -> str:
    stages: dict[str, list[float]] = {}
    for event in content.history["stage_end"]:
        total = stages.setdefault(str(event.get("stage", "?")), [0.0, 0.0])
        total[0] += _float(event.get("seconds"))
        total[1] += _float(event.get("images"))
    if not stages:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{_duration(seconds)}</td>'
        f'<td class="number">{_n(images) if images else ""}</td>'
        f'<td class="number">{f"{images / seconds:,.0f}" if images and seconds > 0 else ""}</td></tr>'
        for name, (seconds, images) in stages.items()
    )
    return (
        '<h3>Time by stage</h3><div class="scroll"><table><tr><th>Stage</th><th class="number">Time</th>'
        f'<th class="number">Images</th><th class="number">Images a second</th></tr>{rows}</table></div>'
    )


def _next_steps(content: Content) -> str:
    lines = [
        "import pandas as pd, xarray as xr",
        "",
        'survey = xr.open_zarr("survey.zarr", consolidated=False)',
    ]
    if content.catalogue_columns and content.mapping is not None and content.mapping.mapped:
        neuron = int(np.argmax(content.mapping.hits))
        lines = [
            "import pandas as pd, xarray as xr",
            "",
            'catalogue = pd.read_parquet("catalogue.parquet")',
            f"members = catalogue[catalogue.bmu == {neuron}]            # the most populated neuron",
            'strange = catalogue.nlargest(50, "bmu_distance")    # the least typical sources',
            'survey = xr.open_zarr("survey.zarr", consolidated=False)  # the images, row for row',
        ]
    columns = ", ".join(content.catalogue_columns[:60])
    known = f'<p class="small">Columns of the catalogue: {escape(columns)}.</p>' if columns else ""
    return f"<h3>To go on</h3><pre>{escape(chr(10).join(lines))}</pre>{known}"


def _configuration(text: str) -> str:
    if not text:
        return ""
    cut = text if len(text) <= MAX_CONFIG else text[:MAX_CONFIG] + "\n... (cut)"
    return f"<h3>Configuration</h3><details><summary>Show</summary><pre>{escape(cut)}</pre></details>"


def _versions(content: Content) -> str:
    names = ("skysom", "numpy", "zarr", "astropy", "scikit-image", "numba", "ray", "pandas")
    rows = "".join(f"<tr><td>{name}</td><td>{escape(_version(name))}</td></tr>" for name in names)
    rows += f"<tr><td>Python</td><td>{escape(platform.python_version())} on {escape(platform.platform())}</td></tr>"
    written = escape(str(content.attrs.get("skysom_version", "unknown")))
    rows += f"<tr><td>survey store</td><td>written by skysom {written}</td></tr>"
    return f'<h3>Versions</h3><div class="scroll"><table>{rows}</table></div>'


# --- words ----------------------------------------------------------------------------------------


def _map_size(content: Content) -> str:
    shape = " × ".join(map(str, content.lattice.shape))
    neurons = f" ({_n(content.lattice.size)} neurons)" if content.lattice.rank > 1 else " neurons"
    periodic = "periodic " if content.lattice.periodic else ""
    return f"a {periodic}{content.lattice.kind} map of {shape}{neurons}"


def _angular_size(content: Content) -> str:
    side, scale = content.geometry.get("image_side"), content.attrs.get("pixel_scale_arcsec")
    if not side:
        return ""
    stored = content.attrs.get("image_side") or side
    sky = f" ({side * scale:.3g}″ on a side)" if scale and stored == side else ""
    return f"{side} × {side} pixels{sky}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _compact(count: int) -> str:
    """A count in at most five characters: 812, 4.2k, 130k, 2.1M."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if count >= 10 * size or (size > 1000 and count >= size):
            value = count / size
            return f"{value:.1f}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return str(int(count))


def _n(count: float) -> str:
    return f"{int(count):,}"


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
