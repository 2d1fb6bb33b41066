"""The work folder: whatever moment a run is killed at, the next one makes the same result and nothing hidden stays."""

import subprocess
import sys
import textwrap

import pyarrow as pa
import pytest

from skysom.jobs.errors import ConfigError
from skysom.jobs.joins.output import check_output, write_table, write_tables
from skysom.jobs.joins.work import WorkFolder, local_target
from skysom.storage.fits_export import ExportError

RUNS = textwrap.dedent(
    """
    import itertools, os, shutil, signal, sys
    from pathlib import Path
    import psutil
    from skysom.jobs.errors import ConfigError
    from skysom.jobs.joins.work import WorkFolder
    from skysom.storage.place import write_atomically

    kind, there = sys.argv[1], sys.argv[2] == "there"
    target = Path("out" if kind == "directory" else "out.csv")
    PARTS = 2
    os.fsync = lambda number: None  # what is written outlives a kill without it; most of the time goes there
    WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}

    def make(text, overwrite):
        with WorkFolder(target, {"text": text}, overwrite=overwrite, kind=kind) as work:
            known = work.path / "written"
            known.mkdir(exist_ok=True)
            for n in range(PARTS):  # as the joins do: what is known as written is not written again
                if not (known / f"{n}.json").exists():
                    write_atomically(work.tree / f"{n}.txt", text.encode())
                    write_atomically(known / f"{n}.json", b"1")
            made = work.tree
            if kind == "file":
                made = work.path / target.name
                made.write_text("".join((work.tree / f"{n}.txt").read_text() for n in range(PARTS)))
            else:
                (made / "hats.properties").write_text("")
            work.publish(made)

    def child(text, overwrite, last=None, log=None):
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            number = itertools.count(1)

            def hook(event, given):
                if event in WRITES or (event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)):
                    if next(number) == last:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            code = 0
            try:
                make(text, overwrite)
            except ConfigError as error:
                code = 3 if "is there already" in str(error) else 4
            except BaseException:
                code = 5
            if log is not None:
                os.write(log, str(next(number)).encode())
            os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def content():
        if kind == "file":
            return target.read_text() if target.exists() else None
        if not target.exists():
            return None
        names = sorted(path.name for path in target.iterdir())
        assert names == [*(f"{n}.txt" for n in range(PARTS)), "hats.properties"], names
        return "".join((target / f"{n}.txt").read_text() for n in range(PARTS))

    def begin():
        for path in Path().iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if there and kind == "file":
            target.write_text("old" * PARTS)
        elif there:
            target.mkdir()
            for name in (*(f"{n}.txt" for n in range(PARTS)), "hats.properties"):
                (target / name).write_text("old" if name.endswith(".txt") else "")

    def hidden():
        return [path.name for path in Path().iterdir() if path.name != target.name]

    def rerun(text, overwrite, killed):
        before = content()
        assert before in ([None] if not there else [None, "old" * PARTS]) + ["new" * PARTS], before
        code = child(text, overwrite)
        if code == 0:
            assert content() == text * PARTS, content()
        else:
            assert code == 3 and not overwrite, code
            kept = content()
            assert kept == before if before else kept == "old" * PARTS, (before, kept)
            if kept == "new" * PARTS:
                assert not hidden(), hidden()
            assert child(text, True) == 0
            assert content() == text * PARTS
        assert not hidden(), hidden()

    begin()
    read, write = os.pipe()
    assert child("new", there, log=write) == 0
    events = int(os.read(read, 99)) - 1
    assert events > 20
    ways = [("new", True), ("new", False), ("other", True), ("other", False)]
    for last in range(1, events + 1):
        text, overwrite = ways[last % 4] if last < events - 12 else ways[last % 2]
        begin()
        assert child("new", there, last) == -signal.SIGKILL
        try:
            rerun(text, overwrite, last)
        except AssertionError as error:
            raise AssertionError(f"killed at {last} of {events}, then {text} {overwrite}") from error
        if last % 2:
            continue
        begin()  # and a run with other settings that is killed, perhaps as it discards the work of the first
        assert child("new", there, events // 2) == -signal.SIGKILL
        child("other", there, last)
        if content() != "other" * PARTS:
            rerun("new", True, last)
    print("kills", events)
    """
)


@pytest.mark.parametrize(("kind", "there"), [("directory", "there"), ("directory", "new"), ("file", "there")])
def test_a_kill_at_any_file_event_loses_and_mixes_nothing(tmp_path, kind, there):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNS, kind, there], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "kills" in done.stdout


def make_late(target):
    with WorkFolder(target, {}, kind="file") as work:
        made = work.path / "out.csv"
        made.write_text("mine")
        target.write_text("another's")
        work.publish(made)


def test_a_result_that_came_meanwhile_is_not_replaced_unasked(tmp_path):
    target = tmp_path / "out.csv"
    begun = WorkFolder(target, {}, kind="file")
    target.write_text("another's")
    with pytest.raises(ConfigError, match="is there already"), begun:
        pass
    target.unlink()
    with pytest.raises(ConfigError, match="is there already"):
        make_late(target)
    table = pa.table({"n": [1]})

    def parts():
        yield table
        (tmp_path / "late.csv").write_text("another's")

    with pytest.raises(ConfigError, match="is there already"):
        write_tables(parts(), table.schema, tmp_path / "late.csv", None)
    assert target.read_text() == (tmp_path / "late.csv").read_text() == "another's"
    with WorkFolder(target, {}, overwrite=True, kind="file") as work:
        assert (work.path / "out.csv").read_text() == "mine"  # made once, and kept
        work.publish(work.path / "out.csv")
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.csv", "out.csv"]


def test_a_run_that_makes_nothing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), WorkFolder(tmp_path / "out", {}):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_are_refused_before_work(tmp_path):
    with pytest.raises(ConfigError, match="/proc cannot be written"):
        local_target("/proc/out.csv", False, "file")
    with pytest.raises(ConfigError, match="file:x reads as a URL"):
        local_target(tmp_path / "file:x", False, "directory")
    when, lists = pa.schema([("t", pa.timestamp("us"))]), pa.schema([("far", pa.list_(pa.float32()))])
    for name in ("o.fits", "o.vot"):
        with pytest.raises(ExportError, match=f"{name}: column 't' holds timestamp"):
            check_output(tmp_path / name, False, when)
        check_output(tmp_path / name, False, lists)
    with pytest.raises(ConfigError, match=r"o\.csv: column 'far' holds list"):
        check_output(tmp_path / "o.csv", False, lists)
    check_output(tmp_path / "o.csv", False, when)
    with pytest.raises(ConfigError, match="1000 columns"):
        check_output(tmp_path / "o.fits", False, pa.schema([(f"c{n}", pa.int8()) for n in range(1000)]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["o.parquet", "o.csv", "o.fits"])
def test_what_a_killed_run_left_beside_a_table_goes_with_the_next_one(tmp_path, name):
    left = [tmp_path / f".{name}.0123456789ab.partial{suffix}" for suffix in ("", ".parquet")]
    other = tmp_path / ".p.csv.0123456789ab.partial"
    for path in (*left, other):
        path.write_text("half")
    write_table(pa.table({"n": [1]}), tmp_path / name, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, name]
