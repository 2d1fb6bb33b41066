"""How well `skysom classify` does on real labelled radio galaxies: the tables of `engine/reading/classification.md`.

    python tests/benchmarks/classify_quality.py [--sets NAME ...] [--methods NAME ...] [--markdown FILE] [--quick]

Every set is preprocessed by `surveys.PREPARED`, cut to 100 pixels (180 arcsec), and a map of 10x10 is trained on all
its images without their labels. Accuracy is the mean over the folds of stratified cross-validation, repeated five
times where that is fast (`REPEATS`). No column of a catalogue (size, redshift, flux) is a feature. Takes half an hour
on one core.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from surveys import PREPARED, SHARED, SIDE, cutouts, trained_map
from threadpoolctl import threadpool_limits

REAL = SHARED / "realdata"
CLIPPED = (("islands", {}), ("transfer", {"function": "sqrt"}), ("min_max", {}))
"""Of `PREPARED`, what images need whose noise is blank already."""
CROP = 100
"""Pixels of the side: 180 arcsec of FIRST, as much as most of these sources fill."""
METHODS = ("svm", "mlp", "forest", "knn")
REPEATS = {"svm": 5, "knn": 5, "mlp": 2, "forest": 2}
MATCH_ARCSEC = 20.0


@dataclass(frozen=True)
class Labelled:
    """Images (n, 1, CROP, CROP) that a map learns from, and labels (n,) of text, "" where one is not used."""

    name: str
    images: np.ndarray
    labels: np.ndarray

    @property
    def used(self) -> np.ndarray:
        return self.labels != ""


def prepared(images: np.ndarray, labels: np.ndarray, name: str, chain: tuple = PREPARED) -> Labelled:
    """A set after preprocessing; images that fail it are left out."""
    from skysom.engine.preprocess import preprocess

    batch = preprocess(images, chain)
    edge = (SIDE - CROP) // 2
    cropped = np.ascontiguousarray(batch.images[batch.ok][..., edge : edge + CROP, edge : edge + CROP])
    return Labelled(name, cropped, np.asarray(labels, dtype=str)[batch.ok])


def mirabest_table() -> pd.DataFrame:
    """The catalogue in the order of the cut-outs."""
    folder = REAL / "radio_first_mirabest"
    files = [str(path.relative_to(folder)) for path in sorted((folder / "cutouts").glob("*.fits*"))]
    return pd.read_csv(folder / "mirabest_catalogue.csv").set_index("filename").loc[files].reset_index()


def mirabest() -> Labelled:
    """Certain FR I and FR II; the map learns from all 800."""
    table = mirabest_table()
    certain = (table["certain"] == 1) & table["fr_class"].isin(["FRI", "FRII"])
    return prepared(cutouts("mirabest"), np.where(certain, table["fr_class"], ""), "MiraBest, certain")


def rgd_images() -> np.ndarray:
    """Images (n, 1, SIDE, SIDE) float32 of the four-class set, blank (NaN) where its noise was clipped."""
    import h5py

    with h5py.File(REAL / "radio_first_rgd_4class/rgd_first_300_u8.h5") as file:
        edge = (file["image"].shape[1] - SIDE) // 2
        planes = file["image"][:, edge : edge + SIDE, edge : edge + SIDE].astype(np.float32)
    return np.where(planes > 0, planes, np.nan)[:, None]


def four_classes() -> Labelled:
    """FR I, FR II, compact and bent sources."""
    table = pd.read_csv(REAL / "radio_first_rgd_4class/rgd_catalogue.csv")
    return prepared(rgd_images(), table["label"], "four classes", CLIPPED)


def rgz_table() -> pd.DataFrame:
    """Radio Galaxy Zoo: position in degrees and class, components and peaks, of each source."""
    table = pd.read_csv(REAL / "catalogues/rgz_dr1_claran_full_catalogue.csv").drop_duplicates("first_id")
    name = table["first_id"].str.extract(r"FIRSTJ(\d\d)(\d\d)(\d\d\.\d)([+-])(\d\d)(\d\d)(\d\d)")
    number = name[[0, 1, 2, 4, 5, 6]].astype(float)
    sign = np.where(name[3] == "-", -1, 1)
    kind = table["num_cpnts"].astype(str) + "C" + table["num_peaks"].astype(str) + "P"
    right = 15 * (number[0] + number[1] / 60 + number[2] / 3600)
    return pd.DataFrame({"ra": right, "dec": sign * (number[4] + number[5] / 60 + number[6] / 3600), "kind": kind})


def rgz(components_only: bool = False) -> Labelled:
    """RGZ classes of the images of three sets that lie within 20 arcsec of an RGZ source, each source once."""
    from astropy.coordinates import SkyCoord

    tables = [
        mirabest_table(),
        pd.read_csv(REAL / "radio_frdeep_first_nvss/frdeep_catalogue.csv"),
        pd.read_csv(REAL / "radio_first_rgd_4class/rgd_catalogue.csv"),
    ]
    images = [cutouts("mirabest"), cutouts("first+nvss")[:, :1], rgd_images()]
    zoo = rgz_table()
    known, found, seen = SkyCoord(zoo["ra"], zoo["dec"], unit="deg"), [], set[int]()
    for table, planes, chain in zip(tables, images, (PREPARED, PREPARED, CLIPPED), strict=True):
        index, apart, _ = SkyCoord(table["ra"], table["dec"], unit="deg").match_to_catalog_sky(known)
        first = pd.Series(index).duplicated().to_numpy()
        fresh = (apart.arcsec < MATCH_ARCSEC) & ~first & ~np.isin(index, list(seen))
        seen |= set(index[fresh].tolist())
        kind = zoo["kind"].to_numpy()[index[fresh]]
        found.append(prepared(planes[fresh], [text[:2] if components_only else text for text in kind], "", chain))
    name = "RGZ components" if components_only else "RGZ components and peaks"
    return Labelled(name, *(np.concatenate([getattr(part, key) for part in found]) for key in ("images", "labels")))


SETS = {"mirabest": mirabest, "four": four_classes, "rgz": rgz, "rgz-components": lambda: rgz(True)}


@dataclass(frozen=True)
class Features:
    """Features of a set's used sources by name, each with the block of every column, and their labels."""

    labels: np.ndarray
    kinds: dict[str, tuple[np.ndarray, np.ndarray]]


def distances(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distances (n, N) of the exact search over 92 rotations, flips and the disc of the images."""
    from skysom.engine import Geometry
    from skysom.engine.exact import Search

    search = Search(weights, Geometry.derive(images.shape[2], 92, True, "circular", weights.shape[3]))
    return np.concatenate([search(images[first : first + 32]).distance for first in range(0, len(images), 32)])


def features_of(labelled: Labelled, seed: int = 0) -> Features:
    """Distances to the neurons of a trained map, to 100 random cut-outs, and amplitudes."""
    from skysom.engine import Geometry
    from skysom.engine.reading.features import amplitude_features, distance_features

    used = labelled.images[labelled.used]
    weights = trained_map(labelled.images, 10, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(labelled.images))[:100]
    padded = weights.shape[3] - CROP
    sides = (padded // 2, padded - padded // 2)
    random = np.pad(labelled.images[rows], ((0, 0), (0, 0), sides, sides))
    geometry = Geometry.derive(CROP, 92, True, "circular", weights.shape[3])
    parts = {
        "map": distance_features(distances(used, weights)),
        "cut-outs": distance_features(distances(used, random)),
        "amplitudes": amplitude_features(used, geometry),
    }
    kinds = {name: (part, np.zeros(part.shape[1], np.int64)) for name, part in parts.items()}
    both = parts["map"], parts["amplitudes"]
    kinds["map + amplitudes"] = np.hstack(both), np.repeat([0, 1], [part.shape[1] for part in both])
    return Features(labelled.labels[labelled.used], kinds)


def merged(labels: np.ndarray, folds: int) -> np.ndarray:
    """Labels with the rare classes in one, which is left out ("") where it is rare itself."""
    from skysom.engine.reading.folds import merge_rare

    found = merge_rare(labels, folds)
    return np.where(found == "other", "", found) if (found == "other").sum() < folds else found


def rows_of(labelled: Labelled, methods: tuple[str, ...], folds: int, most_repeats: int) -> Iterator[tuple]:
    """Rows of the table of a set: features, method, accuracy, spread, balanced accuracy, calibration error."""
    from skysom.engine.reading.classifiers import cross_validate
    from skysom.engine.reading.folds import split_folds

    labelled = Labelled(labelled.name, labelled.images, np.where(labelled.used, merged(labelled.labels, folds), ""))
    found = features_of(labelled)
    counts = pd.Series(found.labels).value_counts()
    yield labelled.name, ", ".join(f"{count} {name}" for name, count in counts.items()), "", "", "", ""
    yield "none", "majority", f"{counts.max() / counts.sum():.3f}", "", f"{1 / len(counts):.3f}", ""
    tried = [("cut-outs", "forest"), ("amplitudes", "forest"), ("amplitudes", "svm"), ("map", "svm"), ("map", "forest")]
    for kind, method in [*tried, *(("map + amplitudes", method) for method in methods)]:
        values, blocks = found.kinds[kind]
        split = split_folds(found.labels, folds, min(REPEATS[method], most_repeats), seed=1)
        result = cross_validate(values, found.labels, split, method, blocks=blocks)
        yield (
            kind, method, f"{result.accuracy:.3f}", f"{result.accuracy_spread:.3f}",
            f"{result.balanced_accuracy:.3f}", f"{result.calibration_error:.3f}",
        )  # fmt: skip
    yield from curve_rows(found, folds)


def curve_rows(found: Features, folds: int) -> Iterator[tuple]:
    """The learning curve of support vectors on distances and amplitudes."""
    from skysom.engine.reading.classifiers import learning_curve
    from skysom.engine.reading.folds import split_folds

    values, blocks = found.kinds["map + amplitudes"]
    for point in learning_curve(
        values, found.labels, split_folds(found.labels, folds, 2, seed=2), "svm", blocks=blocks
    ):
        yield f"{point.labels} labels", "svm", f"{point.accuracy:.3f}", f"{point.spread:.3f}", "", ""


def main(arguments: list[str] | None = None) -> list[str]:
    """Print the table; returns its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--quick", action="store_true", help="one repeat of five folds, support vectors only")
    options = parser.parse_args(arguments)
    head = ("features", "method", "accuracy", "spread over folds", "balanced", "calibration error")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join(lines), flush=True)
    folds, methods = (5, ("svm",)) if options.quick else (10, tuple(options.methods))
    with threadpool_limits(1):
        for name in options.sets:
            for row in rows_of(SETS[name](), methods, folds, 1 if options.quick else 5):
                lines.append("| " + " | ".join(row) + " |")
                print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    return lines


if __name__ == "__main__":
    main()
