from pathlib import Path

import pytest


@pytest.fixture
def bench_reading(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_reading

    return bench_reading


def test_the_benchmark_runs_and_prints(bench_reading, capsys, tmp_path):
    found = bench_reading.main(bench_reading.Settings(rows=1000, side=3, large_side=4, rounds=1), tmp_path)
    printed = capsys.readouterr().out
    assert [text.split(":")[0] for _, text in found] == ["analysis", "memory"]
    assert "reading in blocks" in printed
    assert found[1][0]
    assert not list(tmp_path.iterdir())


def test_rows_are_fewer_where_the_disk_is_small(bench_reading, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_reading.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 6e9}))
    assert bench_reading.rows_that_fit(3_000_000, 1600, tmp_path) == 156_160
    assert bench_reading.rows_that_fit(1000, 4, tmp_path) == 1000
