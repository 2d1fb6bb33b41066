"""The section of the report about collated sources: how many components they have, what labels did, and examples drawn.

Tables are read column by column in row groups, so that a survey of millions of sources needs the memory of some.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from matplotlib.colors import to_rgb

from skysom.jobs.collation.folder import SUMMARY, CollationFolder
from skysom.jobs.collation.why_recorded import check_finished
from skysom.jobs.errors import SkysomErrors
from skysom.jobs.report_words import Section, number
from skysom.storage import place as places
from skysom.storage.catalogue import parquet_source
from skysom.storage.place import Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "collation"
"""Where `skysom collate OUTPUT` writes, in OUTPUT."""
MOST_COMPONENTS = 12
"""Sources of more components are one bar of the histogram."""
TYPICAL_SAMPLE = 100_000
"""Doubles among which a typical one is chosen."""
STRANGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
DAMAGES = (*SkysomErrors, *STRANGE, OSError, pa.ArrowException)
"""What comes of reading tables and records that are damaged, or not those of a collation."""


@dataclass(frozen=True)
class LabelCount:
    """A label: its action, and how many sources it attached rows to, or set true and false; None where it does not."""

    label: str
    action: str
    attached: int | None = None
    several: int | None = None
    true: int | None = None
    false: int | None = None


@dataclass(frozen=True)
class Example:
    """A source that is shown: what it is an example of, its number, the words, and the picture as a data URI."""

    kind: str
    source: int
    lines: Sequence[str] = ()
    picture: str = ""


@dataclass(frozen=True)
class GroupsContent:
    """What the section shows. components : (k,) sources by number of components, the last one of that many and more.

    summary : that of ``collation.json``. isolated : sources with an isolated component. without_mask : sources for
    which no mask was used. note : why nothing is drawn, where nothing is. problem : why nothing can be shown at all,
    where that is so.
    """

    summary: Mapping[str, Any]
    components: np.ndarray
    labels: Sequence[LabelCount]
    isolated: int
    without_mask: int
    examples: Sequence[Example] = field(default_factory=tuple)
    note: str = ""
    problem: str = ""


def read_groups(output: Place) -> GroupsContent | None:
    """What there is to show of ``output/collation``; None where nothing was collated. Examples are drawn.

    An example that cannot be drawn, as its inputs are gone, leaves a note, and a damaged collation its problem: the
    rest of the report does not depend on it.
    """
    folder = output / FOLDER
    try:
        if not any(places.exists(folder / name) for name in (SUMMARY, "sources.parquet")):
            return None
        check_finished(CollationFolder(folder))
        summary = json.loads(places.read_bytes(folder / SUMMARY))
        counts, labels, chosen, plain = _scan(folder, summary)
        examples, note = _drawn(folder, output, chosen)
        return GroupsContent(summary, counts, labels, plain["isolated"], plain["without_mask"], examples, note)
    except DAMAGES as error:
        return GroupsContent({}, np.zeros(0, np.int64), (), 0, 0, problem=_reason(folder, error))


def groups_section(content: GroupsContent) -> Section:
    """The section of the page; of a collation that cannot be shown a sentence that says why."""
    title = "From components to sources"
    if content.problem:
        return Section("sources", title, f"<p>{escape(content.problem)}</p>")
    try:
        return Section("sources", title, _body(content))
    except DAMAGES as error:
        return Section("sources", title, f"<p>{escape(_reason(FOLDER, error))}</p>")


def _reason(where: Place | str, error: Exception) -> str:
    """A sentence about what cannot be read."""
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, SkysomErrors):
        return f"The sources of {where} are not shown: {first}"
    what = f"{type(error).__name__}: {first}"
    return f"The sources of {where} are not shown, as it is damaged ({what}); collate again with --redo"


def _body(content: GroupsContent) -> str:
    summary = content.summary
    sources, components = int(summary["sources"]), int(summary["rows"])
    several = int(content.components[2:].sum())
    chart = figure_uri(_chart(content.components), 64)
    return (
        f"<p>{number(components)} components are {number(sources)} sources, {number(several)} of them "
        f"({100 * several / max(sources, 1):.1f} %) of more than one component; the largest has "
        f"{number(summary['largest_source'])}. What masks may link falls into {number(summary['islands'])} islands, "
        f"the largest of {number(summary['largest_island'])} components; in each, masks were used in the order "
        f"<code>{escape(str(summary['origin'].get('sort', '')))}</code>.{_sentences(content)}</p>"
        f'<figure class="one"><img src="{chart}" alt="histogram of components of a source"></figure>'
        '<p class="caption">Sources by their number of components, on a logarithmic scale. '
        "A long tail of large "
        "sources means masks that reach too far, or a field too crowded for them: look at the largest below.</p>"
        f"{_label_table(content)}{_examples(content)}"
        "<h3>To go on</h3><pre>import pandas as pd\n\n"
        f'sources = pd.read_parquet("{FOLDER}/sources.parquet")        # a row a source\n'
        f'components = pd.read_parquet("{FOLDER}/components.parquet")  # to join to the component catalogue by id</pre>'
    )


# --- reading --------------------------------------------------------------------------------------


def _scan(
    folder: Place, summary: Mapping[str, Any]
) -> tuple[np.ndarray, list[LabelCount], dict[str, int], dict[str, int]]:
    """Counts of components, of labels, numbers of the sources to show, and other counts, in one pass."""
    from skysom.engine.collation.actions import actions_for
    from skysom.jobs.collation.source_table import SourceColumns

    actions: Mapping[str, str] = summary["origin"]["actions"]
    nothing = actions_for(tuple(actions), dict.fromkeys(actions, "PASS"))
    flux = tuple(summary["origin"].get("flux_columns", ()))
    found_slugs = SourceColumns(tuple(actions), nothing, ((),) * len(actions), flux=flux).slugs
    slugs = dict(zip(actions, found_slugs, strict=True))
    counts = np.zeros(MOST_COMPONENTS + 1, np.int64)
    found: dict[str, Counter] = {label: Counter() for label in actions}
    plain, best = Counter[str](), _Best()
    for block in _blocks(folder / "sources.parquet"):
        components = block["components"]
        counts += np.bincount(np.minimum(components, MOST_COMPONENTS), minlength=MOST_COMPONENTS + 1)
        isolated = np.array([label is not None for label in block["isolated"]], bool)
        plain.update(isolated=int(isolated.sum()), without_mask=int((block["representative"] < 0).sum()))
        hosts = np.zeros(len(components), np.int64)
        for label, slug in slugs.items():
            if f"{slug}_count" in block:
                attached = np.asarray(block[f"{slug}_count"])
                hosts = np.maximum(hosts, attached)
                found[label].update(attached=int((attached > 0).sum()), several=int((attached > 1).sum()))
            elif slug in block:
                flags = np.array([-1 if flag is None else int(flag) for flag in block[slug]])
                found[label].update(true=int((flags == 1).sum()), false=int((flags == 0).sum()))
        best.update(block["source"], components, block["size_arcsec"], hosts, isolated)
    labels = [LabelCount(label, actions[label], **found[label]) for label in actions]
    return counts, labels, best.chosen(), dict(plain)


class _Best:
    """Sources worth showing, while blocks stream by."""

    def __init__(self) -> None:
        self.largest, self.hosts = (1, -1), (1, -1)
        self.isolated = -1
        self.doubles: list[tuple[np.ndarray, np.ndarray]] = []

    def update(
        self, source: np.ndarray, components: np.ndarray, size: np.ndarray, hosts: np.ndarray, isolated: np.ndarray
    ) -> None:
        """Look at a block; all (n,)."""
        for name, values in (("largest", components), ("hosts", hosts)):
            place = int(np.argmax(values))
            if values[place] > getattr(self, name)[0]:
                setattr(self, name, (int(values[place]), int(source[place])))
        if self.isolated < 0 and isolated.any():
            self.isolated = int(source[np.argmax(isolated)])
        if sum(len(sources) for sources, _ in self.doubles) < TYPICAL_SAMPLE:
            double = (components == 2) & np.isfinite(size)
            self.doubles.append((source[double], size[double]))

    def chosen(self) -> dict[str, int]:
        """Number of the source by what it is an example of, each source once."""
        source, size = (np.concatenate(column) for column in zip(*self.doubles, strict=True))
        size, source = size[source != self.largest[1]], source[source != self.largest[1]]
        double = int(source[np.argsort(size, kind="stable")[len(size) // 2]]) if len(size) else -1
        wanted = {
            "The largest source": self.largest[1],
            "A double of median size": double,
            "The source with most candidates for a host": self.hosts[1],
            "A source with an isolated component": self.isolated,
        }
        found: dict[str, int] = {}
        for kind, one in wanted.items():
            if one >= 0 and one not in found.values():
                found[kind] = one
        return found


def _blocks(path: Place) -> Iterator[dict[str, Any]]:
    """Columns that are no lists, one row group after the other; numbers as arrays, others as lists."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(parquet_source(path))
    names = [item.name for item in file.schema_arrow if not pa.types.is_nested(item.type)]
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=names)
        yield {
            name: column.to_numpy()
            if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
            else column.to_pylist()
            for name, column in zip(names, table.columns, strict=True)
        }


def _drawn(folder: Place, output: Place, chosen: Mapping[str, int]) -> tuple[list[Example], str]:
    """The examples with their pictures, or their numbers alone and why nothing is drawn."""
    from skysom.jobs.collation.why import why
    from skysom.jobs.collation.why_inputs import open_collation

    if not chosen:
        return [], ""
    found = []
    try:
        collation = open_collation(folder, survey=output)
        for kind, one in chosen.items():
            record = collation.source(one)
            told = why(collation.inputs, int(record["members"][0]), images=collation.images, source=record)
            found.append(Example(kind, one, (told.title, *told.lines), figure_uri(told.figure(), 200)))
    except DAMAGES as error:
        return [Example(kind, one) for kind, one in chosen.items()], str(error) or type(error).__name__
    return found, ""


# --- writing --------------------------------------------------------------------------------------


def _sentences(content: GroupsContent) -> str:
    words = ""
    if content.without_mask:
        words += f" For {number(content.without_mask)} sources no mask was used (column <code>status</code> says why)."
    corrections = content.summary.get("corrections") or {}
    changed = int(corrections.get("together", 0)) + int(corrections.get("apart", 0))
    if changed:
        words += f" {number(changed)} corrections were made by hand."
    return words + "".join(f" <strong>{escape(str(one))}</strong>" for one in content.summary.get("warnings", ()))


def _label_table(content: GroupsContent) -> str:
    rows = ""
    for label in content.labels:
        words = []
        if label.action == "LINK":
            words.append(f"{number(content.components[2:].sum())} sources of several components")
        if label.action == "ISOLATE":
            words.append(f"{number(content.isolated)} sources are isolated components")
        if label.true is not None:
            words.append(f"true of {number(label.true)} sources, false of {number(label.false or 0)}")
        if label.attached is not None:
            several = number(label.several or 0)
            words.append(f"{number(label.attached)} sources have candidates, {several} of them several")
        said = "; ".join(words)
        rows += f"<tr><td>{escape(label.label)}</td><td><code>{escape(label.action)}</code></td><td>{said}</td></tr>"
    return (
        '<h3>Labels</h3><div class="scroll"><table><tr><th>Label</th><th>Action</th><th>By the mask that counts</th>'
        f"</tr>{rows}</table></div>"
    )


def _examples(content: GroupsContent) -> str:
    if not content.examples:
        return ""
    body = (
        "<h3>Examples</h3>"
        '<p class="caption">Members are numbered, the star is the one whose mask gives the hosts; masks are drawn as '
        "they lie on the sky, the bold ones are the star's. <code>skysom why DIR SOURCE</code> tells and draws any "
        "other.</p>"
    )
    if content.note:
        shown = "; ".join(f"{escape(one.kind.lower())}: {one.source}" for one in content.examples)
        return f"{body}<p>{shown}. They are not drawn: {escape(content.note)}</p>"
    for one in content.examples:
        lines = escape("\n".join(one.lines))
        body += (
            f"<h4>{escape(one.kind)}</h4>"
            f'<figure><img src="{one.picture}" alt="{escape(one.kind)}" loading="lazy"></figure>'
            f"<details><summary>How it came about</summary><pre>{lines}</pre></details>"
        )
    return body


def _chart(components: np.ndarray) -> "Figure":
    """Histogram of the numbers of components."""
    from skysom.jobs.pictures.grouping import draw_components

    return draw_components(None, components).figure  # type: ignore[return-value]


def figure_uri(figure: "Figure", colours: int) -> str:
    """Data URI of a figure as a PNG with a palette of so many colours, those that mean something among them."""
    from PIL import Image
    from scipy.spatial import cKDTree

    from skysom.jobs.pictures.grouping import MARKED
    from skysom.jobs.pictures.style import any_letters

    buffer, small = io.BytesIO(), io.BytesIO()
    with any_letters():
        figure.savefig(buffer, format="png", dpi=130)
    image = Image.open(buffer).convert("RGB")
    # the few pixels of a line or a mark would have no colour of their own, and take another's
    kept = [round(255 * part) for colour in MARKED for part in to_rgb(colour)]
    palette = kept + (image.quantize(colours - len(MARKED)).getpalette() or [])[: 3 * (colours - len(MARKED))]
    pixels = np.asarray(image)
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    seen, where = np.unique(packed, return_inverse=True)
    rgb = np.column_stack([seen >> 16, seen >> 8 & 255, seen & 255])
    nearest = cKDTree(np.reshape(palette, (-1, 3))).query(rgb)[1].astype(np.uint8)
    indexed = Image.fromarray(nearest[where].reshape(pixels.shape[:2]))
    indexed.putpalette(palette)
    indexed.save(small, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(small.getvalue()).decode('ascii')}"
