"""Places: local paths and an object store (a real S3 server on loopback) behind the same functions."""

import logging
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from skysom.storage import place as places
from skysom.storage.errors import PlaceError, StoreUnreachableError
from skysom.storage.place import is_remote, patiently, place


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    """A folder on disk, or a prefix in an object store."""
    return place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3") + "/run")


def test_what_is_local_and_what_is_remote(s3):
    assert place("a/b") == Path("a/b")
    assert place(Path("a")) == Path("a")
    assert place("file:///a/b c") == Path("/a/b c")
    there = place(f"{s3}/run/")
    assert is_remote(there)
    assert not is_remote(place("a"))
    assert str(there / "x" / "y") == f"{s3}/run/x/y"
    assert (there / "x").parent == there
    assert place(there) is there


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("foo://bucket/x", "unknown protocol 'foo'"), ("s3://", "names no bucket"), ("file://a", "file:///folder"),
     ("s3:/bucket/x", "s3://bucket/x"), ("file:/a", "lacks a slash"), ("", "is empty")],
)  # fmt: skip
def test_a_url_that_cannot_be_used_is_refused(text, remedy):
    with pytest.raises(PlaceError, match=remedy):
        place(text)


def test_a_missing_library_is_named():
    code = "import sys; sys.modules['s3fs'] = None; from skysom.storage.place import place; place('s3://bucket/x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PlaceError" in done.stderr.splitlines()[-1]
    assert "pip install 'skysom[s3]'" in done.stderr.splitlines()[-1]


def test_files_are_written_found_read_and_removed(root):
    assert places.files_below(root) == []
    assert places.entries(root / "none") == []
    places.make_directory(root / "deep" / "er")
    for name in ("b.txt", "deep/a.fits", "deep/er/c.fits"):
        places.write_atomically(root / name, name.encode())
    places.write_atomically(root / "b.txt", b"new")
    assert places.read_bytes(root / "b.txt") == b"new"
    assert [str(p.relative_to(root)) for p in places.files_below(root)] == ["b.txt", "deep/a.fits", "deep/er/c.fits"]
    assert [p.name for p in places.files_below(root, "*/*.fits")] == ["a.fits"]
    assert [p.name for p in places.files_below(root, "**/*.fits")] == ["a.fits", "c.fits"]
    assert [p.name for p in places.entries(root)] == ["b.txt", "deep"]
    assert [places.is_file(root / n) for n in ("b.txt", "deep", "none")] == [True, False, False]
    assert [places.is_dir(root / n) for n in ("b.txt", "deep", "none")] == [False, True, False]
    assert [places.exists(root / n) for n in ("b.txt", "deep", "none")] == [True, True, False]
    places.move(root / "b.txt", root / "deep" / "a.fits")
    assert places.read_bytes(root / "deep" / "a.fits") == b"new"
    assert not places.exists(root / "b.txt")
    places.remove(root / "none")
    places.remove_tree(root / "none")
    places.remove(root / "deep" / "a.fits")
    assert [p.name for p in places.files_below(root)] == ["c.fits"]
    places.remove_tree(root / "deep")
    assert not places.exists(root / "deep")
    with pytest.raises(FileNotFoundError):
        places.read_bytes(root / "none")
    with pytest.raises(FileNotFoundError):
        places.open_binary(root / "none")


def test_a_file_is_read_in_parts(root):
    data = np.random.default_rng(1).bytes(3 * 2**20 + 17)
    places.write_atomically(root / "x", data)
    with places.open_binary(root / "x") as stream:
        assert stream.read(5) == data[:5]
        stream.seek(2**21 + 3)
        assert stream.read(2**20 - 1) == data[2**21 + 3 : 2**21 + 2 + 2**20]
        stream.seek(-17, 2)
        assert stream.read() == data[-17:]
        assert stream.read() == b""
        assert stream.seek(0) == 0
        assert stream.read() == data


def test_places_pickle(root):
    places.write_atomically(root / "x", b"x")
    again = pickle.loads(pickle.dumps(root))
    assert again == root
    assert places.read_bytes(again / "x") == b"x"


def test_a_store_that_refuses_is_one_sentence(s3, monkeypatch):
    with pytest.raises(FileNotFoundError):
        places.write_atomically(place("s3://there-is-no-such-bucket/x"), b"x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    code = f"from skysom.storage.place import place, write_atomically; write_atomically(place('{s3}/x'), b'x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PlaceError: the store refuses access" in done.stderr.splitlines()[-1]
    assert "AWS_ACCESS_KEY_ID" in done.stderr.splitlines()[-1]


def test_a_store_that_comes_back_is_waited_for_and_announced_once(stoppable_s3, caplog):
    server, url = stoppable_s3
    there = place(url)
    places.write_atomically(there / "x", b"old")
    server.stop()
    later = threading.Timer(1.0, server.start)
    later.start()
    with caplog.at_level(logging.WARNING, "skysom.storage"):
        places.write_atomically(there / "x", b"new")
    later.join()
    assert places.read_bytes(there / "x") == b"new"
    assert ["waiting" in r.message for r in caplog.records] == [True, False]


def test_a_store_that_stays_away_is_one_sentence(stoppable_s3):
    server, url = stoppable_s3
    there = place(url)
    server.stop()
    try:
        with pytest.raises(StoreUnreachableError, match="run the same command again"):
            patiently(there.fs.cat_file, (there / "x").path, deadline_s=0.5)
    finally:
        server.start()


def test_what_is_no_matter_of_waiting_is_raised_at_once():
    started = time.monotonic()
    for error, expected in ((FileNotFoundError("x"), FileNotFoundError), (ValueError("x"), ValueError)):
        with pytest.raises(expected):
            patiently(_raise, error)
    assert time.monotonic() - started < 60  # not the deadline of 120 s


def _raise(error):
    raise error
