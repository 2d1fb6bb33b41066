"""The recipe of `engine/reading/classification.md` on real radio galaxies, against what the docs promise."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def classify_quality(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import classify_quality

    return classify_quality


@pytest.mark.realdata
@pytest.mark.slow
def test_a_map_of_mirabest_and_amplitudes_tell_fr1_from_fr2(classify_quality, shared):
    from skysom.engine.reading.classifiers import cross_validate
    from skysom.engine.reading.folds import split_folds

    shared("realdata/radio_first_mirabest")
    labelled = classify_quality.mirabest()
    assert len(labelled.images) == 800
    found = classify_quality.features_of(labelled)
    assert np.unique(found.labels, return_counts=True)[1].tolist() == [257, 278]
    folds = split_folds(found.labels, 10, 5, seed=1)
    values, blocks = found.kinds["map + amplitudes"]
    result = cross_validate(values, found.labels, folds, "svm", blocks=blocks)
    assert result.accuracy >= 0.87
    assert result.balanced_accuracy >= 0.87
    assert result.calibration_error < 0.05
    shuffled = np.random.default_rng(0).permutation(found.labels)
    chance = cross_validate(values, shuffled, split_folds(shuffled, 10, 1, seed=1), "svm", blocks=blocks)
    assert chance.accuracy < 0.6  # nothing of the labels leaks into features or folds


@pytest.mark.realdata
def test_rgz_positions_and_classes(classify_quality, shared):
    shared("realdata/catalogues")
    table = classify_quality.rgz_table()
    assert len(table) == 10744
    assert set(table["kind"]) == {"1C1P", "1C2P", "1C3P", "2C2P", "2C3P", "3C3P"}
    first = table.iloc[0]  # FIRSTJ000007.0+081644, its component at 0.0293, 8.2792
    assert abs(first["ra"] - 0.0293) < 0.001
    assert abs(first["dec"] - 8.2792) < 0.001
