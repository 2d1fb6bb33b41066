"""Sections of the report about the neurons: the map, how the survey lies on it, and the members."""

from html import escape

import numpy as np

from skysom.engine.reading.u_matrix import MAX_SIDE, angles
from skysom.jobs import report_figures as figures
from skysom.jobs.report_data import RANDOM, Content, MappingSummary
from skysom.jobs.report_words import Section, compact, number, with_error

GALLERY_SIDE = 64
MAP_PIXELS = 1400
"""Side of the square that all pictures of the map would fill together."""
MAX_PICTURES = 12
"""Pictures of the map at most (channels times depths)."""


def map_section(content: Content) -> Section:
    layout = figures.layout_of(content.lattice)
    linked = frozenset(content.gallery)
    titles = _titles(content, layout)
    shown, pictures = content.weights, []
    panels = [(channel, panel) for channel in range(len(content.channels)) for panel in range(layout.panels)]
    pixels = int(MAP_PIXELS / np.sqrt(min(len(panels), MAX_PICTURES)))
    for channel, panel in panels[:MAX_PICTURES]:
        name = content.channels[channel] if len(content.channels) > 1 else ""
        depth = f"depth {panel}" if layout.panels > 1 else ""
        heading = ", ".join(part for part in (name, depth) if part)
        picture = figures.mosaic(layout, panel, shown[:, channel], content.side, pixels)
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
    text += (
        "Colours run from the faintest to the brightest pixel of each neuron, by the square root where the "
        "background is dark, with the first pixel row at the bottom. "
    )
    if content.side < neuron:
        text += (
            f"Shown are the central {content.side} of {neuron} pixels; the rest is room for the corners of turned "
            "images. "
        )
    if content.mapping is not None:
        text += "Point at a neuron for its numbers, click it for its members."
    return escape(text)


def u_matrix(content: Content) -> str:
    """Figure of the U-matrix; empty where there is none."""
    if content.u_matrix is None:
        return ""
    tried, side = angles(content.geometry), min(content.side, MAX_SIDE)
    how = f"one turned onto the other at the best of {tried} angles, " if tried > 1 else ""
    caption = (
        f"Mean distance of a neuron to its neighbours on the map, {how}as pictures of {side} × {side} pixels. "
        "Dark: a family of look-alikes. Bright ridges: borders between families."
    )
    return cells(content, content.u_matrix, "U-matrix", "magma", "", caption)


def occupation(content: Content, mapping: MappingSummary) -> Section:
    members = np.where(mapping.hits > 0, mapping.hits, np.nan).astype(float)
    spread = np.where(mapping.hits > 1, mapping.std, np.nan) / np.where(mapping.mean > 0, mapping.mean, np.nan)
    parts = [
        cells(
            content,
            members,
            "Hit map",
            "viridis",
            "members",
            "How many sources have each neuron as their best match. Grey: none. A few crowded neurons mean common "
            "shapes; a rare neuron is a place to look for rare objects.",
            texts=[compact(n) for n in mapping.hits],
            power=0.5,
        )
    ]
    parts.append(u_matrix(content))
    parts.append(
        cells(
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
        cells(
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
    return Section("occupation", "How the survey lies on the map", f'<div class="pair">{"".join(parts)}</div>')


def cells(
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
    return f'<figure><h3>{escape(heading)}</h3>{drawings}{bar}<p class="caption">{escape(caption)}</p></figure>'


def _titles(content: Content, layout: figures.Layout) -> list[str]:
    mapping = content.mapping
    if mapping is None:
        return [f"neuron {i}: {name}" for i, name in enumerate(layout.names)]
    return [
        f"neuron {i}: {name}; {number(mapping.hits[i])} members"
        + (f", mean distance {mapping.mean[i]:.3g}" if mapping.hits[i] else "")
        for i, name in enumerate(layout.names)
    ]


def members(content: Content, mapping: MappingSummary) -> Section:
    populated = int((mapping.hits > 0).sum())
    which = (
        f"The {len(content.gallery)} most populated of {number(populated)} neurons with members"
        if len(content.gallery) < populated
        else "Every neuron that has members"
    )
    if not content.pictures:
        text = "The images were not kept in the store, so members cannot be shown."
        return Section("members", "Neurons and their members", f"<p>{text}</p>")
    caption = (
        f"{which}: the neuron, the sources nearest to it, and others drawn at random among its members. If the "
        "random ones look like the neuron, the neuron can be trusted as a label; the best ones alone always do. "
        "Sources are shown as observed (first pixel row at the bottom, so north is up in most images), not turned "
        "onto the neuron, each from its faintest to its brightest pixel. On the right, mean and "
        "scatter of the members' distances. Point at a strip for the ids of its sources."
    )
    if content.weights is None:
        caption += " The map is not in the store, so the places of the neurons stay empty."
    layout = figures.layout_of(content.lattice)
    cards = "".join(_member_card(content, mapping, layout, i) for i in content.gallery)
    return Section(
        "members",
        "Neurons and their members",
        f'<p class="caption">{caption}</p><div class="cards">{cards}</div>',
    )


def _member_card(content: Content, mapping: MappingSummary, layout: figures.Layout, i: int) -> str:
    size = next(iter(content.pictures.values())).shape[-1]
    neuron = content.neuron_picture(i, size)
    head = "" if neuron is None else "neuron"
    best, random = ([content.pictures.get(int(row)) for row in rows[i]] for rows in (mapping.best, mapping.random))
    picture = figures.strip([[neuron], best, random], size, len(content.channels))
    gap = size // 6 / (size + 2)
    names = [content.ids.get(int(row), "") for row in (*mapping.best[i], *mapping.random[i]) if row >= 0]
    ids = escape(" | ".join(names))
    grid = f"grid-template-columns:1fr {gap:.3f}fr {len(best)}fr {gap:.3f}fr {RANDOM}fr"
    mean = with_error(mapping.mean[i], mapping.std[i] if mapping.hits[i] > 1 else None)
    plural = "s" if mapping.hits[i] != 1 else ""
    return (
        f'<div class="card" id="neuron-{i}"><p class="line"><span><b>{escape(layout.names[i])}</b> · '
        f"{number(mapping.hits[i])} member{plural}</span><span>{mean}</span></p>"
        f'<img src="{picture}" alt="neuron {i} with its best and random members" title="{ids}" loading="lazy">'
        f'<div class="heads" style="{grid}"><span>{head}</span><i></i><span>best</span><i></i>'
        f"<span>{'at random' if (mapping.random[i] >= 0).any() else ''}</span></div></div>"
    )
