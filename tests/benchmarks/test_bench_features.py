from pathlib import Path

import pytest


@pytest.fixture
def bench_features(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_features

    return bench_features


def test_the_benchmark_runs_and_prints(bench_features, capsys):
    tiny = bench_features.Settings(rows=3_000, features=3, map_side=4, rounds=1, brute_rows=200, gemm_side=64)
    found = bench_features.main(tiny)
    printed = capsys.readouterr().out
    assert len(found) == 4
    assert all(good for good, _ in found[2:])
    assert "floor: operations" in printed
    for _, text in found:
        assert text.split(":")[0] in printed


def test_operations_of_the_survey_case(bench_features):
    """6.75 GFLOP of multiply-adds, and a comparison each."""
    settings = bench_features.Settings()
    assert settings.operations == pytest.approx(6.75e9 / 2 * 6 / 5)
