"""Classes of unlike size: rows drawn again or left out, and feature rows made between those there are (SMOTE).

By imbalanced-learn, an extra: ``pip install 'skysom[learning]'``.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from skysom.engine.errors import ReadingError

Resampling = Literal["over", "under", "smote"]


@dataclass(frozen=True)
class Resampled:
    """A table of features whose classes are balanced.

    features (m, F) float64; labels (m,) as given; row (m,) int64, the row of the input a row is, -1 of a made one.
    """

    features: np.ndarray
    labels: np.ndarray
    row: np.ndarray


def resampled(
    features: np.ndarray,
    labels: np.ndarray,
    method: Resampling = "over",
    *,
    seed: int = 0,
    neighbours: int = 5,
) -> Resampled:
    """The rows of a table drawn, or made, so that all classes are of one size.

    Parameters
    ----------
    features : (n, F) finite numbers; labels : (n,), none missing.
    method : "over" draws rows of the smaller classes again until they are as large as the largest; "under" leaves rows
        out until all are as small as the smallest; "smote" makes rows on the lines between a row and one of its nearest
        ``neighbours`` rows of the same class.

    Raises
    ------
    ReadingError : imbalanced-learn is not installed, arrays that do not fit together, numbers that are not finite,
        fewer than two classes, or for "smote" a class of no more than ``neighbours`` rows.

    Notes
    -----
    SMOTE: Chawla, Bowyer, Hall and Kegelmeyer, JAIR 16 (2002) 321. Resample what a classifier learns from and never
    what it is judged by.
    """
    sampler = _sampler(method, seed, neighbours)
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ReadingError(f"features have shape {features.shape} and labels {labels.shape}; give (n, F) and (n,)")
    if not np.isfinite(features).all():
        bad = np.count_nonzero(~np.isfinite(features).all(axis=1))
        raise ReadingError(f"{bad} of {len(features)} rows hold features that are not finite; leave them out")
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ReadingError(f"the labels are of {len(classes)} class; balancing needs two or more")
    if method == "smote" and sizes.min() <= neighbours:
        raise ReadingError(
            f"class {classes[sizes.argmin()]!s} has {sizes.min()} rows, SMOTE with {neighbours} neighbours needs "
            f"{neighbours + 1}; give fewer neighbours, or use the method 'over'"
        )
    new, of = sampler.fit_resample(features, labels)
    if method == "smote":  # the rows that are there come first
        row = np.concatenate([np.arange(len(features)), np.full(len(new) - len(features), -1)])
    else:
        row = np.asarray(sampler.sample_indices_)
    return Resampled(np.asarray(new), np.asarray(of), row.astype(np.int64))


def _sampler(method: str, seed: int, neighbours: int) -> Any:
    if method not in get_args(Resampling):
        raise ReadingError(f"the method is {method!r}; use one of {get_args(Resampling)}")
    try:
        from imblearn.over_sampling import SMOTE, RandomOverSampler
        from imblearn.under_sampling import RandomUnderSampler
    except ImportError as error:
        raise ReadingError(
            f"balancing classes needs imbalanced-learn ({error}); pip install 'skysom[learning]'"
        ) from error
    if method == "smote":
        return SMOTE(k_neighbors=neighbours, random_state=seed)
    return (RandomOverSampler if method == "over" else RandomUnderSampler)(random_state=seed)
