"""Classifiers of sources with calibrated probabilities: k-nearest neighbours, forest, perceptron, support vectors.

One small interface over scikit-learn. Columns are centred, and each block of them (the distances, the amplitudes of a
channel) is divided by one number: rings of sky far out keep the small weight they deserve, while to scale every
column by itself would blow up their noise.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.reading.folds import Fold, class_codes

Method = Literal["knn", "forest", "mlp", "svm"]

CALIBRATION_FOLDS = 3
"""Parts of the labelled sources whose probabilities, each from the others, the calibration is fitted to."""
MOST_FOR_SVM = 20_000
"""Labelled sources beyond which support vectors take hours: their time grows with the square."""
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier.

    classes : K names, sorted. centre, scale : (n,) float64, what is subtracted from features and what they are then
    divided by. estimator : a scikit-learn classifier of the classes' numbers with calibrated probabilities.
    """

    method: Method
    classes: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    estimator: Any

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Probability (B, K) float32 of every class for features (B, n); rows with NaN have NaN.

        ReadingError for another number of features.
        """
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise ReadingError(
                f"features have shape {features.shape}; this classifier needs (sources, {len(self.centre)})"
            )
        known = np.isfinite(features).all(axis=1)
        found = np.full((len(features), len(self.classes)), np.nan, np.float32)
        if known.any():
            found[known] = self.estimator.predict_proba((features[known] - self.centre) / self.scale)
        return found

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Number (B,) int64 of the likeliest class, the first of equals; -1 for rows with NaN."""
        return likeliest(self.probabilities(features))


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    """Number (B,) int64 of the class of the greatest probability (B, K), the first of equals; -1 for rows of NaN."""
    unknown = np.isnan(probabilities).any(axis=1)
    return np.where(unknown, -1, np.where(unknown[:, None], 0, probabilities).argmax(axis=1))


def method_for(labelled: int) -> Method:
    """The best of the methods on real radio galaxies where it is affordable (classification.md)."""
    return "svm" if labelled <= MOST_FOR_SVM else "forest"


def fit_classifier(
    features: np.ndarray,
    labels: np.ndarray,
    method: Method = "svm",
    *,
    blocks: np.ndarray | None = None,
    seed: int = 0,
    cores: int = 1,
) -> Classifier:
    """Learn from features (n, m) without NaN of sources labelled ``labels`` (n,) of text.

    blocks : (m,) int, columns of one scale (`features.feature_names`); None: all. seed : the same gives the same
    classifier, whatever the number of ``cores``.

    Probabilities are calibrated by logistic curves (Platt 1999) on sources not learned from.

    Raises
    ------
    ReadingError : an unknown method, features that are no such array, fewer than two classes or than two sources of
    one, or more sources than support vectors are made for.
    """
    from threadpoolctl import threadpool_limits

    classes, codes = class_codes(labels)
    features = _checked(features, len(codes), method)
    counts = np.bincount(codes)
    if counts.min() < 2:
        rare = classes[int(counts.argmin())]
        raise ReadingError(f"class {rare!r} has {counts.min()} labelled source; calibration needs 2 or more of each")
    centre, scale = _block_scale(features, blocks)
    estimator = _estimator(method, seed, cores, len(codes), int(counts.min()))
    with warnings.catch_warnings(), threadpool_limits(1):  # sums of more threads are rounded otherwise
        # A perceptron is trained for a fixed number of passes, which is part of its regularisation.
        warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
        estimator.fit((features - centre) / scale, codes)
    return Classifier(method, classes, centre, scale, estimator)


def _checked(features: np.ndarray, rows: int, method: str) -> np.ndarray:
    """``features`` as float64, after all checks of `fit_classifier` on them."""
    if method not in get_args(Method):
        raise ReadingError(f"the method is {method!r}; use one of {', '.join(get_args(Method))}")
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) != rows or not features.shape[1]:
        raise ReadingError(f"features have shape {features.shape}; {rows} labels need ({rows}, features)")
    unknown = int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
    if unknown:
        raise ReadingError(f"{unknown} of {rows} labelled sources have features that are not finite; leave them out")
    if method == "svm" and rows > MOST_FOR_SVM:
        raise ReadingError(
            f"{rows:,} labelled sources are more than support vectors are made for ({MOST_FOR_SVM:,}); "
            "use the method 'forest', or select fewer"
        )
    return features


def _block_scale(features: np.ndarray, blocks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each column, and the root of the mean variance of the columns of its block."""
    columns = features.shape[1]
    blocks = np.zeros(columns, np.int64) if blocks is None else np.asarray(blocks)
    if blocks.shape != (columns,):
        raise ReadingError(f"blocks have shape {blocks.shape}; {columns} features need ({columns},)")
    number = np.unique(blocks, return_inverse=True)[1]
    variance = np.bincount(number, features.var(axis=0)) / np.bincount(number)
    deviation = np.sqrt(np.where(variance > 0, variance, 1.0))
    return features.mean(axis=0), deviation[number]


def _estimator(method: Method, seed: int, cores: int, rows: int, smallest: int) -> Any:
    """An unfitted scikit-learn classifier for ``rows`` sources, the smallest class of which has ``smallest``."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    if method == "knn":
        # Few labels have few neighbours; every part of the calibration must have as many.
        neighbours = int(np.clip(np.sqrt(rows) / 2, 1, 10))
        plain = KNeighborsClassifier(neighbours, weights="distance", algorithm="brute")
    elif method == "forest":
        plain = RandomForestClassifier(200, random_state=seed, n_jobs=cores)
    elif method == "mlp":
        plain = MLPClassifier((64,), alpha=1.0, batch_size=min(32, rows // 2), max_iter=60, random_state=seed)
    else:
        plain = SVC(C=3.0, gamma="scale")
    parts = StratifiedKFold(min(CALIBRATION_FOLDS, smallest), shuffle=True, random_state=seed)
    return CalibratedClassifierCV(plain, method="sigmoid", cv=parts, ensemble=False)


@dataclass(frozen=True)
class CrossValidation:
    """How well sources are classified that were not learned from.

    classes : K names. counts : (K,) int64 labelled sources of each. folds, repeats : of them. accuracies : (folds *
    repeats,) of each fold. probabilities : (n, K) float32 of each source, from the folds that did not learn from it,
    mean over repeats. confusion : (K, K) float64, sources of the class of the row that are given that of the column,
    mean over repeats. balanced_accuracies : (repeats,) mean share of each class that is found.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    folds: int
    repeats: int
    accuracies: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray
    balanced_accuracies: np.ndarray
    brier: float
    calibration_error: float

    @property
    def accuracy(self) -> float:
        """Share classified rightly, mean over folds."""
        return float(self.accuracies.mean())

    @property
    def accuracy_spread(self) -> float:
        """Standard deviation of the accuracy over folds."""
        return float(self.accuracies.std())

    @property
    def balanced_accuracy(self) -> float:
        """Mean over classes of the share found, mean over repeats."""
        return float(self.balanced_accuracies.mean())


def cross_validate(
    features: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[Fold],
    method: Method = "svm",
    *,
    blocks: np.ndarray | None = None,
    seed: int = 0,
    cores: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> CrossValidation:
    """Learn from the sources of each fold and test on its others; arguments otherwise as for `fit_classifier`.

    ``tell`` is called with the folds done and their number. ``brier`` is the mean squared difference of probabilities
    from the truth, added over classes (Brier 1950, 0 to 2); ``calibration_error`` the mean difference, over ten bins,
    of the probability given to the chosen class from the share that is right (Naeini et al. 2015).
    """
    classes, codes = class_codes(labels)
    features = _checked(features, len(codes), method)
    repeats = 1 + max(fold.repeat for fold in folds)
    total, accuracies = np.zeros((repeats, len(codes), len(classes)), np.float32), []
    for done, fold in enumerate(folds, 1):
        found = fit_classifier(
            features[fold.train], np.asarray(labels)[fold.train], method, blocks=blocks, seed=seed, cores=cores
        )
        probability = found.probabilities(features[fold.test])
        total[fold.repeat, fold.test] = probability
        accuracies.append(float((likeliest(probability) == codes[fold.test]).mean()))
        tell(done, len(folds))
    confusion = np.zeros((repeats, len(classes), len(classes)))
    for repeat, probability in enumerate(total):
        np.add.at(confusion[repeat], (codes, likeliest(probability)), 1)
    counts = np.bincount(codes)
    recalls = np.diagonal(confusion, axis1=1, axis2=2) / counts
    truth = np.eye(len(classes))[codes]
    return CrossValidation(
        classes,
        counts,
        len(folds) // repeats,
        repeats,
        np.array(accuracies),
        total.mean(axis=0),
        confusion.mean(axis=0),
        recalls.mean(axis=1),
        float(((total - truth) ** 2).sum(axis=2).mean()),
        calibration_error(total.reshape(-1, len(classes)), np.tile(codes, repeats)),
    )


def calibration_error(probabilities: np.ndarray, codes: np.ndarray) -> float:
    """Expected calibration error of probabilities (n, K) of sources of the classes ``codes`` (n,), 0 to 1."""
    best = probabilities.max(axis=1).astype(np.float64)
    right = likeliest(probabilities) == codes
    bins = np.minimum((best * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, best - right, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(codes))


@dataclass(frozen=True)
class LearningPoint:
    """Accuracy, mean over folds and its standard deviation, of classifiers that learned from ``labels`` sources."""

    labels: int
    accuracy: float
    spread: float


def learning_curve(
    features: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[Fold],
    method: Method = "svm",
    sizes: Sequence[int] = (25, 50, 100, 200, 400, 800, 1600),
    *,
    blocks: np.ndarray | None = None,
    seed: int = 0,
    cores: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[LearningPoint]:
    """Accuracy against the number of labels: each fold learns from so many of its sources, and from all of them.

    Classes have their shares of the sample, and 2 sources at least. Sizes that the least fold has not, or that cannot
    hold 2 of each class, are left out. Arguments otherwise as for `cross_validate`.
    """
    classes, codes = class_codes(labels)
    features = _checked(features, len(codes), method)
    smallest = min(len(fold.train) for fold in folds)
    wanted = [size for size in sorted(set(sizes)) if 2 * len(classes) <= size < smallest] + [smallest]
    curve = []
    for number, size in enumerate(wanted):
        accuracies = []
        for done, fold in enumerate(folds):
            tell(number * len(folds) + done, len(wanted) * len(folds))
            rows = fold.train[stratified_sample(codes[fold.train], size, np.random.SeedSequence((seed, size, done)))]
            found = fit_classifier(
                features[rows], np.asarray(labels)[rows], method, blocks=blocks, seed=seed, cores=cores
            )
            accuracies.append(float((found.predict(features[fold.test]) == codes[fold.test]).mean()))
        curve.append(LearningPoint(size, float(np.mean(accuracies)), float(np.std(accuracies))))
    tell(len(wanted) * len(folds), len(wanted) * len(folds))
    return curve


def stratified_sample(codes: np.ndarray, size: int, seed: np.random.SeedSequence) -> np.ndarray:
    """``size`` ascending places (size,) of ``codes`` (n,), of every class its share and 2 at least."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(codes)
    wanted = np.minimum(np.maximum(np.floor(counts * size / len(codes)).astype(np.int64), 2), counts)
    while wanted.sum() != size:  # what rounding has left over, where the share is missed by most
        step = 1 if wanted.sum() < size else -1
        open_ = wanted < counts if step > 0 else wanted > 2
        missed = np.where(open_, step * (counts * size / len(codes) - wanted), -np.inf)
        wanted[int(missed.argmax())] += step
    places = [rng.permutation(np.flatnonzero(codes == code))[:count] for code, count in enumerate(wanted)]
    return np.sort(np.concatenate(places))
