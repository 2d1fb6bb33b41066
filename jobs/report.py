"""The report: one self-contained page that shows a map, how the survey lies on it, and what went wrong."""

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from skysom.engine.lattice import lattice_from_dict
from skysom.engine.reading.crops import central
from skysom.engine.reading.u_matrix import u_matrix
from skysom.jobs import report_data, report_figures, report_groups, report_map, report_sections
from skysom.jobs.report_data import Content, MappingSummary
from skysom.jobs.report_history import read_history
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source
from skysom.storage.place import Place, place, write_atomically
from skysom.storage.survey import Survey

ImageLoader = Callable[[Sequence[int]], np.ndarray]

GALLERY_NEURONS = 100
LOAD_ROWS = 64
"""Images asked for at a time; only their thumbnails are kept."""
GALLERY_PIXELS = 3_000_000
"""Bound on the pixels of all member thumbnails, which sets their side."""


def write_report(
    output: str | Place,
    *,
    mapping: str = "main",
    som: str = "main",
    image_loader: ImageLoader | None = None,
    config_text: str = "",
    title: str = "",
) -> Place:
    """Write ``output/report.html`` from what the output holds; returns its path.

    Parameters
    ----------
    output : directory of a run, with ``survey.zarr`` and, where there are any, ``history.jsonl`` and
        ``catalogue.parquet``. A map or mapping that is not there leaves its sections out.
    mapping, som : names in the store.
    image_loader : gives the images (n, C, y, x) of row numbers; default the stored prepared images, else the
        cut-outs. A few hundred rows are asked for, whatever the number of sources, at most 64 at a time.
    config_text : configuration to print; default ``.skysom/config.json``.
    title : heading; default the name of the directory.

    Raises
    ------
    SurveyError : there is no survey store in ``output``.

    Notes
    -----
    The page holds a bounded number of pictures and is replaced atomically. It needs neither scripts nor network.
    """
    output = place(output)
    survey = Survey(output / "survey.zarr")
    content = _gather(output, survey, mapping, som, image_loader)
    page = Template(resources.files("skysom.jobs").joinpath("report_template.html").read_text(encoding="utf-8"))
    sections = report_sections.all_sections(content, config_text or _stored_config(output))
    html = page.substitute(
        title=escape(title or f"{report_data.name_of(output)}: survey map"),
        summary=report_sections.summary(content),
        figures=report_sections.key_figures(content),
        contents="".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections),
        sections="\n".join(s.html() for s in sections),
        footer=report_sections.footer(content),
    )
    target = output / "report.html"
    write_atomically(target, html.encode())
    return target


def _gather(output: Place, survey: Survey, mapping: str, som: str, loader: ImageLoader | None) -> Content:
    common: dict[str, Any] = {
        "output": output,
        "counts": report_data.count_rows(survey),
        "attrs": survey.attrs,
        "history": read_history(output / "history.jsonl", som, mapping),
        "catalogue_columns": _catalogue_columns(output / "catalogue.parquet"),
        "groups": report_groups.read_groups(output),
    }
    mapped = mapping in survey.mapping_names()
    if som in survey.som_names():
        common |= _stored_map(survey, som)
    elif mapped:
        common |= _lattice_of_mapping(survey, mapping)
    if not mapped or "lattice" not in common:
        return Content(**common)
    summary = report_data.summarise_mapping(survey, mapping, common["lattice"].size)
    gallery, side = _gallery(summary), common["side"]
    members = np.concatenate([summary.best[gallery].ravel(), summary.random[gallery].ravel()])
    loader = loader or _stored_images(survey)
    channels = len(survey.attrs.get("channels") or [0])
    return Content(
        **common,
        mapping=summary,
        gallery=gallery,
        ids=report_data.source_ids(survey, members),
        pictures=_pictures(loader, members, side, _gallery_side(channels)),
        worst=report_data.worst_matches(survey, mapping, summary.worst),
        worst_pictures=_pictures(loader, summary.worst, side, report_sections.WORST_SIDE),
    )


def _stored_map(survey: Survey, som: str) -> dict[str, Any]:
    weights, attrs = survey.load_som(som)
    lattice, geometry = lattice_from_dict(attrs["lattice"]), attrs.get("geometry") or {}
    side = _shown_side(weights, geometry)
    return {
        "lattice": lattice,
        "weights": weights,
        "som_attrs": attrs,
        "side": side,
        "u_matrix": u_matrix(weights, lattice, geometry, side),
    }


def _lattice_of_mapping(survey: Survey, mapping: str) -> dict[str, Any]:
    """What a mapping says about a map that is not in the store (any more); empty where it says nothing."""
    attrs: dict[str, Any] = dict(survey.group[f"mappings/{mapping}"].attrs)
    if "lattice" not in attrs:
        return {}
    geometry = attrs.get("geometry") or {}
    side = int(geometry.get("image_side") or survey.attrs["image_side"])
    return {"lattice": lattice_from_dict(attrs["lattice"]), "som_attrs": {"geometry": geometry}, "side": side}


def _shown_side(weights: np.ndarray, geometry: dict[str, Any]) -> int:
    """Central pixels worth showing: the rest of a neuron only ever holds corners of turned images."""
    neuron = weights.shape[-1]
    image = geometry.get("image_side") or int(neuron / np.sqrt(2))
    return int(min(neuron, image))


def _gallery(summary: MappingSummary) -> list[int]:
    """Neurons with members, the most populated where there are many, in lattice order."""
    order = np.argsort(-summary.hits, kind="stable")[:GALLERY_NEURONS]
    return sorted(int(i) for i in order if summary.hits[i])


def _gallery_side(channels: int) -> int:
    shown = GALLERY_NEURONS * (1 + report_data.BEST + report_data.RANDOM) * channels
    return int(np.clip(np.sqrt(GALLERY_PIXELS / shown), 16, report_map.GALLERY_SIDE))


def _stored_images(survey: Survey) -> ImageLoader | None:
    name = next((name for name in ("prepared", "images") if name in survey), None)
    if name is None:
        return None
    array = survey[name]
    return lambda rows: np.asarray(array.oindex[np.asarray(rows)])


def _pictures(loader: ImageLoader | None, rows: np.ndarray, side: int, size: int) -> dict[int, np.ndarray]:
    """Thumbnails (C, size, size) of the central ``side`` pixels by row; empty where no images are kept."""
    if loader is None:
        return {}
    wanted = [int(row) for row in np.unique(rows[rows >= 0])]
    found: dict[int, np.ndarray] = {}
    for first in range(0, len(wanted), LOAD_ROWS):
        some = wanted[first : first + LOAD_ROWS]
        for row, image in zip(some, central(loader(some), side), strict=True):
            found[row] = report_figures.thumbnails(image, size)
    return found


def _catalogue_columns(path: Place) -> list[str]:
    if not places.exists(path):
        return []
    import pyarrow.parquet

    return list(pyarrow.parquet.read_schema(parquet_source(path)).names)


def _stored_config(output: Place) -> str:
    import json

    path = output / ".skysom" / "config.json"
    try:
        return json.dumps(json.loads(places.read_bytes(path)), indent=2)
    except (OSError, ValueError):
        return ""
