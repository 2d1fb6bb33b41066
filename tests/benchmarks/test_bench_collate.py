from pathlib import Path

import numpy as np
import pytest

from skysom.engine.collation.neighbours import neighbour_pairs, unit_vectors


@pytest.fixture
def bench_collate(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_collate

    return bench_collate


def test_the_benchmark_runs_and_prints(bench_collate, capsys, tmp_path):
    tiny = bench_collate.Settings(rows=3000, infrared=10_000, steps=(1.0,), patch_deg2=0.001)
    found = bench_collate.main(tiny, (bench_collate.EMU,), tmp_path)
    printed = capsys.readouterr().out
    assert len(found) == 3
    assert "3,000" in printed
    assert "largest_island" in printed
    assert not list(tmp_path.iterdir())


def test_a_simulated_sky_is_as_dense_as_it_says(bench_collate):
    kind, simulate = bench_collate.VLASS, bench_collate.collate_skies.simulate
    sky = simulate(kind, 20_000, 70_000, 0.05)
    assert len(sky.ra_deg) == 20_000
    assert len(sky.infrared_ra_deg) == 70_000
    crowd = (sky.dec_deg > 1) & (sky.dec_deg < 1 + np.sqrt(0.05)) & (np.abs(sky.ra_deg - 150.11) < 0.13)
    assert abs(np.count_nonzero(crowd) - 2400) < 50
    base, other = unit_vectors(sky.ra_deg, sky.dec_deg), unit_vectors(sky.infrared_ra_deg, sky.infrared_dec_deg)
    index, _ = neighbour_pairs(base, other, 60.5)
    assert np.bincount(index, minlength=20_000).min() >= 3
