"""How good a map batched training makes, against online training: on real galaxies and on a simulated survey.

    python tests/benchmarks/batch_quality.py [--images 2400] [--epochs 1] [--workers 2] [--json FILE]

For each batch size and mode: the quantisation error (mean distance of the images to their best-matching unit),
coherence (share of images whose two best units are neighbours on the lattice), purity (share of images whose
class is the commonest of their neuron) and the class found from nine neighbours, leave one out. All maps start
from the same neurons and see the same images as often, in the recipe of the preset "quick".
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

SHARED = Path(os.environ.get("SKYSOM_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
CASES = [("online", 1, "affine")] + [
    (f"{mode} {size}", size, mode) for mode in ("affine", "kohonen") for size in (32, 64, 128, 256, 512, 1 << 20)
]


def prepared(images: str, catalogue: str, folder: Path, settings: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Preprocessed images (n, C, H, H) of a survey and the row of each."""
    from skysom.jobs.cli import main
    from skysom.storage.survey import Survey, read_images

    arguments = ["ingest", "-i", images, "-c", catalogue, "-o", str(folder), "--preset", "quick", "--workers", "1"]
    if main(arguments + [part for setting in settings for part in ("--set", setting)]):
        raise SystemExit(1)
    survey = Survey(folder / "survey.zarr")
    rows = np.flatnonzero(survey.column("ok"))
    return read_images(survey, "prepared", 0, len(survey))[rows], rows


def mirabest(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """FIRST cut-outs and their Fanaroff-Riley class."""
    import pandas as pd

    source = SHARED / "realdata/radio_first_mirabest"
    table = pd.read_csv(next(source.glob("*.csv")))
    images, rows = prepared(str(source), str(next(source.glob("*.csv"))), folder, ["ingest.side_pixels=150"])
    labels = table["fr_class"].astype(str).to_numpy()[rows]
    known = np.isin(labels, ["FRI", "FRII"])
    return images[known], labels[known]


def simulated(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut-outs of the simulated survey and their true class."""
    import pandas as pd

    from skysom.jobs.demo import simulate_survey

    survey = simulate_survey(folder / "survey", components=count, seed=7)
    images, rows = prepared(str(survey.images), str(survey.catalogue), folder / "out", ["ingest.side_pixels=56"])
    return images, pd.read_csv(survey.catalogue)["true_class"].astype(str).to_numpy()[rows]


def train(images: np.ndarray, batch_size: int, mode: str, epochs: int, seed: int):  # type: ignore[no-untyped-def]
    """A map by the recipe of "quick", as jobs train it."""
    from skysom.engine import Cartesian, Neighbourhood, Som, train_batched, train_online
    from skysom.engine.geometry import Geometry
    from skysom.engine.initial import initial_weights
    from skysom.engine.order import batches, windows
    from skysom.jobs.config import QUICK

    lattice = Cartesian(8, 8)
    side = Geometry.derive(images.shape[2], 4).neuron_side
    som = Som(initial_weights("random", 64, images.shape[1], side, seed), lattice)
    for number, stage in enumerate(QUICK["train"]["stages"]):
        neighbourhood = Neighbourhood("unity_gaussian", stage["sigma"], stage["rate"])
        options = {"rotations": stage["rotations"], "region": "circular"}
        for epoch in range(epochs * stage["iterations"]):
            if batch_size == 1:
                order = np.random.default_rng([seed, 3, number, epoch]).permutation(len(images))
                som = train_online(images, som, neighbourhood, order=order, **options).som
                continue
            window = windows(len(images), 1 << 30, (seed, 4, number), epoch)[0]
            size = min(batch_size, 32 * window.blocks)
            parts = batches(window, size, (seed, 4, number), epoch)
            if len(parts) == 1:
                order = np.concatenate([window.block(int(j)) for j in parts[0]])
                som = train_batched(
                    images, som, neighbourhood, batch_size=len(order), mode=mode, order=order, **options
                ).som
                continue
            for part in parts:
                order = np.concatenate([window.block(int(j)) for j in part])
                som = one_batch(images[order], som, neighbourhood, mode, **options)
    return som


def one_batch(batch: np.ndarray, som, neighbourhood, mode: str, rotations: int, region: str):  # type: ignore[no-untyped-def]
    """One batch that is part of an epoch, as the coordinator makes it."""
    from skysom.engine.batch import _exact_step
    from skysom.engine.search import geometry_of
    from skysom.engine.som import Som

    geometry = geometry_of(batch, som, rotations, True, region, None)
    factors = neighbourhood.factors(som.lattice)
    return Som(_exact_step(batch, som.weights, factors, geometry, mode, neighbourhood.rate)[0], som.lattice)


def measure(images: np.ndarray, labels: np.ndarray, som) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """What the map is worth."""
    from sklearn.neighbors import NearestNeighbors

    from skysom.engine import best_match

    match = best_match(images, som, 360, True, "circular")
    two = np.argsort(match.distance, axis=1)[:, :2]
    near = som.lattice.distances()[two[:, 0], two[:, 1]] < 1.5
    commonest = {unit: max(set(own := list(labels[match.bmu == unit])), key=own.count) for unit in set(match.bmu)}
    _, index = NearestNeighbors(n_neighbors=10).fit(match.distance).kneighbors(match.distance)
    votes = [[n for n in own if n != row][:9] for row, own in enumerate(index)]
    found = [max(sorted(set(labels[v])), key=list(labels[v]).count) for v in votes]
    return {
        "error": float(match.bmu_distance.mean()),
        "coherence": float(near.mean()),
        "purity": float(np.mean([commonest[unit] == label for unit, label in zip(match.bmu, labels, strict=True)])),
        "class": float(np.mean(np.array(found) == labels)),
        "used": len(commonest) / len(som.weights),
    }


def one(arguments: tuple) -> dict:
    """One case; runs in a process of its own with one thread."""
    from threadpoolctl import threadpool_limits

    path, name, size, mode, epochs, seed = arguments
    with np.load(path) as data, threadpool_limits(1):
        images, labels = data["images"], data["labels"]
        return {"case": name, "seed": seed, **measure(images, labels, train(images, size, mode, epochs, seed))}


def table(title: str, found: list[dict]) -> str:
    """A Markdown table, mean and half the spread over the seeds."""
    lines = [
        f"{title}",
        "",
        "| training | error | coherence | purity | class | neurons used |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["case"] for row in found):
        own = [row for row in found if row["case"] == name]
        cells = []
        for key in ("error", "coherence", "purity", "class", "used"):
            values = np.array([row[key] for row in own])
            cells.append(f"{values.mean():.3f} ± {np.ptp(values) / 2:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2400, help="components of the simulated survey")
    parser.add_argument("--epochs", type=int, default=1, help="times the recipe's iterations")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    results = {}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.workers) as pool:
        sets = {"simulated survey": lambda: simulated(Path(folder) / "simulated", options.images)}
        if (SHARED / "realdata/radio_first_mirabest").is_dir():
            sets["MiraBest"] = lambda: mirabest(Path(folder) / "mirabest")
        else:
            print("MiraBest is not beside the project: left out")
        for title, make in sets.items():
            images, labels = make()
            path = Path(folder) / "images.npz"
            np.savez(path, images=images, labels=labels.astype("U"))
            jobs = [(path, *case, options.epochs, seed) for seed in range(options.seeds) for case in CASES]
            results[title] = list(pool.map(one, jobs))
            print(table(f"{title}: {len(images):,} images", results[title]), "\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
