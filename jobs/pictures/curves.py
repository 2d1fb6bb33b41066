"""Charts: confusion matrix, learning and training curves, histogram of distances."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from skysom.engine.errors import ReadingError
from skysom.jobs.pictures import style


def draw_confusion(
    axes: Axes | None,
    matrix: np.ndarray,
    names: Sequence[str],
    *,
    title: str | None = None,
    normalise: bool = True,
) -> Axes:
    """A confusion matrix (L, L): true classes down, predicted classes across; cells give counts and shares.

    Colours (and percentages) are shares of the true class with ``normalise``, else counts. A class without sources
    has no shares (grey).

    Raises
    ------
    ReadingError : a matrix that is not square, or has not as many rows as there are names.
    """
    counts = np.asarray(matrix)
    if counts.shape != (len(names), len(names)):
        raise ReadingError(f"a matrix {counts.shape} for {len(names)} classes; give (L, L) and L names")
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    shown, norm = (share, Normalize(0, 1)) if normalise else (counts.astype(float), Normalize(0, max(counts.max(), 1)))
    axes = style.new_axes(axes, 1.9 + 0.75 * len(names), 1.3 + 0.75 * len(names))
    artist = style.put_image(axes, shown, norm, style.LOSS_COLOURS, origin="upper")
    style.colour_bar(axes, artist, "share of the true class" if normalise else "sources")
    # averages over repeats are not whole
    whole = bool((counts == np.round(counts)).all())
    for (row, column), count in np.ndenumerate(counts):
        words = f"{count:,.0f}" if whole else f"{count:,.1f}".removesuffix(".0")
        if normalise and total[row, 0]:
            words += f"\n{100 * share[row, column]:.0f} %"
        colour = style.text_colour(artist.to_rgba(shown[row, column])[:3])
        axes.text(column, row, words, ha="center", va="center", fontsize=9, color=colour)
    ticks = np.arange(len(names))
    # many or long names would run into each other
    slanted = 45 if max((len(name) for name in names), default=0) > 9 else 0
    axes.set_xticks(ticks, names, rotation=slanted, ha="right" if slanted else "center")
    axes.set_yticks(ticks, names)
    axes.tick_params(labelsize=9, colors=style.INK, length=0)
    axes.set_xlabel("predicted", fontsize=9.5, color=style.INK)
    axes.set_ylabel("true", fontsize=9.5, color=style.INK)
    axes.spines[:].set_visible(False)
    right = np.trace(counts) / counts.sum() if counts.sum() else np.nan
    words = f"{100 * right:.1f} % of {counts.sum():,.0f} sources as labelled"
    return style.titled(axes, words if title is None else title)


def draw_learning_curve(
    axes: Axes | None,
    labels: np.ndarray,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    baselines: Mapping[str, float] | None = None,
    measure: str = "accuracy",
    title: str = "What more labels bring",
) -> Axes:
    """A score against the number of labels (logarithmic), bands of one standard deviation, baselines as lines.

    Parameters
    ----------
    labels : (n,) numbers of labels. curves : name to (mean (n,), spread (n,)). baselines : name to score.

    Raises
    ------
    ReadingError : curves of another length than ``labels``.
    """
    x = np.asarray(labels, float)
    axes = style.new_axes(axes, 5.8, 3.8)
    for number, (name, (mean, spread)) in enumerate(curves.items()):
        if np.shape(mean) != x.shape or np.shape(spread) != x.shape:
            raise ReadingError(f"curve {name!r}: {np.shape(mean)}, {np.shape(spread)} for {x.shape} numbers of labels")
        colour, dash = style.category_colour(number), style.DASHES[number % len(style.DASHES)]
        axes.fill_between(x, np.subtract(mean, spread), np.add(mean, spread), color=colour, alpha=0.18, lw=0)
        axes.plot(x, mean, color=colour, ls=dash, marker="osD^v"[number % 5], ms=4, lw=1.6, label=name)
    for name, score in (baselines or {}).items():
        axes.axhline(score, color=style.MUTED, lw=1, ls=(0, (2, 2)))
        axes.annotate(
            f"{name} {score:.2f}", (1, score), xycoords=axes.get_yaxis_transform(), xytext=(3, 0),
            textcoords="offset points", fontsize=8, color=style.MUTED, va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log")
    # A number too close to the next one would be written over it.
    apart = [value for value, after in zip(x, [*x[1:], np.inf], strict=True) if after > 1.4 * value]
    axes.set_xticks(apart, [f"{value:,.0f}" for value in apart])
    axes.minorticks_off()
    axes.set(xlabel="labels", ylabel=measure)
    style.legend(axes, loc="lower right")
    return style.titled(style.charted(axes), title)


def draw_training(
    axes: Axes | None,
    seen: np.ndarray,
    distance: np.ndarray,
    *,
    stage: np.ndarray | None = None,
    stopped_at: float | None = None,
    label: str = "mean distance to the best neuron",
    title: str = "Training",
) -> Axes:
    """Distance of a sample to the map (n,) against images seen (n,); stages shaded, the point of rest marked.

    Parameters
    ----------
    stage : (n,) number of the training stage of each point. stopped_at : images seen when the map no longer changed.

    Raises
    ------
    ReadingError : arrays of different lengths.
    """
    shapes = {np.shape(values) for values in (seen, distance, stage) if values is not None}
    if len(shapes) > 1:
        raise ReadingError(f"images seen, distances and stages have shapes {sorted(shapes)}; give one each a point")
    axes = style.new_axes(axes, 5.8, 3.4)
    axes.plot(seen, distance, "o-", color=style.ACCENT, ms=3.5, lw=1.6)
    for number in np.unique(stage) if stage is not None else ():
        own, before = np.asarray(seen)[stage == number], np.asarray(seen)[stage < number]
        first, last = before.max() if before.size else own.min(), own.max()
        axes.axvspan(first, last, color=style.MUTED, alpha=0.05 + 0.07 * (int(number) % 2), lw=0)
        axes.text(
            (first + last) / 2, 0.97, f"stage {int(number) + 1}", transform=axes.get_xaxis_transform(), ha="center",
            va="top", fontsize=8.5, color=style.MUTED,
        )  # fmt: skip
    if stopped_at is not None:
        axes.axvline(stopped_at, color=style.SECOND, lw=1.2, ls="--")
        axes.annotate(
            "no longer changes", (stopped_at, 0.86), xycoords=axes.get_xaxis_transform(), xytext=(-4, 0), ha="right",
            textcoords="offset points", fontsize=8.5, color=style.SECOND,
        )  # fmt: skip
    axes.set(xlabel="images seen in training", ylabel=label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return style.titled(style.charted(axes), title)


def draw_distances(
    axes: Axes | None,
    distance: np.ndarray,
    *,
    groups: Mapping[str, np.ndarray] | None = None,
    marks: Mapping[str, float] | None = None,
    bins: int = 60,
    title: str | None = None,
) -> Axes:
    """Histogram of the distances (n,) of sources to their neurons; rows that were not mapped (NaN) are left out.

    Parameters
    ----------
    groups : name to rows (n,) bool, drawn as outlines over the whole. marks : name to distance, drawn as lines.

    Raises
    ------
    ReadingError : no finite distance, or groups of another length.
    """
    values = np.asarray(distance, float)
    finite = np.isfinite(values)
    if not finite.any():
        raise ReadingError(f"none of {values.size} distances is finite; map the survey first")
    axes = style.new_axes(axes, 5.8, 3.4)
    edges = np.histogram_bin_edges(values[finite], bins)
    axes.stairs(np.histogram(values[finite], edges)[0], edges, fill=True, color=style.FRAME, label="all sources")
    for number, (name, rows) in enumerate((groups or {}).items()):
        if np.shape(rows) != values.shape:
            raise ReadingError(f"group {name!r} has shape {np.shape(rows)} for {values.shape} distances")
        inside = np.histogram(values[finite & np.asarray(rows, bool)], edges)[0]
        colour, dash = style.category_colour(number), style.DASHES[number % len(style.DASHES)]
        axes.stairs(inside, edges, color=colour, lw=1.6, ls=dash, label=f"{name} ({int(inside.sum()):,})")
    for name, value in (marks or {}).items():
        axes.axvline(value, color=style.INK, lw=1, ls="--")
        axes.text(
            value, 0.98, f" {name} {value:.3g}", transform=axes.get_xaxis_transform(), fontsize=8.5, va="top",
            color=style.INK,
        )  # fmt: skip
    if groups:
        style.legend(axes)
    axes.set(xlabel="distance to the best-matching neuron", ylabel="sources")
    unmapped = int(values.size - finite.sum())
    words = f"Distances of {int(finite.sum()):,} sources" + (f" ({unmapped:,} not mapped)" if unmapped else "")
    return style.titled(style.charted(axes), words if title is None else title)
