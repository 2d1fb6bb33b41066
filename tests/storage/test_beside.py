"""Hidden files beside those they become: a name of its own each, and none is left for ever."""

from skysom.storage.beside import hidden_beside
from skysom.storage.table_export import new_file


def test_two_runs_that_write_one_file_do_not_mix_and_the_last_is_kept(tmp_path):
    target = tmp_path / "o.fits"
    with new_file(target, True) as first:
        first.write(b"A" * 5)
        first.flush()
        with new_file(target, True) as second:
            second.write(b"B" * 3)
        assert target.read_bytes() == b"BBB"
        first.write(b"A" * 5)
    assert target.read_bytes() == b"A" * 10
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_killed_runs_go_and_those_of_living_ones_stay(tmp_path):
    target = tmp_path / "o.csv"
    left = tmp_path / ".o.csv.0123456789ab.partial.parquet"
    left.write_text("half")
    with hidden_beside(target) as living:
        living.write_text("half")
        with hidden_beside(target, ".parquet") as other:
            assert sorted(tmp_path.iterdir()) == sorted([living, other])
        assert list(tmp_path.iterdir()) == [living]
    assert list(tmp_path.iterdir()) == []
