"""Classifiers: one interface, the same result for the same seed, honest figures, and what is refused."""

import numpy as np
import pytest

from skysom.engine.errors import ReadingError
from skysom.engine.reading import classifiers
from skysom.engine.reading.classifiers import (
    calibration_error,
    cross_validate,
    fit_classifier,
    learning_curve,
    likeliest,
    method_for,
    stratified_sample,
)
from skysom.engine.reading.folds import split_folds

METHODS = ("knn", "forest", "mlp", "svm")


def blobs(count, spread=0.6, seed=1):
    """Features (n, 5) of three classes, of which two columns tell, and their labels."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(3, count, p=[0.5, 0.3, 0.2])
    features = rng.normal(0, 1, (count, 5))
    features[:, :2] = np.array([[0, 0], [2, 0], [0, 2]])[codes] + spread * features[:, :2]
    return features, np.array(["bent", "double", "point"])[codes]


@pytest.fixture(scope="module")
def data():
    return blobs(240)


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, data):
    return fit_classifier(*data, request.param, seed=1)


def test_probabilities_tell_the_classes(fitted):
    features, labels = blobs(200, seed=2)
    found = fitted.probabilities(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert (np.array(fitted.classes)[fitted.predict(features)] == labels).mean() > 0.8
    assert calibration_error(found, np.searchsorted(fitted.classes, labels)) < 0.1


def test_the_same_seed_gives_the_same_classifier(fitted, data):
    again = fit_classifier(*data, fitted.method, seed=1, cores=2)
    assert np.array_equal(again.probabilities(data[0]), fitted.probabilities(data[0]))


def test_rows_without_features_have_no_class(fitted):
    features = blobs(4)[0]
    features[2, 1] = np.nan
    found = fitted.probabilities(features)
    assert np.isnan(found[2]).all()
    assert fitted.predict(features)[2] == -1
    assert np.array_equal(found[[0, 1, 3]], fitted.probabilities(features[[0, 1, 3]]))
    assert fitted.probabilities(features[:0]).shape == (0, 3)


def test_columns_of_a_block_have_one_scale():
    rng = np.random.default_rng(5)
    features = np.hstack([rng.normal(3, 10, (40, 2)), rng.normal(0, [1, 1e-3, 0], (40, 3))])
    found = fit_classifier(features, np.tile(["a", "b"], 20), "svm", blocks=np.array([0, 0, 4, 4, 4]))
    np.testing.assert_allclose(found.centre, features.mean(axis=0))
    assert len(set(found.scale[:2])) == len(set(found.scale[2:])) == 1
    np.testing.assert_allclose(found.scale[2], np.sqrt(features[:, 2:].var(axis=0).mean()))


def test_cross_validation_counts_what_its_folds_say(data):
    features, labels = data
    folds = split_folds(labels, 5, 2, seed=3)
    told = []
    found = cross_validate(features, labels, folds, "svm", tell=lambda *done: told.append(done))
    assert told == [(n, 10) for n in range(1, 11)]
    assert (found.folds, found.repeats, len(found.accuracies)) == (5, 2, 10)
    codes = np.searchsorted(found.classes, labels)
    for fold, accuracy in zip(folds, found.accuracies, strict=True):
        own = fit_classifier(features[fold.train], labels[fold.train], "svm")
        assert accuracy == (own.predict(features[fold.test]) == codes[fold.test]).mean()
    np.testing.assert_allclose(found.confusion.sum(axis=1), found.counts)
    np.testing.assert_allclose(found.counts, np.bincount(codes))
    assert abs(np.trace(found.confusion) / 240 - found.accuracy) < 0.01
    np.testing.assert_allclose(found.balanced_accuracy, (np.diag(found.confusion) / found.counts).mean(), rtol=1e-9)
    assert found.accuracy_spread == found.accuracies.std()
    assert found.accuracy > 0.8
    assert (likeliest(found.probabilities) == codes).mean() > 0.8


def test_labels_that_say_nothing_are_found_by_chance(data):
    labels = np.random.default_rng(7).permutation(data[1])
    found = cross_validate(data[0], labels, split_folds(labels, 5, 1), "knn")
    assert found.accuracy < found.counts.max() / found.counts.sum() + 0.1
    assert found.balanced_accuracy < 0.45
    assert found.calibration_error < 0.15


def test_a_learning_curve_rises_and_ends_with_all(data):
    features, labels = data
    folds = split_folds(labels, 4, 1)
    curve = learning_curve(features, labels, folds, "svm", (4, 12, 60, 5000))
    assert [point.labels for point in curve] == [12, 60, 180]
    assert curve[0].accuracy < curve[-1].accuracy
    assert curve[-1].accuracy == cross_validate(features, labels, folds, "svm").accuracy


@pytest.mark.parametrize("size", [6, 7, 20, 53, 99])
def test_a_stratified_sample_has_the_shares(size):
    codes = np.repeat([0, 1, 2], [70, 26, 4])
    rows = stratified_sample(codes, size, np.random.SeedSequence(1))
    counts = np.bincount(codes[rows])
    assert len(np.unique(rows)) == size
    assert (counts >= 2).all()
    assert np.array_equal(rows, stratified_sample(codes, size, np.random.SeedSequence(1)))
    if size >= 53:
        assert np.abs(counts - size * np.array([0.7, 0.26, 0.04])).max() <= 1


def test_the_default_method_is_affordable():
    assert method_for(classifiers.MOST_FOR_SVM) == "svm"
    assert method_for(classifiers.MOST_FOR_SVM + 1) == "forest"


@pytest.mark.parametrize("method", METHODS)
def test_two_of_each_class_suffice(method):
    features = np.random.default_rng(1).normal(size=(4, 3))
    assert fit_classifier(features, np.array(["a", "a", "b", "b"]), method).probabilities(features).shape == (4, 2)


@pytest.mark.parametrize(
    ("features", "labels", "method", "words"),
    [
        (np.ones((4, 2)), ["a", "a", "b", "b"], "guess", "'guess'"),
        (np.ones((3, 2)), ["a", "a", "b", "b"], "svm", r"\(3, 2\); 4 labels"),
        (np.ones((4, 0)), ["a", "a", "b", "b"], "svm", r"\(4, 0\)"),
        (np.full((4, 2), np.nan), ["a", "a", "b", "b"], "svm", "4 of 4"),
        (np.ones((4, 2)), ["a", "a", "a", "a"], "svm", "only 'a'"),
        (np.ones((4, 2)), ["a", "a", "a", "b"], "svm", "'b' has 1"),
        (np.ones((20_002, 1)), ["a", "b"] * 10_001, "svm", "20,002 .*forest"),
    ],
)
def test_refused(features, labels, method, words):
    with pytest.raises(ReadingError, match=words):
        fit_classifier(features, np.array(labels), method)


def test_features_of_another_width_and_blocks_that_do_not_fit_are_refused(fitted, data):
    with pytest.raises(ReadingError, match=r"\(2, 4\); this classifier needs \(sources, 5\)"):
        fitted.probabilities(np.ones((2, 4)))
    with pytest.raises(ReadingError, match=r"\(2,\); 5 features"):
        fit_classifier(*data, "svm", blocks=np.zeros(2, int))
