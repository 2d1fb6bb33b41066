"""Memory that is projected for a collation, and what is refused where it is limited."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skysom.jobs.collation import collate as collation_collate
from skysom.jobs.collation import memory
from skysom.jobs.collation.collate import CollateSettings, collate, projection
from skysom.jobs.collation.folder import CollationFolder
from skysom.jobs.collation.islands import Sky, read_sky
from skysom.jobs.errors import ConfigError

_spec = importlib.util.spec_from_file_location("random_skies", Path(__file__).with_name("random_skies.py"))
sys.modules["random_skies"] = skies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(skies)


def run(inputs, folder, **chosen):
    return collate(
        inputs, folder, CollateSettings(**({"rows_per_box": 40, "threads": 1} | chosen)), scheduler="threads"
    )


def crowd(folder, rows, channels=(True,)):
    """Rows that all lie under the LINK mask of each other."""
    kind = skies.SkyKind(rows=rows, other_rows=rows, labels=1, actions=("LINK",), centres=skies.CENTRES[4:])
    inputs = skies.make(folder, 1, replace(kind, base_channels=channels, spoiled=False, spread_arcsec=8.0))
    return replace(inputs, planes=np.ones_like(inputs.planes), limit_arcsec=200.0)


def done(folder):
    """What is left of each stage."""
    return {path.stem for path in (folder / ".skysom").rglob("*.arrow")}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    kind = skies.SkyKind(rows=150, other_rows=60, centres=skies.CENTRES[:2], labels=3, spread_arcsec=600.0)
    return skies.make(tmp_path_factory.mktemp("sky"), 5, kind)


def test_more_memory_than_allowed_is_refused(sparse, tmp_path, capsys):
    needed = projection(sparse, CollateSettings(threads=2, rows_per_box=40)).total
    with pytest.raises(
        ConfigError, match=rf"{needed / 1e9:.2f} GB of memory is projected .* 0.1 GB is allowed; give fewer"
    ):
        run(sparse, tmp_path / "out", threads=2, memory_gb=0.1)
    assert f"150 components; at most {needed / 1e9:.2f} GB of memory is projected" in capsys.readouterr().err
    assert projection(sparse, CollateSettings(threads=1, rows_per_box=40)).total < needed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("allowed", [0, -1.0, math.nan, math.inf])
def test_memory_is_a_number_above_0(allowed):
    with pytest.raises(ConfigError, match=r"GB of memory is allowed \(--memory-gb\); give a number above 0"):
        CollateSettings(memory_gb=allowed)


def test_more_threads_than_boxes_need_no_more_memory(sparse, tmp_path, monkeypatch):
    one, two, many = (projection(sparse, CollateSettings(threads=threads)).total for threads in (1, 2, 5000))
    assert one <= two <= many
    assert many < 2 * one  # one box; at most the tables are merged together
    settings = {threads: CollateSettings(threads=threads, rows_per_box=10) for threads in (20, 5000)}
    assert projection(sparse, settings[5000], boxes=20).total == projection(sparse, settings[20], boxes=20).total
    started = []
    real = collation_collate.dask_scheduler
    monkeypatch.setattr(
        collation_collate,
        "dask_scheduler",
        lambda name, threads: started.append(threads) or real(name, threads=threads),
    )
    assert run(sparse, tmp_path / "many", threads=5000)["boxes"] == started[0] > 4
    run(sparse, tmp_path / "one", threads=5000, rows_per_box=1000)
    run(sparse, tmp_path / "as asked", threads=2)
    assert started[1:] == [4, 2]


def test_an_island_that_does_not_fit_is_refused_before_it_is_grouped(sparse, tmp_path):
    needed = projection(sparse, CollateSettings(rows_per_box=1000, threads=1), boxes=1).total
    with pytest.raises(ConfigError, match="let the masks reach less far"):
        run(sparse, tmp_path, rows_per_box=1000, memory_gb=needed * 1e-9)
    assert "carried" in done(tmp_path)
    assert "sources" not in done(tmp_path)


# --- carried pairs --------------------------------------------------------------------------------


def test_pairs_of_boxes_that_are_grouped_together():
    roots, home = np.array([0, 0, 2, 3, 2]), np.array([1, 2, 1, 0, 0], np.int32)
    sky = Sky(home, roots, np.array([5, 7, 1, 4, 3], np.int32))
    assert [sky.pairs_at_once(tasks) for tasks in (1, 2, 9)] == [16, 20, 20]
    none = np.empty(0, np.int64)
    assert Sky(none.astype(np.int32), none, none.astype(np.int32)).pairs_at_once(2) == 0


def test_pairs_count_as_memory(sparse, tmp_path, monkeypatch):
    summary = run(sparse, tmp_path / "out")
    sky = read_sky(CollationFolder(tmp_path / "out"), 150, summary["boxes"], None)
    assert sky.pairs.sum() == summary["carried_pairs"] > 0
    few, many = (projection(sparse, CollateSettings(threads=1), pairs=pairs).total for pairs in (1000, 10_000_000))
    assert many - few == 10_000_000 * memory.CARRIED_PAIR_BYTES - memory.LOOKED_UP_BYTES


def test_pairs_of_an_island_that_do_not_fit_are_refused_before_it_is_grouped(tmp_path, monkeypatch):
    """Each box has few of them, but they are grouped in one."""
    monkeypatch.setattr(memory, "LOOKED_UP_BYTES", 0)
    monkeypatch.setattr(memory, "RANGE_ROW_BYTES", 0)
    for name in ("DEALT_ROW_BYTES", "SAMPLED_ROW_BYTES", "BOX_ROW_BYTES", "ISLAND_ROW_BYTES"):
        monkeypatch.setattr(memory, name, 0)
    inputs = crowd(tmp_path, 150)
    assert run(inputs, tmp_path / "free", rows_per_box=15)["largest_island"] == 150
    allowed = projection(inputs, CollateSettings(rows_per_box=15, threads=1)).total + 150 * 149 * 130
    with pytest.raises(ConfigError, match="let the masks reach less far"):
        run(inputs, tmp_path / "out", rows_per_box=15, memory_gb=allowed / 1e9)
    assert "carried" in done(tmp_path / "out")
    run(inputs, tmp_path / "out", rows_per_box=15, memory_gb=(allowed + 150 * 130) / 1e9)
    assert skies.differences(skies.published(tmp_path / "out"), skies.expected(inputs)) == []


@pytest.mark.parametrize(
    ("channels", "allowed", "words"),
    [((True,), 159_999, "about 160,000 rows"), ((True, False), 160_000, r"about 3[01]\d,\d\d\d rows")],
)
def test_pairs_of_a_box_that_do_not_fit_are_refused_before_they_are_gathered(
    tmp_path, monkeypatch, channels, allowed, words
):
    """In the first channel, or in both together."""
    inputs = crowd(tmp_path, 400, channels)
    monkeypatch.setattr(memory, "LOOKED_UP_BYTES", 0)
    free = projection(inputs, CollateSettings(threads=1, rows_per_box=10_000), boxes=1).total
    with pytest.raises(ConfigError, match=rf"carry {words}, the memory allowed holds {allowed:,} a box; give fewer"):
        run(inputs, tmp_path / "out", rows_per_box=10_000, memory_gb=(free + (allowed + 0.5) * 130) / 1e9)
    assert done(tmp_path / "out") == {"00000-000"}


def test_pairs_that_a_probe_misses_are_told_too(tmp_path, monkeypatch):
    inputs = crowd(tmp_path, 60)
    monkeypatch.setattr(memory, "LOOKED_UP_BYTES", 0)
    free = projection(inputs, CollateSettings(threads=1, rows_per_box=10_000), boxes=1).total
    with pytest.raises(ConfigError, match=r"carry 3,600 rows, the memory allowed holds 3,599 a box"):
        run(inputs, tmp_path / "out", rows_per_box=10_000, memory_gb=(free + 3_599.5 * 130) / 1e9)
    run(inputs, tmp_path / "out", rows_per_box=10_000, memory_gb=(free + 60 * 1500 + 3_600.5 * 130) / 1e9)
