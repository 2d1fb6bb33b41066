"""The report: one self-contained page that shows a map, how the survey lies on it, and what went wrong."""

from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from skysom.jobs import report_data, report_figures, report_map, report_sections
from skysom.jobs.report_data import Content, MappingSummary
from skysom.storage.survey import Survey

ImageLoader = Callable[[Sequence[int]], np.ndarray]

GALLERY_NEURONS = 100
LOAD_ROWS = 64
"""Images asked for at a time; only their thumbnails are kept."""
GALLERY_PIXELS = 3_000_000
"""Bound on the pixels of all member thumbnails, which sets their side."""
U_MATRIX_SIDE, U_MATRIX_ROTATIONS, U_MATRIX_NEURONS = 32, 72, 4096
"""The U-matrix is for looking at: small pictures and few angles are enough, very large maps go without."""


def write_report(
    output: Path,
    *,
    mapping: str = "main",
    som: str = "main",
    image_loader: ImageLoader | None = None,
    config_text: str = "",
    title: str = "",
) -> Path:
    """Write ``output/report.html`` from what the output holds; returns its path.

    Parameters
    ----------
    output : directory of a run, with ``survey.zarr`` and, where there are any, ``history.jsonl`` and
        ``catalogue.parquet``. A map or mapping that is not there yet leaves its sections out.
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
    output = Path(output)
    survey = Survey(output / "survey.zarr")
    content = _gather(output, survey, mapping, som, image_loader)
    page = Template(resources.files("skysom.jobs").joinpath("report_template.html").read_text(encoding="utf-8"))
    sections = report_sections.all_sections(content, config_text or _stored_config(output))
    html = page.substitute(
        title=escape(title or f"{output.resolve().name}: survey map"),
        summary=report_sections.summary(content),
        figures=report_sections.key_figures(content),
        contents="".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections),
        sections="\n".join(s.html() for s in sections),
        footer=report_sections.footer(content),
    )
    target = output / "report.html"
    partial = target.with_name(".report.html.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(target)
    return target


def _gather(output: Path, survey: Survey, mapping: str, som: str, loader: ImageLoader | None) -> Content:
    common: dict[str, Any] = {
        "output": output,
        "counts": report_data.count_rows(survey),
        "attrs": survey.attrs,
        "history": report_data.read_history(output / "history.jsonl"),
        "catalogue_columns": _catalogue_columns(output / "catalogue.parquet"),
    }
    if som not in survey.som_names():
        return Content(**common)
    from skysom.engine.lattice import lattice_from_dict

    weights, som_attrs = survey.load_som(som)
    lattice = lattice_from_dict(som_attrs["lattice"])
    side = _shown_side(weights, som_attrs.get("geometry") or {})
    common |= {"lattice": lattice, "weights": weights, "som_attrs": som_attrs, "side": side}
    common["u_matrix"] = _u_matrix(weights, lattice, som_attrs.get("geometry") or {}, side)
    if mapping not in survey.mapping_names():
        return Content(**common)
    summary = report_data.summarise_mapping(survey, mapping, len(weights))
    gallery = _gallery(summary)
    members = np.concatenate([summary.best[gallery].ravel(), summary.random[gallery].ravel()])
    loader = loader or _stored_images(survey)
    return Content(
        **common,
        mapping=summary,
        gallery=gallery,
        ids=report_data.source_ids(survey, members),
        pictures=_pictures(loader, members, side, _gallery_side(weights.shape[1])),
        worst=report_data.worst_matches(survey, mapping, summary.worst),
        worst_pictures=_pictures(loader, summary.worst, side, report_sections.WORST_SIDE),
    )


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
        for row, image in zip(some, report_figures.central(loader(some), side), strict=True):
            found[row] = report_figures.thumbnails(image, size)
    return found


def _u_matrix(weights: np.ndarray, lattice: Any, geometry: dict[str, Any], side: int) -> np.ndarray | None:
    """Mean distance (N,) of every neuron to its lattice neighbours, at the best turn of one onto the other.

    Neighbours may show the same shape at different angles, so a plain difference would draw borders where there
    are none. NaN for a neuron without neighbours.
    """
    if len(weights) > U_MATRIX_NEURONS:
        return None
    from skysom.engine import Som, best_match

    small = min(side, U_MATRIX_SIDE)
    reduced = report_figures.reduced(report_figures.central(weights, side), small)
    rotations = 1 if geometry.get("rotations") == 1 else U_MATRIX_ROTATIONS
    match = best_match(reduced, Som(reduced, lattice), rotations, bool(geometry.get("flip", True)), "circular", small)
    # only the one that is turned is interpolated, so the two ways differ a little
    distance = (match.distance + match.distance.T) / 2
    neighbour = lattice.distances() == 1
    count = neighbour.sum(axis=1)
    total = np.where(neighbour, distance, 0).sum(axis=1, dtype=np.float64)
    return total / np.where(count > 0, count, np.nan)


def _catalogue_columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    import pyarrow.parquet

    return list(pyarrow.parquet.read_schema(path).names)


def _stored_config(output: Path) -> str:
    import json

    path = output / ".skysom" / "config.json"
    try:
        return json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=2)
    except (OSError, ValueError):
        return ""
