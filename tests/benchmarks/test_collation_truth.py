"""Truth recovery: scores on cases that can be counted by hand, what the script draws on plain neurons, a quick run."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def scores(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import collation_truth_scores

    return collation_truth_scores


@pytest.fixture
def masks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import collation_truth_masks

    return collation_truth_masks


def truth_of(scores, source, host):
    source = np.array(source)
    counts = np.bincount(source)
    return scores.Truth(source, np.array(["double"] * len(counts)), counts, np.array(host))


def test_groups_count_member_for_member(scores):
    truth = truth_of(scores, [0, 0, 1, 2, 2, 2], [5, 6, -1])
    found = scores.Found(np.array([0, 0, 1, 2, 2, 3]), [[5], [7, 6], [8], []])
    recovered, pure = scores.score_groups(truth, found)
    assert recovered.tolist() == [True, True, False]
    assert pure.tolist() == [True, True, False, False]
    hosts = scores.score_hosts(truth, found)
    assert hosts["completeness"] == 0.5  # of sources 0 and 1, whose hosts are known, 0 has its own first
    assert hosts["listed"] == 1.0
    assert hosts["purity"] == pytest.approx(1 / 3)
    assert hosts["right_host"] == pytest.approx(1 / 3)


def test_the_best_linking_length(scores):
    truth = truth_of(scores, [0, 0, 1, 1, 2], [-1, -1, -1])
    # members are 20 apart, sources 40
    index = np.array([[0, 1, 1], [1, 0, 2], [2, 3, 1], [3, 2, 1], [1, 2, 2], [2, 1, 2], [3, 4, 2], [4, 3, 2]])
    pairs = (index[:, 0], index[:, 1], 20.0 * index[:, 2])
    length = scores.best_length(truth, pairs)
    assert 20 <= length < 40
    group = scores.linked_neighbours(pairs, 5, length)
    assert scores.score_groups(truth, scores.Found(group, []))[0].all()


def test_hosts_nearest_within_a_radius(scores):
    step = np.deg2rad(1 / 3600)
    infrared = np.array([[1.0, 2 * step, 0.0], [1.0, 9 * step, 0.0]])
    assert scores.nearest_hosts(np.array([[1.0, 0.0, 0.0]]), infrared, 3.0) == [[0]]
    assert scores.nearest_hosts(np.array([[1.0, 5 * step, 0.0]]), infrared, 2.0) == [[]]


def neuron(radio, infrared, side=61):
    """Two channels with Gaussian blobs at (row, column, height) from the centre, on noise."""
    rng = np.random.default_rng(3)
    y, x = np.indices((side, side)) - (side - 1) / 2
    found = []
    for blobs, noise in ((radio, 0.005), (infrared, 0.01)):
        image = rng.normal(0, noise, (side, side))
        for row, column, height in blobs:
            image += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 5.0)
        found.append(image)
    return np.stack(found)


CASES = {
    "compact": ([(0, 0, 1)], [(0, 0, 1)], [(0, 0)], [(15, 0)], (0, 0)),
    "neighbour with a host of its own": ([(0, 0, 1), (0, 14, 1)], [(0, 0, 1), (0, 14, 1)], [(0, 0)], [(0, 14)], (0, 0)),
    "double": ([(0, 0, 1), (0, 14, 0.8)], [(0, 7, 0.6)], [(0, 0), (0, 14)], [(0, 7)], (0, 7)),
    "core to the side": ([(0, 0, 1), (0, 14, 0.8)], [(0, 14, 0.6)], [(0, 0), (0, 14)], [(14, 0)], (0, 14)),
    "triple": ([(0, 0, 1), (0, 14, 1), (0, -14, 1)], [(0, 0, 1)], [(0, 14), (0, -14)], [(0, 7)], (0, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_script_draws_as_an_annotator_would(masks, name):
    radio, infrared, linked, free, host = CASES[name]
    drawn = masks.annotator_masks(neuron(radio, infrared)[None], 28.0)
    for row, column in linked:
        assert drawn.link[0, 30 + row, 30 + column]
    for row, column in free:
        assert not drawn.link[0, 30 + row, 30 + column]
    rows, columns = np.nonzero(drawn.host[0])
    assert np.hypot(rows.mean() - 30 - host[0], columns.mean() - 30 - host[1]) < 1.0
    assert drawn.host.sum() < 60


def test_masks_from_the_truth_keep_to_where_relatives_are_denser(masks):
    rng = np.random.default_rng(0)
    true = np.repeat([True, False], 500)
    x = np.where(true, rng.normal(10, 1, 1000), rng.uniform(-20, 20, 1000))
    y = np.where(true, rng.normal(0, 1, 1000), rng.uniform(-20, 20, 1000))
    found = masks.Projected(np.zeros(1000, int), x, y, true)
    drawn = masks.truth_masks(found, found, 2, 41)
    assert drawn.link[0, 20, 30]
    assert not drawn.link[0, 20, 10]
    assert not drawn.link[1].any()
    assert drawn.link.sum() < drawn.host.sum()


@pytest.mark.slow
def test_a_quick_run_recovers_most_sources(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import collation_truth

    lines = collation_truth.main(["--quick", "--keep", str(tmp_path), "--markdown", str(tmp_path / "table.md")])
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in lines if line.startswith("| masks by")}
    for name, least in (("masks by script", 0.65), ("masks by truth", 0.8)):
        completeness, purity = (float(value) for value in rows[name][:2])
        assert completeness > least
        assert purity > least
    assert (tmp_path / "table.md").read_text().splitlines() == lines
