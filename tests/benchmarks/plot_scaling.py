"""The picture of cluster/scaling.md: rates by number of nodes, of the mapping and of batched training."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, told apart by everybody; line styles and markers say the same again.
STYLES = {
    "CPU nodes, shared file system": ("#0072B2", "o", "-"),
    "GPU nodes, shared file system": ("#D55E00", "s", "-"),
    "CPU nodes, object store": ("#56B4E9", "^", "--"),
    "GPU nodes, object store": ("#E69F00", "v", "--"),
    "GPU nodes, object store, if each record were a PUT": ("#009E73", "D", ":"),
}
BATCH_COLOURS = {256: "#CC79A7", 1024: "#E69F00", 4096: "#009E73", 16384: "#0072B2"}
NAMES = {"cpu": "CPU", "gpu": "GPU"}


def plot(mapped: dict[str, list[Any]], trained: dict[tuple, list[Any]], path: Path) -> None:
    """Draw both panels into ``path``."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    nodes = [point.nodes for point in next(iter(mapped.values()))]
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="nodes", xticks=nodes, xticklabels=[str(n) for n in nodes])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    _mapping(left, mapped)
    _training(right, trained)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ideal(axis: Any, points: list[Any], colour: str, label: str | None) -> None:
    ideal = [points[0].images_s * point.nodes / points[0].nodes for point in points]
    axis.plot([point.nodes for point in points], ideal, color=colour, lw=0.9, ls=(0, (1, 2)), alpha=0.8, label=label)


def _mapping(axis: Any, mapped: dict[str, list[Any]]) -> None:
    for name, points in mapped.items():
        colour, marker, line = STYLES[name]
        rates = [point.images_s for point in points]
        axis.plot([point.nodes for point in points], rates, color=colour, marker=marker, ls=line, ms=6, label=name)
    for name in ("CPU nodes, shared file system", "GPU nodes, shared file system"):
        _ideal(axis, mapped[name], STYLES[name][0], "in proportion to nodes" if name.startswith("CPU") else None)
    axis.set(title="Mapping (150x150 images, 100 neurons)", ylabel="images a second", ylim=(1e3, 2e7))
    for name, at, lift in (
        ("GPU nodes, shared file system", -3, 8),
        ("GPU nodes, object store", -2, 9),
        ("GPU nodes, object store, if each record were a PUT", -3, -17),
    ):
        point = mapped[name][at]
        axis.annotate(
            f"limit: {point.limit}", (point.nodes, point.images_s), xytext=(0, lift), textcoords="offset points",
            ha="center", fontsize=9, color=STYLES[name][0], fontweight="bold",
        )  # fmt: skip
    axis.legend(loc="upper left", fontsize=8.5, frameon=False)


def _training(axis: Any, trained: dict[tuple, list[Any]]) -> None:
    for (kind, batch, by_node), points in trained.items():
        if by_node and (kind, batch) != ("gpu", 16384):
            continue
        line, marker = ("-", "s") if kind == "gpu" else ("--", "o")
        colour, label = BATCH_COLOURS[batch], f"{NAMES[kind]} nodes, batches of {batch:,}"
        if by_node:
            line, marker, colour, label = ":", "D", "#000000", "the same, sums added by node first (not built)"
        nodes, rates = [point.nodes for point in points], [point.images_s for point in points]
        axis.plot(nodes, rates, color=colour, marker=marker, ls=line, ms=5, label=label)
    _ideal(axis, trained["gpu", 16384, False], BATCH_COLOURS[16384], "in proportion to nodes")
    _ideal(axis, trained["cpu", 16384, False], BATCH_COLOURS[16384], None)
    axis.set(title="Batched training of the same map", ylabel="presentations a second", ylim=(1e2, 2e7))
    axis.legend(loc="upper left", fontsize=8.5, frameon=False, ncols=2)
