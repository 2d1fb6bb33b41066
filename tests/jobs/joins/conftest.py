"""Joins that are killed in the middle."""

from contextlib import contextmanager

import pytest


@pytest.fixture
def killed_after(monkeypatch):
    """A context in which a join is killed after ``count`` written partitions; gives the paths of all it tried."""
    from skysom.jobs.joins import lsdb_write

    @contextmanager
    def killed_after(count):
        write, tried = lsdb_write.write_atomically, []

        def killed(path, data):
            tried.append(path)
            if len(tried) > count:
                raise KeyboardInterrupt
            write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(lsdb_write, "write_atomically", killed)
            with pytest.raises(KeyboardInterrupt):
                yield tried

    return killed_after
