"""The sections of the report: HTML made of what was gathered, with captions that say how to read each picture.

Everything that comes from a file is escaped.
"""

from datetime import UTC, datetime
from html import escape

import numpy as np

from skysom.jobs import report_data, report_groups, report_map, report_run, report_search
from skysom.jobs import report_figures as figures
from skysom.jobs.report_data import Content, MappingSummary, QuarterTurns, quarter_turns
from skysom.jobs.report_words import Section, as_float, duration, number, version

WORST_SIDE = 112


def all_sections(content: Content, config_text: str) -> list[Section]:
    """The sections that the content allows, top to bottom."""
    found = []
    if content.weights is not None:
        found.append(report_map.map_section(content))
    mapping = content.mapping
    if mapping is not None and mapping.mapped:
        found += [report_map.occupation(content, mapping), report_map.members(content, mapping)]
        found.append(_distances(content, mapping))
        if mapping.angles is not None:
            found.append(_angles(mapping.angles))
        if (search := report_search.search_section(mapping)) is not None:
            found.append(search)
    elif content.u_matrix is not None:
        found.append(Section("occupation", "Neighbourhoods", report_map.u_matrix(content)))
    if content.history.training and content.weights is not None and not content.published:
        found.append(_training(content))
    if content.groups is not None:
        found.append(report_groups.groups_section(content.groups))
    return [*found, report_run.failures(content), report_run.run_section(content, config_text)]


def summary(content: Content) -> str:
    """One paragraph: sources, map, failures, distances, time."""
    counts = content.counts
    failed = counts.sources - counts.usable
    parts = [f"{number(counts.sources)} source{'s' * (counts.sources != 1)} in the catalogue"]
    if content.lattice is None:
        parts[0] += "; no map has been trained yet"
    elif content.mapping is None:
        parts[0] += f"; {_map_size(content)} {'is at hand' if content.published else 'has been trained'}, nothing has "
        parts[0] += "been mapped yet"
    else:
        parts[0] += f", {number(content.mapping.mapped)} of them mapped to {_map_size(content)}"
    parts[0] += "."
    if content.published:
        parts.append(f"The map was not trained here: it comes from {content.published}.")
    elif content.lattice is not None and content.weights is None and content.mapping is not None:
        source = content.mapping.attrs.get("som", "unnamed")
        parts.append(f"The map itself ({source}) is not in the store, so its neurons cannot be shown.")
    parts.append(
        f"{number(failed)} could not be used ({100 * failed / max(counts.sources, 1):.1f} %) and "
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
            + (f"; {number(empty)} of {number(len(content.mapping.hits))} neurons got no member." if empty else ".")
        )
    return escape(" ".join(parts))


def key_figures(content: Content) -> str:
    """The numbers in large print."""
    counts, mapping = content.counts, content.mapping
    values = [(number(counts.sources), "sources")]
    if mapping is not None:
        values.append((number(mapping.mapped), "mapped"))
    values.append((number(counts.sources - counts.usable), "not usable"))
    if content.lattice is not None:
        values.append((" × ".join(map(str, content.lattice.shape)), f"{_kind(content)} map"))
    if mapping is not None and mapping.mapped:
        values.append((f"{mapping.quantile(0.5):.3g}", "median distance"))
    if content.history.stages:
        total = sum(stage.seconds for stage in content.history.stages.values())
        values.append((duration(total), "computing time"))
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in values)


def footer(content: Content) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Written {now} by skysom {escape(version('skysom'))} from {escape(report_data.name_of(content.output))}."


def _distances(content: Content, mapping: MappingSummary) -> Section:
    marks = {"median": mapping.quantile(0.5), "95 %": mapping.quantile(0.95)}
    worst = np.array([match.distance for match in content.worst])
    beside = "" if content.weights is None else " (left) and the neuron that resembles it most"
    chart = figures.distance_chart(mapping.edges, mapping.histogram, marks, worst)
    body = (
        f'<figure class="one"><img src="{chart}" alt="histogram of distances"></figure>'
        '<p class="caption">Euclidean distance between a source and its best-matching neuron, over the compared '
        "region and all channels, at the best angle. The bulk is what the map explains; the tail is artefacts, "
        "blends, bad cut-outs, and the objects no neuron stands for. Orange ticks: the sources below.</p>"
        "<h3>Worst matches</h3>"
        f'<p class="caption">The source as observed{beside}.</p>'
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
            neuron = content.neuron_picture(match.bmu, WORST_SIDE)
            uri = figures.strip([[content.worst_pictures[match.row], neuron]], WORST_SIDE, len(content.channels))
            picture = f'<img src="{uri}" alt="a source and its neuron" loading="lazy">'
        cards.append(
            f'<div class="card"><p><b>{escape(match.source_id)}</b></p>{picture}'
            f"<p>distance {match.distance:.3g} to {place}</p><p>{escape(more)}</p></div>"
        )
    return Section("distances", "Distances and worst matches", f'{body}<div class="cards">{"".join(cards)}</div>')


def _angles(angles: np.ndarray) -> Section:
    rotations = angles.shape[1]
    if rotations == 1:
        return Section("angles", "Angles", "<p>Images were compared without turning them.</p>")
    turns = quarter_turns(angles)
    chart = figures.angle_chart(angles)
    return Section(
        "angles",
        "Best angles",
        f'<figure class="one"><img src="{chart}" alt="histogram of best angles"></figure>'
        '<p class="caption">The angle by which a source was turned (and mirrored, where that fits better) to meet '
        "its neuron; clockwise with the first row of the array on top, as in the catalogue. For a survey of randomly "
        "oriented sources the histogram should be flat.</p>"
        f"{_angle_note(turns, rotations)}",
    )


def _angle_note(turns: QuarterTurns, rotations: int) -> str:
    share = (
        f"{100 * turns.observed:.1f} % of the best angles lie within 5° of a quarter turn; "
        f"{100 * turns.expected:.1f} % would by chance."
    )
    if turns.verdict == "unknown":
        return f'<p class="caption">With {rotations} rotations, a preference for quarter turns cannot be told.</p>'
    if turns.verdict == "flat":
        return f'<p class="note fine">{share} No clear preference, as it should be for random orientations.</p>'
    if turns.verdict == "preferred":
        return (
            f'<p class="note"><b>The angles prefer quarter turns.</b> {share} The sky does not do that. Turning an '
            "image by bilinear interpolation averages neighbouring pixels and so damps its noise, most of all a "
            "degree or two away from 0°, 90°, 180° and 270°; less noise is a smaller distance, whatever the "
            "source looks like. Faint and round sources, whose angle the signal does not fix, are drawn most. BMUs "
            "hardly suffer; do not use these angles as position angles of faint sources. Masking the noise in "
            "preprocessing, or smoothing it before training, lessens the effect.</p>"
        )
    return (
        f'<p class="note"><b>The angles avoid quarter turns.</b> {share} The sky does not do that. At exact quarter '
        "turns nothing is interpolated and an image stays sharp and keeps its noise; at other angles bilinear "
        "interpolation smooths it, which brings it nearer to the neurons, averages of smoothed images. A background "
        "above zero adds to this where it ends at the edge of the image. BMUs hardly suffer; do not use these angles "
        "as position angles of faint or round sources. More pixels across the beam lessen the effect.</p>"
    )


def _training(content: Content) -> Section:
    events = content.history.training
    stage = np.array([int(as_float(e.get("training_stage"))) for e in events])
    seen = np.array([as_float(e.get("images_seen")) for e in events])
    distance = np.array([as_float(e.get("mean_bmu_distance")) for e in events])
    factor = np.array([as_float(e.get("update_factor")) for e in events])
    chart = figures.training_chart(seen, distance, factor, stage)
    body = (
        f'<figure class="one"><img src="{chart}" alt="training curve"></figure>'
        '<p class="caption">Mean distance of the images to their best neuron while the map learned. It should fall '
        "and level off: still falling at the end means that more iterations would help; a rise at the start of a "
        "stage comes from its larger update factor or finer angles.</p>"
    )
    return Section("training", "Training", body)


def _map_size(content: Content) -> str:
    shape = " × ".join(map(str, content.lattice.shape))
    neurons = f" ({number(content.lattice.size)} neurons)" if content.lattice.rank > 1 else " neurons"
    periodic = "periodic " if content.lattice.periodic else ""
    return f"a {'published ' if content.published else ''}{periodic}{_kind(content)} map of {shape}{neurons}"


def _kind(content: Content) -> str:
    return "Cartesian" if content.lattice.kind == "cartesian" else str(content.lattice.kind)


def _angular_size(content: Content) -> str:
    side, scale = content.geometry.get("image_side"), content.attrs.get("pixel_scale_arcsec")
    if not side:
        return ""
    stored = content.attrs.get("image_side") or side
    sky = f" ({side * scale:.3g}″ on a side)" if scale and stored == side else ""
    return f"{side} × {side} pixels{sky}"
