from pathlib import Path

import numpy as np
import pytest

from skysom.engine import Cartesian, Geometry, Som, best_match


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.parametrize("region", ["quadratic", "circular"])
@pytest.mark.parametrize("side", [12, 15])
def test_the_compiled_loop_computes_the_same(side, region):
    from peer_loop import peer_match

    rng = np.random.default_rng(0)
    geometry = Geometry.derive(side, 12, True, region)
    image = rng.random((side, side), np.float32)
    neurons = rng.random((5, geometry.neuron_side, geometry.neuron_side), np.float32)
    distance, transform = peer_match(image, neurons, geometry)
    found = best_match(image[None], Som(neurons[:, None], Cartesian(5)), 12, True, region)
    np.testing.assert_allclose(distance, found.distance[0], rtol=5e-6)
    assert np.array_equal(transform, found.transform[0])


def test_the_benchmark_runs_and_prints(capsys):
    import bench_search

    tiny = bench_search.Settings(
        image_side=16, rotations=8, map_side=2, blocks=1, rounds=1, loop_rounds=1,
        training_images=2, reference_rotations=4, stream=(32, 64),
    )  # fmt: skip
    found = bench_search.main(tiny)
    printed = capsys.readouterr().out
    assert len(found) == 7
    assert "GFLOP/s" in printed
    for _, text in found:
        assert text.split(":")[0] in printed


def test_operations_of_the_survey_case():
    import bench_search

    settings = bench_search.Settings()
    assert settings.flops("quadratic") == pytest.approx(0.303e9, rel=2e-3)
    assert settings.flops("circular") == pytest.approx(0.478e9, rel=2e-3)
