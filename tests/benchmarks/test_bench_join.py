from pathlib import Path

import pytest


@pytest.fixture
def bench_join(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_join

    return bench_join


def test_the_benchmark_runs_and_prints(bench_join, capsys, tmp_path):
    found = bench_join.main(bench_join.Settings(left=20_000, right=80_000), tmp_path)
    printed = capsys.readouterr().out
    assert [text.split(":")[0] for _, text in found] == ["time", "memory", "answer"]
    assert found[2][0]
    assert "one to one" in printed
    assert not list(tmp_path.iterdir())
