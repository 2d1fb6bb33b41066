"""The benchmark of methods runs, on settings that say nothing about speed."""

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.slow
def test_every_method_is_measured_and_compared_with_a_stored_baseline(monkeypatch, tmp_path, capsys):
    import bench_methods

    core = bench_methods.available_cores()[:1]
    monkeypatch.setattr(bench_methods, "BASELINES", tmp_path)
    monkeypatch.setattr(bench_methods, "available_cores", lambda: core)
    tiny = bench_methods.Case("tiny", 20, 9, rotations=16, least=0, rounds=1, training=True)
    checks = bench_methods.main(["--save-baseline"], cases=[tiny], calibrated=8)
    printed = capsys.readouterr().out
    assert all(method in printed for method in bench_methods.METHODS)
    assert "no baseline for" in printed
    assert len(checks) == 4
    stored = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert set(stored["tiny, quadratic"]) == {*bench_methods.METHODS, "online", "batched"}


def test_what_became_slower_is_named():
    from bench_methods import compare

    stored = {"vlass, quadratic": {"exact": 1.6, "certified": 0.3}}
    now = {"exact": 1.7, "certified": 0.45, "polar": 9.0}
    assert compare("vlass, quadratic", now, stored) == [
        "vlass, quadratic: certified costs 0.450 floors, 1.50 times its baseline"
    ]
    assert compare("small, quadratic", now, stored) == []


def test_maps_of_images_have_the_sides_of_a_search():
    import surveys

    rng = np.random.default_rng(0)
    images = rng.random((5, 1, 20, 20), np.float32)
    distinct = surveys.distinct_map(images, 7)
    assert distinct.shape == (7, 1, 29, 29)
    assert len(np.unique(distinct.reshape(7, -1), axis=0)) == 7
    trained = surveys.trained_map(images, 2, epochs=1)
    assert trained.shape == (4, 1, 29, 29)
    assert np.isfinite(trained).all()
