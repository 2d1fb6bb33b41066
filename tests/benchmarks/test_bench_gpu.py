import sys
from pathlib import Path

import pytest

from skysom.engine import Geometry, cuda

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(HERE.parent / "engine")


def test_without_a_gpu_it_says_why_and_ends_well(capsys):
    import bench_gpu

    if cuda.unavailable() is None:
        pytest.skip("there is a CUDA device")
    assert bench_gpu.main([]) == 0
    assert "no CUDA device" in capsys.readouterr().out


def test_the_report_is_a_table_of_ratios_with_distances_checked_first():
    import bench_gpu
    import cuda_on_cpu

    if cuda_on_cpu.COMPILER is None:
        pytest.skip(cuda_on_cpu.NO_COMPILER)
    device = cuda_on_cpu.HostDevice()
    device.name = "CPU"
    sizes = bench_gpu.Sizes(gemm_side=64, copied_bytes=4096, pinned_bytes=4096, rounds=1, checked_images=3)
    case = bench_gpu.Case(
        "tiny", Geometry.derive(12, 8), 4, channels=2, blocks=2, whole=1000, published=(("a card", 10),)
    )
    lines, good = bench_gpu.report((case,), device, sizes)
    assert good
    assert lines[0].startswith("CPU: float32 product")
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert columns == {len(bench_gpu.HEADS) + 1}
    text = "\n".join(lines)
    assert "tiny: PASS" in text
    assert "1,000 images would take" in text
    assert "512 timed" in text


def test_operations_of_the_survey_case():
    import bench_gpu

    assert bench_gpu.CASES[0].flops == pytest.approx(0.32e9, rel=0.01)
    assert bench_gpu.CASES[0].traffic == pytest.approx(9.5e6, rel=0.1)
    assert "bench_gpu" in sys.modules
