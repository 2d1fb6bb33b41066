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
    answers = [f"answer of {name}" for name in ("nearest", "one to one", "counts")]
    assert [text.split(":")[0] for _, text in found] == ["time", "memory", *answers]
    assert all(good for good, _ in found[2:])
    assert "GB in total" in printed
    assert "one to one" in printed
    assert not list(tmp_path.iterdir())
