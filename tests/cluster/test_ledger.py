"""The ledger survives torn lines and refuses what it cannot read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysom.cluster.errors import LedgerError
from skysom.cluster.ledger import Ledger
from skysom.storage.place import place


def test_records_are_read_back(tmp_path):
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.record("map", "c", (0, 256), {"mapped": 200})
    ledger.record("train", "c", (0, 1), {})
    again = Ledger(tmp_path / "l.jsonl")
    assert again.done("map", "c") == {(0, 256): {"mapped": 200}}
    assert again.done("train", "c") == {(0, 1): {}}


@given(cut=st.integers(1, 60))
def test_a_torn_last_line_is_dropped_and_the_next_record_is_whole(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("ledger") / "l.jsonl"
    ledger = Ledger(path)
    ledger.record("map", "c", (0, 256), {})
    whole = path.read_bytes()
    ledger.record("map", "c", (256, 512), {})
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    again = Ledger(path)
    assert set(again.done("map", "c")) == {(0, 256)}
    again.record("map", "c", (512, 600), {})
    assert set(Ledger(path).done("map", "c")) == {(0, 256), (512, 600)}


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text('{"stage": "map"}\n{"stage": "map", "config": "c", "start": 0, "stop": 1, "counts": {}}\n')
    with pytest.raises(LedgerError, match="line 1"):
        Ledger(path)


def test_drop_forgets_a_stage(tmp_path):
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.record("map", "c", (0, 1), {})
    ledger.record("ingest", "c", (0, 1), {})
    ledger.drop("map")
    again = Ledger(tmp_path / "l.jsonl")
    assert again.done("map", "another") == {}
    assert set(again.done("ingest", "c")) == {(0, 1)}


def test_the_epoch_is_kept_and_records_without_one_are_read(tmp_path):
    path = tmp_path / "l.jsonl"
    path.write_text('{"stage": "map", "config": "c", "start": 0, "stop": 1, "counts": {}}\n')
    Ledger(path).record("map", "c", (1, 2), {}, epoch=3)
    assert set(Ledger(path).done("map", "c")) == {(0, 1), (1, 2)}
    assert [json.loads(line).get("epoch") for line in path.read_text().splitlines()] == [None, 3]


def test_a_ledger_in_an_object_store(s3):
    path = place(s3) / "run" / "ledger.jsonl"
    ledger = Ledger(path)
    for start in range(5):
        ledger.record("map", "c", (start, start + 1), {"mapped": start}, epoch=1)
    ledger.record("ingest", "c", (0, 1), {})
    assert Ledger(path).done("map", "c") == {}, "each record was a request of its own"
    ledger.flush()
    assert Ledger(path).done("map", "c") == {(n, n + 1): {"mapped": n} for n in range(5)}
    Ledger(path).drop("map")
    again = Ledger(path)
    assert again.done("map", "another") == {}
    assert set(again.done("ingest", "c")) == {(0, 1)}
