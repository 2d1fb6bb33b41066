"""Sections of the report about the run: failures by cause, times, configuration, versions."""

import platform
from html import escape

import numpy as np

from skysom.jobs.report_data import Content
from skysom.jobs.report_words import Section, as_float, duration, number, rate, version

MAX_CONFIG = 20_000
"""Characters of the configuration that are printed."""

MAX_WORKERS = 200
"""Rows of the table of workers."""

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
    "not_finite": (
        "The imported image has pixels that are NaN or infinite",
        "replace them before the import, or ingest the images themselves",
    ),
    "out_of_range": (
        "Pixel values are too large to be compared",
        "check the unit, or add a normalising step (min_max) to preprocess.steps",
    ),
    "no_wcs": ("The header has no sky coordinates", "add a WCS, or name cut-outs by file"),
    "bad_position": ("Coordinates are missing or out of range", "correct ra and dec (degrees)"),
    "no_coverage": ("No image covers the position", "add the missing tiles, or drop the row"),
    "duplicate_id": ("An earlier row has the same id", "make ids unique, or choose another --id-column"),
    "empty_mask": ("Nothing rises above the signal-to-noise threshold", "lower the threshold"),
    "no_noise": ("The noise could not be estimated", "use larger cut-outs, or give the noise"),
    "bad_redshift": ("The redshift is missing or not positive", "fill the redshift column"),
}
"""Status: what it means, and what to do about it."""


def failures(content: Content) -> Section:
    counts = content.counts
    padded = (
        f"<p>{number(counts.padded)} usable sources lie at an edge: part of their cut-out has no data and was filled "
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
            f'<tr><td>{escape(words)}<br><code>{escape(name)}</code></td><td class="number">{number(cause.count)}</td>'
            f"<td>{escape(', '.join(cause.ids))}{more}</td><td>{escape(remedy)}</td></tr>"
        )
    return Section(
        "failures",
        "Failures",
        "<p>These rows stay in the catalogue, with the cause in the column <code>status</code> and no neuron.</p>"
        '<div class="scroll"><table><tr><th>Cause</th><th class="number">Rows</th><th>First ids</th>'
        f"<th>What to do</th></tr>{rows}</table></div>{padded}",
    )


def run_section(content: Content, config_text: str) -> Section:
    return Section(
        "run",
        "The run",
        _times(content) + _workers(content) + _next_steps(content) + _configuration(config_text) + _versions(content),
    )


def _times(content: Content) -> str:
    stages = content.history.stages
    if not stages:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{duration(total.seconds)}</td>'
        f'<td class="number">{number(total.images) if total.images else ""}</td>'
        f'<td class="number">{rate(total.images, total.seconds)}</td></tr>'
        for name, total in stages.items()
    )
    return (
        '<h3>Time by stage</h3><div class="scroll"><table><tr><th>Stage</th><th class="number">Time</th>'
        f'<th class="number">Images</th><th class="number">Images a second</th></tr>{rows}</table></div>'
        '<p class="caption">All runs together, the images counted as often as they were processed: again where a '
        "stage was repeated, once an iteration in training. Of a run that was killed, what it recorded counts.</p>"
    )


def _workers(content: Content) -> str:
    """A row a stage and worker."""
    order = {stage: place for place, stage in enumerate(content.history.stages)}
    found = sorted(content.history.workers.items(), key=lambda item: (order.get(item[0][0], 99), as_float(item[0][1])))
    rows = ""
    for (stage, worker), own in found[:MAX_WORKERS]:
        busy = own.busy_s or 1.0
        split = " / ".join(f"{100 * getattr(own, step) / busy:.0f}" for step in ("read_s", "compute_s", "write_s"))
        memory = f"{own.memory_bytes / 2**20:,.0f} MiB" if own.memory_bytes else ""
        rows += (
            f"<tr><td>{escape(stage)}</td><td>{escape(worker)} on {escape(own.host or 'this machine')}</td>"
            f'<td>{escape(own.device)}</td><td class="number">{number(own.images)}</td>'
            f'<td class="number">{rate(own.images, own.busy_s)}</td><td class="number">{split}</td>'
            f'<td class="number">{memory}</td></tr>'
        )
    if not rows:
        return ""
    more = f" The first {MAX_WORKERS} of {len(found)} are shown." if len(found) > MAX_WORKERS else ""
    return (
        '<h3>Workers</h3><div class="scroll"><table><tr><th>Stage</th><th>Worker</th><th>Device</th>'
        '<th class="number">Images</th><th class="number">Images a busy second</th>'
        '<th class="number">Read / compute / write, %</th><th class="number">Peak memory</th></tr>'
        f'{rows}</table></div><p class="caption">A busy second is one of reading, computing or writing; they '
        f"overlap. Online training runs in the coordinating process and is not listed.{more}</p>"
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
    rows = "".join(f"<tr><td>{name}</td><td>{escape(version(name))}</td></tr>" for name in names)
    rows += f"<tr><td>Python</td><td>{escape(platform.python_version())} on {escape(platform.platform())}</td></tr>"
    written = escape(str(content.attrs.get("skysom_version", "unknown")))
    rows += f"<tr><td>survey store</td><td>written by skysom {written}</td></tr>"
    return f'<h3>Versions</h3><div class="scroll"><table>{rows}</table></div>'
