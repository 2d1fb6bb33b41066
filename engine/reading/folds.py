"""Folds of cross-validation: repeated, stratified by class, and apart on the sky where that is asked for."""

from dataclasses import dataclass

import numpy as np

from skysom.engine.errors import ReadingError

LEAST_MEMBERS = 4
"""Of each class: what a training fold has of it is split once more to calibrate probabilities."""
CELL_SIDES = 5
"""A sky cell is so many times the angle by which sources must be apart: few of them then lie at a border."""


@dataclass(frozen=True)
class Fold:
    """Rows learned from and rows tested, int64, ascending; of which repeat."""

    train: np.ndarray
    test: np.ndarray
    repeat: int


def class_codes(labels: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes, sorted, and the class (n,) int64 of each of ``labels`` (n,) of text; ReadingError for fewer than two."""
    classes, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    if len(classes) < 2:
        found = f"only {str(classes[0])!r}" if len(classes) else "none"
        raise ReadingError(f"a classifier tells classes apart, and the {len(codes)} labels have {found}; give two")
    return tuple(classes.tolist()), codes.astype(np.int64)


def check_classes(labels: np.ndarray, folds: int) -> None:
    """ReadingError where a class has fewer members than folds (and `LEAST_MEMBERS`), or there are not two folds."""
    if folds < 2:
        raise ReadingError(f"cross-validation in {folds} folds; give 2 or more")
    classes, codes = class_codes(labels)
    counts, least = np.bincount(codes), max(folds, LEAST_MEMBERS)
    rare = [f"{name!r} has {count}" for name, count in zip(classes, counts, strict=True) if count < least]
    if rare:
        raise ReadingError(
            f"class {', '.join(rare)} labelled sources; {folds} folds need {least} or more of each: use fewer folds, "
            "select without such classes, or merge them into one"
        )


def merge_rare(labels: np.ndarray, least: int, name: str = "other") -> np.ndarray:
    """``labels`` (n,) with every class of fewer than ``least`` members called ``name``; ReadingError if it is taken."""
    labels = np.asarray(labels, dtype=str)
    classes, counts = np.unique(labels, return_counts=True)
    rare = classes[counts < least]
    if name in classes and name not in rare:
        raise ReadingError(f"rare classes are to be merged into {name!r}, which is a class; give another name")
    return np.where(np.isin(labels, rare), name, labels) if len(rare) else labels


def sky_cells(ra_deg: np.ndarray, dec_deg: np.ndarray, side_deg: float) -> np.ndarray:
    """Number of the sky cell (n,) int64 of positions in degrees: bands of declination, cut into about square cells.

    ReadingError for positions that are missing or no declinations, or a side outside (0, 180].
    """
    if not 0 < side_deg <= 180:
        raise ReadingError(f"sky cells have a side of {side_deg} degrees; give one above 0 and up to 180")
    right, declination = np.asarray(ra_deg, np.float64), np.asarray(dec_deg, np.float64)
    bad = ~(np.isfinite(right) & (np.abs(declination) <= 90))
    if bad.any():
        raise ReadingError(
            f"{int(bad.sum())} of {len(bad)} labelled sources have no position on the sky; select only those that "
            "have one, or do not split by position"
        )
    bands = max(round(180 / side_deg), 1)
    band = np.minimum(((declination + 90) / 180 * bands).astype(np.int64), bands - 1)
    middle = np.radians((np.arange(bands) + 0.5) * 180 / bands - 90)
    cells = np.maximum((360 * np.cos(middle) / side_deg).astype(np.int64), 1)
    along = np.minimum(((right % 360) / 360 * cells[band]).astype(np.int64), cells[band] - 1)
    return np.concatenate([[0], np.cumsum(cells)])[band] + along


def split_folds(
    labels: np.ndarray,
    folds: int = 10,
    repeats: int = 5,
    *,
    seed: int = 0,
    position_deg: tuple[np.ndarray, np.ndarray] | None = None,
    apart_deg: float | None = None,
) -> list[Fold]:
    """Folds of ``labels`` (n,) of text, ``folds`` times ``repeats`` of them, with classes in equal shares.

    With ``apart_deg`` whole cells of the sky, of five times that angle, are tested together, and sources within that
    angle of a tested one are not learned from; ``position_deg`` are right ascension and declination.

    Raises
    ------
    ReadingError : see `check_classes` and `sky_cells`; fewer sky cells than folds, or a class that a fold would not
    learn from.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    check_classes(labels, folds)
    if repeats < 1:
        raise ReadingError(f"cross-validation repeated {repeats} times; give 1 or more")
    classes, codes = class_codes(labels)
    rows = np.arange(len(codes))
    seeds = np.random.SeedSequence(seed).generate_state(repeats).tolist()
    if apart_deg is None:
        return [
            Fold(train, test, repeat)
            for repeat, own in enumerate(seeds)
            for train, test in StratifiedKFold(folds, shuffle=True, random_state=own).split(rows, codes)
        ]
    if position_deg is None:
        raise ReadingError("folds are to be apart on the sky, and no positions are given; give right ascension and dec")
    cells = sky_cells(*position_deg, CELL_SIDES * apart_deg)
    count = len(np.unique(cells))
    if count < folds:
        raise ReadingError(
            f"the labelled sources lie in {count} sky cells of {CELL_SIDES * apart_deg:g} degrees, fewer than the "
            f"{folds} folds; use a smaller angle or fewer folds"
        )
    found = []
    for repeat, own in enumerate(seeds):
        for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=own).split(rows, codes, cells):
            train = train[~_near(position_deg, train, test, apart_deg)]
            left = np.bincount(codes[train], minlength=len(classes))
            if not len(test) or left.min() < LEAST_MEMBERS // 2:
                name, members = classes[int(left.argmin())], int(left.min())
                raise ReadingError(
                    f"apart by {apart_deg:g} degrees, a fold of {len(test)} tested sources leaves {members} of class "
                    f"{name!r} to learn from; use a smaller angle, fewer folds, or merge rare classes"
                )
            found.append(Fold(train, test, repeat))
    return found


def _near(
    position_deg: tuple[np.ndarray, np.ndarray], rows: np.ndarray, others: np.ndarray, angle_deg: float
) -> np.ndarray:
    """Which of ``rows`` (n,) lie within an angle of any of ``others``, (n,) bool."""
    from scipy.spatial import cKDTree

    right, declination = (np.radians(np.asarray(values, np.float64)) for values in position_deg)
    vector = np.stack(
        [np.cos(declination) * np.cos(right), np.cos(declination) * np.sin(right), np.sin(declination)], axis=1
    )
    chord = 2 * np.sin(np.radians(min(angle_deg, 180.0)) / 2)
    # cKDTree leaves out what is exactly at the bound.
    distance = cKDTree(vector[others]).query(vector[rows], distance_upper_bound=np.nextafter(chord, np.inf))[0]
    return np.isfinite(distance)
