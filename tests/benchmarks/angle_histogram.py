"""Best angles of isotropic noisy sources by the exact and by the polar search: the figure of `engine/search.md`.

    python tests/benchmarks/angle_histogram.py [--figure FILE]

Elongated sources at uniform position angles in white noise, against a map of one elongated neuron. Bilinear rotation
damps the noise of an image except at the quarter turns, so |T x|^2 - 2 <T x, w> is least a few degrees from them.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import chisquare

SIDE, SOURCES, NOISE = 48, 2000, 0.5


def isotropic(count: int, noise: float, seed: int = 0) -> np.ndarray:
    """Elongated Gaussians (count, 1, 48, 48) float32 of peak 1 at uniform angles, with white noise of rms ``noise``."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    angle = rng.uniform(0, np.pi, (count, 1, 1))
    u, v = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    images = np.exp(-0.5 * ((u / 3) ** 2 + (v / 9) ** 2)) + rng.normal(0, noise, (count, SIDE, SIDE))
    return images[:, None].astype(np.float32)


def neuron() -> np.ndarray:
    """(1, 1, D, D) float32, the source without noise."""
    from skysom.engine import Geometry

    side = Geometry.derive(SIDE, 360).neuron_side
    y, x = np.indices((side, side)) - (side - 1) / 2
    return np.exp(-0.5 * ((y / 3) ** 2 + (x / 9) ** 2)).astype(np.float32)[None, None]


def best_angles(images: np.ndarray, method: str) -> np.ndarray:
    """Best angles in degrees, modulo 90."""
    from skysom.engine import Cartesian, Som, best_match

    match = best_match(images, Som(neuron(), Cartesian(1)), 360, True, "circular", method=method)
    return (match.transform[:, 0] % 360) % 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="draw the histograms into this file")
    options = parser.parse_args()
    images, found = isotropic(SOURCES, NOISE), {}
    for method in ("exact", "polar"):
        # Bins of five degrees around the quarter turns, which lie at both ends.
        angles = (best_angles(images, method) + 2.5) % 90
        counts, _ = np.histogram(angles, np.arange(0, 91, 5))
        test = chisquare(counts)
        found[method] = counts
        print(f"{method}: chi-square {test.statistic:.0f} of 17 degrees of freedom, p = {test.pvalue:.2g}")
    if options.figure:
        draw(found, options.figure)


def draw(found: dict[str, np.ndarray], place: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, layout="constrained")
    for axis, (method, counts) in zip(axes, found.items(), strict=True):
        axis.bar(np.arange(0, 90, 5), counts, 4.4, color="#3b6ea5")
        axis.axhline(counts.mean(), color="gray", lw=0.8, ls="--")
        axis.set(title=f'method="{method}"', xlabel="best angle modulo 90 [degrees]", xticks=np.arange(0, 90, 15))
    axes[0].set_ylabel("sources")
    figure.savefig(place, dpi=130)


if __name__ == "__main__":
    main()
