"""How the certified search does on real and simulated surveys: the table of `engine/search.md`.

    python tests/benchmarks/certified_quality.py [--surveys NAME ...] [--markdown FILE] [--quick]

Every image is searched by the exact, the certified and the polar search. The margin comes from a calibration on half
of the images, at most 512; "equal" counts the images whose best-matching unit is that of the exact search (or as
near, to 5e-6) at the same distance. Takes an hour on one core; --quick takes the first 96 images of each survey.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from surveys import PREPARED, RAW, REAL, SIMULATED, cutouts, distinct_map, prepared, trained_map
from threadpoolctl import threadpool_limits

TIE = 5e-6
HEAD = (
    "survey", "images", "map", "region", "equal", "needed", "margin", "neurons", "candidates", "fall-backs",
    "polar BMU",
)  # fmt: skip


def examine(images: np.ndarray, weights: np.ndarray, region: str) -> tuple:
    """One row of the table, after the names."""
    from skysom.engine import Cartesian, Geometry, Som
    from skysom.engine.calibration import calibrate
    from skysom.engine.certified import CertifiedSearch
    from skysom.engine.polar import PolarSearch

    geometry = Geometry.derive(images.shape[2], 360, True, region, weights.shape[3])
    sample = np.random.default_rng(1).permutation(len(images))[: min(len(images) // 2, 512)]
    calibration = calibrate(Som(weights, Cartesian(len(weights))), images[sample], region=region)
    search, polar = CertifiedSearch(weights, geometry, calibration.margin), PolarSearch(weights, geometry)
    equal = rank = fallback = 0
    candidates, neurons = [], []
    for first in range(0, len(images), 32):
        block = images[first : first + 32]
        exact, (match, effort) = search.exact(block), search.examine(block)
        rows = np.arange(len(block))
        near = np.abs(match.bmu_distance - exact.bmu_distance) <= TIE * exact.bmu_distance
        tied = exact.distance[rows, match.bmu] <= exact.bmu_distance * (1 + TIE)
        equal += int(((match.bmu == exact.bmu) | tied)[near].sum())
        rank += int((polar(block).bmu == exact.bmu).sum())
        fallback += int(effort.fallback.sum())
        candidates.append(effort.candidates)
        neurons.append(effort.neurons)
    count = len(images)
    return (
        f"{equal / count:.2%}".replace("100.00%", "100 %"), f"{calibration.needed:.2%}", f"{calibration.margin:.2%}",
        f"{np.concatenate(neurons).mean():.1f}", f"{np.concatenate(candidates).mean():.0f}", f"{fallback / count:.1%}",
        f"{rank / count:.1%}",
    )  # fmt: skip


def rows(surveys: Sequence[str], quick: bool):  # type: ignore[no-untyped-def]
    """Rows of the table, one after another."""
    for name in surveys:
        try:
            observed = cutouts(name)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        observed = observed[:96] if quick else observed
        for kind, steps in (("raw", RAW), ("prepared", PREPARED)):
            images = prepared(observed, steps)
            for side in (10, 20):
                for form, make in (("distinct", distinct_map), ("trained", trained_map)):
                    if form == "distinct" and side**2 > len(images):
                        continue  # neurons would be copies of each other
                    weights = make(images, side**2) if form == "distinct" else make(images, side)
                    regions = ("quadratic", "circular") if side == 10 else ("quadratic",)
                    for region in regions:
                        found = examine(images, weights, region)
                        yield (f"{name}, {kind}", str(len(images)), f"{side}x{side} {form}", region, *found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--surveys", nargs="+", choices=(*REAL, *SIMULATED), default=(*REAL, *SIMULATED))
    parser.add_argument("--quick", action="store_true", help="the first 96 images of each survey")
    options = parser.parse_args()
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    print("\n".join(lines), flush=True)
    with threadpool_limits(1):
        for row in rows(options.surveys, options.quick):
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
