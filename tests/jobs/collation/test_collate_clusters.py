"""Collations on Ray and on a Dask cluster give the bytes that threads give."""

import importlib.util
import sys
from pathlib import Path

import distributed
import pytest

from skysom.cluster.ray_executor import start_ray
from skysom.jobs.collation.collate import CollateSettings, collate

_spec = importlib.util.spec_from_file_location("random_skies", Path(__file__).with_name("random_skies.py"))
sys.modules["random_skies"] = skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)
LOOPBACK = {"processes": False, "dashboard_address": None, "host": "127.0.0.1", "protocol": "tcp://"}


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.parquet"))}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Inputs, their tables collated by threads, and the same with other corrections."""
    folder = tmp_path_factory.mktemp("sky")
    inputs = skies.make(folder, 11, skies.SkyKind(rows=120, other_rows=80, centres=skies.CENTRES[:3]))
    corrected = skies.with_corrections(inputs, [(0, 60, 119)], [3])
    made = []
    for given in (inputs, corrected):
        collate(given, folder / "out", CollateSettings(threads=1), scheduler="threads")
        made.append((given, bytes_of(folder / "out")))
    assert made[0][1] != made[1][1]
    return made


def test_ray(sky, tmp_path):
    start_ray(2, None)
    for inputs, wanted in sky:
        assert collate(inputs, tmp_path, CollateSettings(rows_per_box=70))["boxes"] > 1
        assert bytes_of(tmp_path) == wanted


def test_a_client_of_this_process_and_the_address_of_a_scheduler(sky, tmp_path):
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **LOOPBACK) as cluster:
        for inputs, wanted in sky:
            with distributed.Client(cluster):
                collate(inputs, tmp_path / "one", CollateSettings(rows_per_box=30))
            address = cluster.scheduler_address
            collate(inputs, tmp_path / "two", CollateSettings(rows_per_box=70), scheduler=address)
            assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two") == wanted
