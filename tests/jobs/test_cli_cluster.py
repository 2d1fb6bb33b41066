"""`skysom cluster`: what its commands write, where, and what they refuse."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from skysom.cluster.errors import LaunchError
from skysom.jobs.cli_cluster import cluster_app

SLURM = ["slurm", "--output", "s3://b/run"]
KUBERAY = ["kuberay", "--output", "s3://b/run", "--image", "r.org/me/skysom:1"]
SOURCES = str(Path(__file__).resolve().parents[2])
RAY_UP = ["ray-up", "--output", "s3://b/run", "--host", "gpu1", "--host", "gpu2", "--project", SOURCES]
RUN = ["--", "--images", "s3://b/my fits", "--preset", "vlass", "--set", "report.title='A $(b)'"]


def _call(*arguments):
    """Standard output of the command; its errors as they are raised."""
    result = CliRunner().invoke(cluster_app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", ["slurm", "kuberay", "ray-up"])
def test_help_teaches_with_an_example_that_works(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = re.sub(r"[│╭╮╰╯─]", " ", _call(command, "--help"))
    example = text[text.index("Example: skysom cluster") : text.index("Arguments")].split()[3:]
    example[example.index("--to") + 1] = str(tmp_path / "file")
    if command == "ray-up":
        example[1:1] = ["--project", SOURCES]
    assert "look at its first lines" in _call(*example)
    assert (tmp_path / "file").stat().st_size > 1000


def test_slurm_prints_a_script(tmp_path):
    text = _call(*SLURM, "--nodes", "3", "--worker-ports", "20000-21000", *RUN)
    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=3\n" in text
    assert "--min-worker-port=20000" in text
    (line,) = re.findall(r"^command=.*$", text, re.MULTILINE)
    read = subprocess.run(
        ["bash", "-c", line + '; printf "%s\\0" "${command[@]}"'],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert read.stdout.split("\0")[:-1] == [
        "skysom", "run", "--output", "s3://b/run", *RUN[1:], "--ray-address", "auto"
    ]  # fmt: skip


def test_a_file_is_overwritten_only_when_asked(tmp_path):
    path = tmp_path / "job.sh"
    said = _call(*SLURM, "--to", str(path))
    assert f"sbatch {path}" in said
    first = path.read_text()
    with pytest.raises(LaunchError, match="--overwrite"):
        _call(*SLURM, "--nodes", "9", "--to", str(path))
    assert path.read_text() == first
    _call(*SLURM, "--nodes", "9", "--to", str(path), "--overwrite")
    assert "--nodes=9" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_kuberay_and_ray_up_print_yaml():
    from importlib.metadata import version

    job = yaml.safe_load(_call(*KUBERAY, "--nodes", "5", "--", "--preset", "vlass"))
    assert (job["kind"], job["spec"]["rayClusterSpec"]["rayVersion"]) == ("RayJob", version("ray"))
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 5
    assert yaml.safe_load(_call(*KUBERAY, "--kind", "cluster"))["kind"] == "RayCluster"
    up = yaml.safe_load(_call(*RAY_UP, *RUN))
    assert up["provider"] == {"type": "local", "head_ip": "gpu1", "worker_ips": ["gpu2"]}
    assert up["file_mounts"]["~/skysom"] == SOURCES


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*SLURM, "--", "--pressets", "vlass"], "refuses its arguments"),
        ([*SLURM, "--", "--help"], "skysom run --help"),
        ([*SLURM, "--", "--output", "x"], "leave it out"), ([*SLURM, "--worker-ports", "many"], "LOW-HIGH"),
        ([*SLURM, "--memory", "lots"], "64G"), ([*KUBERAY, *RUN], "Kubernetes replaces"),
        ([*RAY_UP, "--project", "/"], "constraints.txt"), ([*RAY_UP, "--nodes", "5"], "2 hosts"),
        (["slurm", "--output", "here"], "whole path"), ([*SLURM, "--", "--redo", "map"], "discard the results anew"),
        ([*SLURM, "--", "--redo=map"], "discard"), ([*SLURM, "--", "--print-config"], "computes nothing"),
        (["ray-up", "-o", "s3://b/run", "--provider", "aws", "--nodes", "0", "--project", SOURCES], "--nodes is 0"),
    ],
)  # fmt: skip
def test_refusals_name_the_remedy(arguments, says):
    with pytest.raises(LaunchError, match=re.escape(says)):
        _call(*arguments)
