"""The peer's command line: what it refuses and accepts, and how skysom behaves around it."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from skysom.jobs.errors import ConfigError
from skysom.jobs.pink import main
from skysom.jobs.pink_options import parse
from skysom.storage import pinkfile

SMALL = ("--som-width", "3", "--som-height", "3", "--numrot", "4")
MEANT = {"pbc", "pbc hex"}
"""Refused by the peer, done here."""
MALFORMED = {"trunc", "more entries", "map short som"}
"""Accepted by the peer, which fills in zeros; refused here."""


def images(count=6, side=32, seed=0):
    return np.random.default_rng(seed).random((count, 1, side, side), dtype=np.float32)


def write(path, values, dims=None):
    with pinkfile.data_writer(path, len(values), dims or values.shape[2:]) as writer:
        writer.write(values)


def with_header(*header):
    return struct.pack(f"<{len(header)}i", *header) + images().tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the input files of the recorded calls."""
    monkeypatch.chdir(tmp_path)
    write("img.bin", images())
    whole = (tmp_path / "img.bin").read_bytes()
    files = {
        "d1.bin": with_header(2, 0, 0, 6, 0, 1, 1024),
        "rect.bin": struct.pack("<8i", 2, 0, 0, 6, 0, 2, 20, 24) + bytes(4 * 6 * 480),
        "d4.bin": with_header(2, 0, 0, 6, 0, 4, 1, 1, 32, 32),
        "v1.bin": with_header(1, 0, 0, 6, 0, 2, 32, 32),
        "t1.bin": with_header(2, 1, 0, 6, 0, 2, 32, 32),
        "dt1.bin": with_header(2, 0, 1, 6, 0, 2, 32, 32),
        "n0.bin": with_header(2, 0, 0, 0, 0, 2, 32, 32),
        "hexdata.bin": with_header(2, 0, 0, 6, 1, 2, 32, 32),
        "trunc.bin": whole[:-1000],
        "more.bin": with_header(2, 0, 0, 10, 0, 2, 32, 32),
        "comm.bin": b"# one\n# two\n" + whole,
        "comm2.bin": b"# one\n# END OF HEADER\n" + whole,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert main([*SMALL, "--input-shuffle-off", "--train", "img.bin", "sc1.bin"]) == 0
    return tmp_path


def test_every_recorded_call(shared, folder, capsys):
    cases = json.loads((shared("goldens/pink") / "rejections.json").read_text())["cases"]
    assert len(cases) > 50
    kept = set(folder.iterdir())
    wrong: list[tuple] = []
    for case in cases:
        accepted = (case["returncode"] == 0 or case["name"] in MEANT) and case["name"] not in MALFORMED
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        capsys.readouterr()
        status = main(case["args"])
        told = capsys.readouterr().err
        after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        if status != (0 if accepted else 1) or (after == before) == accepted:
            wrong.append((case["name"], status, told))
        # One sentence of our own, and none of the peer's.
        if not accepted and (told.count("\n") != 1 or (case["message"] and case["message"] in told)):
            wrong.append((case["name"], told))
        for path in set(after) - kept:
            path.unlink()
    assert wrong == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--train img.bin s.bin --map img.bin m.bin sc1.bin", "both were given"),
        ("--train img.bin no/s.bin", "no/s.bin cannot be written; give a file in an existing directory"),
        ("--train img.bin .", ". cannot be written"),
        ("--train img.bin img.bin", "img.bin is an input and an output"),
        ("--map img.bin m.bin sc1.bin --store-rot-flip m.bin", "are both m.bin"),
        ("--map img.bin m.bin sc1.bin --som-width 4", "holds a cartesian map of 3x3 neurons"),
        ("--map img.bin m.bin sc1.bin -d 40", "(1, 46, 46); the options and images ask for cartesian, 3x3, (1, 40"),
        ("--map img.bin m.bin sc1.bin --layout hexagonal", "ask for hexagonal, 3x3"),
        ("--map img.bin m.bin img.bin", "the file type is 0, expected 1; give a SOM file"),
        ("--train img.bin s.bin --init img.bin", "the file type is 0, expected 1"),
        ("--train img.bin s.bin --num 8x", "ambiguous"),
        ("--train img.bin s.bin --numrot 8x", "8x is not a whole number"),
        ("--train img.bin s.bin --dist-func gaussian 1 x", "DAMPING is x; use a number"),
        ("--train img.bin s.bin --dist-func gaussian 0 0.1", "sigma must be positive"),
        ("--train img.bin s.bin --progress 71 --num-iter 20", "--progress is 71 for 120 images; use at most 70"),
        ("--train img.bin s.bin --som-width 60000 --som-height 60000 -x random", "GB of memory, this machine has"),
        ("--train img.bin s.bin --som-width 2147483647", "6442450941 neurons of side 46 and 8 transforms need"),
        ("--train img.bin s.bin --neuron-dimension 2147483647", "9 neurons of side 2147483647"),
        ("--train img.bin s.bin --numrot 40000000", "80000000 transforms need at least"),
        ("--map img.bin m.bin sc1.bin --numrot 40000000", "80000000 transforms need at least"),
        ("--train img_0.bin img.bin --inter-store keep", "img_0.bin is an input and an output; --inter-store keep"),
        ("--train img.bin s.bin --init s_3.bin --inter-store keep", "s_3.bin is an input and an output"),
        ("--train img.bin d.bin --inter-store keep", "d_1.bin cannot be written"),
        ("--train pipe.bin s.bin", "pipe.bin cannot be opened (it is not a regular file)"),
        ("--map img.bin m.bin pipe.bin", "pipe.bin cannot be opened (it is not a regular file)"),
        ("--map img.bin m.bin nan.bin", "neuron 4, channel 0, row 7, column 9 is nan, expected a finite number"),
        ("--train img.bin s.bin --init nan.bin", "neuron 4, channel 0, row 7, column 9 is nan"),
        ("--train img.bin a.b/s --inter-store keep", "before the suffix"),
        ("--train img.bin s.bin -f mexicanhat 1.5 5000 --num-iter 40", "use a smaller damping"),
    ],
)  # fmt: skip
def test_what_else_is_refused(folder, capsys, arguments, message):
    (folder / "a.b").mkdir()
    (folder / "d_1.bin").mkdir()
    os.mkfifo(folder / "pipe.bin")
    shutil.copy("img.bin", "img_0.bin")
    shutil.copy("sc1.bin", "s_3.bin")
    weights = pinkfile.open_som("sc1.bin").read()
    weights[4, 0, 7, 9] = np.nan
    pinkfile.write_som("nan.bin", weights, (3, 3), (46, 46))
    before = contents(folder)
    assert main([*SMALL, *arguments.split()]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("skysom pink: ")
    assert message in told
    assert contents(folder) == before


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def options_of(arguments):
    options = parse(arguments.split())
    assert options is not None
    return options


def test_options_have_the_peers_defaults_and_short_names(folder):
    options = options_of("--train a b.bin")
    assert (options.width, options.height, options.depth, options.layout) == (10, 10, 1, "cartesian")
    assert (options.rotations, options.flip, options.region, options.initial) == (
        360,
        True,
        "quadratic",
        "zero",
    )
    assert (options.kind, options.sigma, options.rate, options.seed) == ("gaussian", 1.1, 0.2, 1234)
    assert (options.iterations, options.progress, options.shuffle, options.store) == (1, 10, True, "off")
    assert (options.neuron_side, options.region_side, options.max_update_distance) == (None, None, None)
    short = options_of(
        "-d 20 -f MexicanHat 1.5 0.1 -l Hexagonal -n 8 -p 7 -s 5 -t 2 -x RANDOM --train a b "
        "--som-w 5 --som-h 5 --euclidean-distance-d 9 --max-upd 2"
    )
    assert (short.neuron_side, short.kind, short.sigma, short.rate) == (20, "mexican_hat", 1.5, 0.1)
    assert (short.layout, short.rotations, short.progress, short.seed) == ("hexagonal", 8, 7, 5)
    assert (short.threads, short.initial, short.width, short.height) == (2, "random", 5, 5)
    assert (short.region_side, short.max_update_distance) == (9, 2.0)


def test_options_may_follow_the_files_and_the_last_one_counts():
    options = options_of("--train a.bin b.bin extra -n 4 --numrot 8 more --init some.bin")
    assert (options.data.name, options.result.name, options.rotations) == ("a.bin", "b.bin", 8)
    assert (options.initial, str(options.initial_file)) == (None, "some.bin")


def test_a_dash_is_never_a_file_name():
    for arguments in ("--train a.bin -b.bin", "--map a.bin b.bin", "--train=a.bin b.bin"):
        with pytest.raises(ConfigError, match="expected"):
            parse(arguments.split())


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "--store-rot-flip" in capsys.readouterr().out
    assert main(["-v"]) == 0
    assert capsys.readouterr().out.startswith("skysom ")


def test_progress_is_told_in_plain_lines(folder, capsys):
    assert main([*SMALL, "--verbose", "--progress", "3", "--train", "img.bin", "s.bin"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == "6 images of side 32, neurons of side 46, quadratic region of side 22, 8 transforms"
    # After 3 and 5 images, where the peer tells, and at the end.
    assert [line.split(",")[0] for line in lines[1:]] == [f"{n} of 6 images" for n in (3, 5, 6)]
    assert all(line.endswith("s left") and "images/s" in line for line in lines[1:])


def test_nan_is_counted_in_mapping_and_refused_in_training(folder, capsys):
    spoiled = images(40)
    spoiled[33, 0, 16, 16] = np.nan
    write("nan.bin", spoiled)
    assert main([*SMALL, "--map", "nan.bin", "m.bin", "sc1.bin", "--store-rot-flip", "t.bin"]) == 0
    assert "1 of 40 images have not finite distances" in capsys.readouterr().err
    distance = pinkfile.open_map("m.bin").read(0, 40)
    np.testing.assert_array_equal(np.isnan(distance).all(axis=1), np.arange(40) == 33)
    assert not np.isnan(distance[:33]).any()
    assert main([*SMALL, "--train", "nan.bin", "s.bin"]) == 1
    assert "image 33 of nan.bin has pixels that are not finite" in capsys.readouterr().err
    assert not (folder / "s.bin").exists()


def test_values_that_overflow_are_counted_without_warnings(folder, capfd):
    large = images(40)
    large[5] *= 1e30
    large[33] *= 3e38
    write("large.bin", large)
    assert main([*SMALL, "--map", "large.bin", "m.bin", "sc1.bin"]) == 0
    told = capfd.readouterr().err
    assert "2 of 40 images have not finite distances" in told
    assert "squares overflow" in told
    assert "Warning" not in told
    finite = np.isfinite(pinkfile.open_map("m.bin").read(0, 40)).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(~finite), [5, 33])


def test_results_do_not_depend_on_threads(folder):
    write("many.bin", images(150))
    for threads in "13":
        out = [f"m{threads}.bin", "sc1.bin", "--store-rot-flip", f"t{threads}.bin"]
        assert main([*SMALL, "-t", threads, "--map", "many.bin", *out]) == 0
        assert main([*SMALL, "-t", threads, "-x", "random", "--train", "many.bin", f"s{threads}.bin"]) == 0
    for name in "mts":
        assert (folder / f"{name}1.bin").read_bytes() == (folder / f"{name}3.bin").read_bytes()


def test_rows_of_a_map_do_not_depend_on_the_other_images(folder):
    write("all.bin", images(70))
    write("some.bin", images(70)[64:])
    for name in ("all", "some"):
        assert main([*SMALL, "--map", f"{name}.bin", f"m_{name}.bin", "sc1.bin"]) == 0
    np.testing.assert_array_equal(
        pinkfile.open_map("m_all.bin").read(64, 70), pinkfile.open_map("m_some.bin").read(0, 6)
    )


def test_memory_does_not_grow_with_the_number_of_images(folder):
    peaks = []
    for count in (64, 64, 960):
        write("many.bin", images(count))
        tracemalloc.start()
        assert main([*SMALL, "-t", "2", "--map", "many.bin", "m.bin", "sc1.bin", "--store-rot-flip", "t.bin"]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 896 more images are 3.7 MB; a few blocks run ahead.
    assert peaks[2] < peaks[1] + 1.5e6


def test_a_training_that_goes_on_equals_one_of_two_passes(folder):
    options = [*SMALL, "--input-shuffle-off"]
    assert main([*options, "--num-iter", "2", "--init", "sc1.bin", "--train", "img.bin", "two.bin"]) == 0
    assert main([*options, "--init", "sc1.bin", "--train", "img.bin", "one.bin"]) == 0
    assert main([*options, "--init", "one.bin", "--train", "img.bin", "one.bin"]) == 0
    assert (folder / "one.bin").read_bytes() == (folder / "two.bin").read_bytes()


def test_overwrite_leaves_only_the_last_map(folder):
    before = set(folder.iterdir())
    options = [*SMALL, "-x", "random", "--train", "img.bin"]
    assert main([*options, "plain.bin"]) == 0
    assert main([*options, "s.bin", "--inter-store", "overwrite"]) == 0
    assert set(folder.iterdir()) - before == {folder / "plain.bin", folder / "s.bin"}
    assert (folder / "s.bin").read_bytes() == (folder / "plain.bin").read_bytes()


PROGRAM = """
import sys
from skysom.jobs.pink import main
assert main(sys.argv[1:]) == 0
print(*{"ray", "psutil", "numba", "pandas", "zarr", "astropy", "matplotlib", "dask"} & set(sys.modules))
"""


def run(*arguments):
    """Last line that a fresh interpreter prints: the heavy libraries it imported."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_it_starts_within_a_second():
    def cpu_seconds():  # of children: what others do meanwhile does not count
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    seconds = []
    for _ in range(3):
        start = cpu_seconds()
        assert run("--version") == ""
        seconds.append(cpu_seconds() - start)
    assert min(seconds) < 1


def test_it_works_without_the_heavy_libraries(folder):
    needed = {"psutil", "numba"}
    assert set(run(*SMALL, "--map", "img.bin", "m.bin", "sc1.bin").split()) == needed
    assert set(run(*SMALL, "--train", "img.bin", "s.bin").split()) == needed
