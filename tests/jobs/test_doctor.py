"""`skysom doctor`: a line each, remedies, a forced kernel in a process of its own, and when it fails."""

import os
import re
import subprocess
import sys

import pytest

from skysom.jobs import doctor
from skysom.jobs.cli import main
from skysom.jobs.doctor import Finding, findings

TOPICS = ["python", "cores", "memory", "blas", "threads", "speed", "gpu", "disk", "numba"]


def test_every_line_has_a_state_and_a_remedy_where_it_is_not_ok(tmp_path, capsys):
    assert main(["doctor", "--output", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == TOPICS
    for line in lines:
        assert re.match(r"\w+ +(ok|slow|missing) +\S", line), line
    assert f"free for {tmp_path / 'new'}" in lines[7]
    for finding in findings(str(tmp_path)):
        assert (finding.state == "ok") == (not finding.remedy), finding


@pytest.mark.skipif(not doctor.processor_level(), reason="a processor with SSE alone has no slower kernels")
def test_a_forced_kernel_is_slow_and_named():
    code = "import sys; from skysom.jobs.cli import main; sys.exit(main(['doctor']))"
    environment = os.environ | {"OPENBLAS_CORETYPE": "Nehalem"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    blas = next(line for line in done.stdout.splitlines() if line.startswith("blas"))
    if "openblas" not in blas:
        pytest.skip(f"NumPy uses another BLAS here: {blas}")
    assert blas.split()[1] == "slow"
    assert "OPENBLAS_CORETYPE=Nehalem forces slower kernels than the processor has: unset OPENBLAS_CORETYPE" in blas


@pytest.mark.parametrize(
    ("kernel", "level"),
    [("Haswell", 2), ("Zen", 2), ("SkylakeX", 3), ("Prescott", 0), ("skx", 3), ("neoversen1", None)],
)
def test_kernels_by_the_names_libraries_report(kernel, level):
    assert doctor.kernel_level(kernel) == level


def test_old_kernels_without_a_setting_want_a_newer_library(monkeypatch):
    monkeypatch.setattr(doctor, "processor_level", lambda: 3)
    monkeypatch.setattr(doctor, "_blas", lambda: {"internal_api": "openblas", "version": "0.2", "architecture": "Zen"})
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    found = doctor.blas_kernel()
    assert found.state == "slow"
    assert "newer NumPy" in found.remedy


def test_a_forced_library_of_unknown_kernels_is_slow(monkeypatch):
    monkeypatch.setattr(doctor, "_blas", lambda: {"internal_api": "mkl", "version": "2025"})
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "SSE4_2")
    found = doctor.blas_kernel()
    assert found.state == "slow"
    assert found.remedy == "unset MKL_ENABLE_INSTRUCTIONS"
    monkeypatch.delenv("MKL_ENABLE_INSTRUCTIONS")
    assert doctor.blas_kernel().state == "ok"


def test_a_driver_without_cupy_says_what_to_install(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor.gpu() == Finding(
        "gpu", "missing", "no NVIDIA driver and no CuPy", "not needed: searches run on the cores"
    )
    for driver, package in (("570.124.06", "cupy-cuda12x"), ("580.65.06", "cupy-cuda13x")):
        program.write_text(f"#!/bin/sh\necho 'A GPU, 81559 MiB, {driver}'\n")
        program.chmod(0o755)
        found = doctor.gpu()
        assert (found.state, found.remedy) == ("missing", f"pip install {package}")
        assert found.words == f"A GPU (81559 MiB), driver {driver}, but no CuPy"


def test_an_output_that_cannot_be_written_is_fatal(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["doctor", "-o", str(tmp_path / "file")]) == 1
    assert "cannot be written: give another --output" in capsys.readouterr().out
    assert doctor.disk("s3://bucket/run").state == "ok"


def test_a_library_that_is_not_there_is_fatal_and_ends_the_search(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "LIBRARIES", ("numpy", "not-a-library-of-this-world"))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "no not-a-library-of-this-world" in lines[0]


def test_loops_that_cannot_be_kept_are_slow(monkeypatch):
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    found = doctor.compiled_loops()
    assert found.state == "slow"
    assert "NUMBA_CACHE_DIR" in found.remedy
