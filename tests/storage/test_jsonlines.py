"""JSON lines on disk and in an object store: what is appended is there, whole, and in order."""

import json
import resource

import pytest

from skysom.storage import jsonlines
from skysom.storage import place as places
from skysom.storage.jsonlines import JsonLines
from skysom.storage.place import place


@pytest.fixture(params=["local", "s3"])
def path(request, tmp_path):
    """Where the lines go: on disk, or in an object store."""
    root = place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3") + "/run")
    return root / "history.jsonl"


def numbers(path):
    return [json.loads(line)["n"] for line in JsonLines(path).read()]


def test_lines_of_several_writers_are_read_in_order(path):
    assert JsonLines(path).read() == []
    for first in range(0, 30, 10):
        writer = JsonLines(path)
        for n in range(first, first + 10):
            writer.append({"n": n})
    assert numbers(path) == list(range(30))


def test_replacing_all_lines_is_seen_by_all(path):
    writer = JsonLines(path)
    for n in range(3):
        writer.append({"n": n})
    writer.replace([{"n": 7}])
    writer.append({"n": 8})
    JsonLines(path).append({"n": 9})
    assert numbers(path) == [7, 8, 9]
    JsonLines(path).replace([])
    assert numbers(path) == []
    writer = JsonLines(path)
    writer.append({"n": 1})
    assert numbers(path) == [1]


def test_segments_are_bounded_and_few(s3, monkeypatch):
    monkeypatch.setattr(jsonlines, "SEGMENT_LINES", 5)
    path = place(s3) / "ledger.jsonl"
    writer = JsonLines(path)
    for n in range(12):
        writer.append({"n": n})
    assert [len(places.read_bytes(part).splitlines()) for part in places.entries(path)] == [5, 5, 2]
    assert numbers(path) == list(range(12))


def test_a_writer_thought_dead_takes_no_lines_from_its_successor(s3):
    path = place(s3) / "ledger.jsonl"
    old = JsonLines(path)
    old.append({"n": 0})
    new = JsonLines(path)
    new.append({"n": 1})
    old.append({"n": 2})
    new.append({"n": 3})
    assert sorted(numbers(path)) == [0, 1, 2, 3]


def test_lines_that_were_replaced_count_no_more_where_their_removal_was_killed(s3):
    path = place(s3) / "ledger.jsonl"
    JsonLines(path).append({"n": 0})
    before = {part: places.read_bytes(part) for part in places.entries(path)}
    JsonLines(path).replace([{"n": 1}])
    for part, content in before.items():
        places.write_atomically(part, content)
    assert numbers(path) == [1]


def test_a_torn_line_is_not_continued(tmp_path):
    path = tmp_path / "history.jsonl"
    JsonLines(path).append({"n": 0})
    path.write_bytes(path.read_bytes() + b'{"n": 1, "long": "' + b"x" * 200_000)
    assert numbers(path) == [0]
    JsonLines(path).append({"n": 2})
    assert numbers(path) == [0, 2]
    path.write_bytes(b'{"torn": ')
    JsonLines(path).append({"n": 3})
    assert numbers(path) == [3]


def test_a_line_of_which_a_part_was_written_is_not_continued(tmp_path):
    path = tmp_path / "history.jsonl"
    writer = JsonLines(path)
    writer.append({"n": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))  # as a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            writer.append({"n": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes().endswith(b'\n{"n":')
    writer.append({"n": 2})
    assert numbers(path) == [0, 2]


def test_lines_that_may_wait_are_sent_together_and_in_order(s3):
    path = place(s3) / "lines.jsonl"
    lines = JsonLines(path)
    for i in range(3 * jsonlines.SEGMENT_LINES // 2):
        lines.append({"i": i}, soon=True)
    sent = [json.loads(line)["i"] for line in JsonLines(path).read()]
    assert sent == list(range(len(sent)))
    lines.append({"i": "last"})
    found = [json.loads(line)["i"] for line in JsonLines(path).read()]
    assert found == [*range(3 * jsonlines.SEGMENT_LINES // 2), "last"]
    assert len(list(path.iterdir())) == 2, "a request a line"
