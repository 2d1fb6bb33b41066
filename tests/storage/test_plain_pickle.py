"""Pickles read as data: what the unpickler gives for data; for the rest a refusal, and nothing executed."""

import collections
import copyreg
import io
import os
import pickle
import pickletools
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skysom.storage import plain_pickle
from skysom.storage.plain_pickle import DTYPES, MAX_DEPTH, Instance, PickleRefused, read_pickle

DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers().filter(lambda i: abs(i) < 2**63) | st.text(), inner, max_size=4)
    ),
    max_leaves=20,
).filter(lambda value: depth(value) < MAX_DEPTH)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list | tuple) else 0


@settings(deadline=None, max_examples=100)
@given(value=DATA, protocol=st.sampled_from([3, 4, 5]))
def test_data_is_what_was_pickled(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


@settings(deadline=None, max_examples=60)
@given(
    array=st.sampled_from(sorted(DTYPES)).flatmap(
        lambda code: arrays(np.dtype(code), array_shapes(min_dims=0, max_dims=4, max_side=4))
    ),
    protocol=st.sampled_from([3, 4, 5]),
    change=st.sampled_from(
        [np.asarray, np.asfortranarray, lambda a: a.astype(a.dtype.newbyteorder(">")), np.transpose]
    ),
)
def test_arrays_and_their_scalars_are_what_was_pickled(array, protocol, change):
    array = change(array)
    found = read_pickle(pickle.dumps({"a": array, "again": array}, protocol))
    assert found["a"] is found["again"]
    assert found["a"].dtype == array.dtype
    assert np.array_equal(found["a"], array, equal_nan=array.dtype.kind == "f")
    if array.size:
        scalar = array.ravel()[0]
        got = read_pickle(pickle.dumps([scalar], protocol))[0]
        assert got == scalar or (got != got and scalar != scalar)
        assert type(got) in (int, float, bool)


def test_kinds_of_dictionary_and_allowed_classes():
    default = collections.defaultdict(list, {1: [2]})
    assert read_pickle(pickle.dumps([default, collections.OrderedDict(a=1)])) == [{1: [2]}, {"a": 1}]
    found = read_pickle(pickle.dumps([pytest_object(7)]), [f"{__name__} Thing"])[0]
    assert isinstance(found, Instance)
    assert found.state == {"number": 7}
    with pytest.raises(PickleRefused, match="Thing"):
        read_pickle(pickle.dumps([pytest_object(7)]))


class Thing:
    """An object that a pickle may hold, if its class is allowed."""


def pytest_object(number):
    made = Thing()
    made.number = number
    return made


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


MALICIOUS = {
    "os.system": lambda path: Calls(os.system, f"touch {path}"),
    "eval": lambda path: Calls(eval, f"open({str(path)!r}, 'w')"),
    "exec": lambda path: Calls(exec, f"open({str(path)!r}, 'w')"),
    "open": lambda path: Calls(open, str(path), "w"),
    "popen": lambda path: Calls(subprocess.Popen, ["touch", str(path)]),
    "getattr": lambda path: Calls(getattr, os.path.join, "__globals__"),
    "a module": lambda path: Calls(__import__, "antigravity"),
    "numpy": lambda path: Calls(np.memmap, str(path), "u1", "w+", 0, (4,)),
    "a reconstructor": lambda path: Calls(copyreg._reconstructor, Thing, object, None),
    "another class": lambda path: pytest_object(1),
    "objects in an array": lambda path: np.array([Calls(os.system, f"touch {path}")], object),
    "an object scalar": lambda path: Calls(
        np._core.multiarray.scalar, np.dtype("O"), Calls(os.system, f"touch {path}")
    ),
    "a structured type": lambda path: np.zeros(2, [("a", "i4")]),
    "texts in an array": lambda path: np.array(["a"]),
    "an exception": lambda path: ValueError("x"),
    "a set": lambda path: {1, 2},
    "a defaultdict of calls": lambda path: collections.defaultdict(os.getcwd),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("case", MALICIOUS)
def test_what_is_more_than_data_is_refused_and_not_executed(tmp_path, case, protocol):
    trap = tmp_path / "trap"
    data = pickle.dumps({"a": [MALICIOUS[case](trap)]}, protocol)
    before = set(sys.modules)
    with pytest.raises(PickleRefused, match=r"^(after )?byte \d+"):
        read_pickle(data, ["pyink.annotator Annotation"])
    assert not trap.exists()
    assert "antigravity" not in set(sys.modules) - before


def test_the_class_that_is_allowed_is_not_imported_and_takes_no_arguments():
    name = ["pyink.annotator Annotation"]
    assert read_pickle(b"\x80\x03cpyink.annotator\nAnnotation\n)\x81}b.", name).state == {}
    assert "pyink" not in sys.modules
    for body in (b"(K\x01t\x81}b.", b"(K\x01tR.", b")R.", b")\x81."):
        with pytest.raises(PickleRefused):
            read_pickle(b"\x80\x03cpyink.annotator\nAnnotation\n" + body, name)


def short(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


SHELL = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
INT8 = b"cnumpy\ndtype\n" + short("i1") + b"\x89\x88\x87R"
OBJECT = b"cnumpy\ndtype\n" + short("O8") + b"\x89\x88\x87R"


def state_of(shape, kind=INT8, raw=b"C\x02ab"):
    return b"(K\x01" + shape + kind + b"\x89" + raw + b"tb"


BOMBS = {
    "nested lists": b"]" * 10_000 + b"a" * 9_999,
    "nested tuples": b")" + b"\x85" * 100_000,
    "nested tuples as a key": b"})" + b"\x85" * 7 + b"Ns",
    "nested dictionaries": b"}" + b"K\x01}" * 20 + b"s" * 20,
    "a list in itself": b"]q\x00h\x00a",
    "a cycle of two": b"]q\x00]q\x01h\x00ah\x01a",
    "a list changed later": b"]q\x00]q\x01h\x00ah\x00K\x01a",
    "billion laughs": b"]q\x00" + b"(" + b"K\x01" * 100 + b"e" + b"".join(
        b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 100 + b"e" for level in range(1, 7)),
    "an array that is not there": SHELL,
    "an array built twice": SHELL + b"q\x00" + state_of(b"K\x02\x85") + state_of(b"K\x02\x85"),
    "an array of objects": SHELL + state_of(b"K\x02\x85", OBJECT),
    "an array beyond its bytes": SHELL + state_of(b"J\xff\xff\xff\x7f\x85"),
    "an array of negative sides": SHELL + state_of(b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"),
    "an array of true sides": SHELL + state_of(b"\x88K\x02\x86"),
    "a huge number of axes": SHELL + state_of(b"(" + b"K\x01" * 60 + b"K\x02t"),
    "an array of a list of objects": SHELL + state_of(b"K\x00\x85", INT8, b"]"),
    "a shell of another class": SHELL.replace(b"cnumpy\nndarray", b"cbuiltins\nlist"),
    "a huge integer": b"\x8b\x00\x00\x00\x10" + b"\xff" * 64,
    "a long integer": b"\x8a\x20" + b"\x7f" * 32,
    "a huge text": short("a" * 70_000),
    "a text beyond the end": b"X\xff\xff\xff\x7fa",
    "bytes beyond the end": b"\x8e" + b"\xff" * 7 + b"\x7fa",
    "a frame beyond the end": b"\x95" + b"\xff" * 7 + b"\x7f",
    "a value that is not remembered": b"h\x05",
    "a huge place in the memo": b"Nr\xff\xff\xff\xffj\x00\x00\x00\x00",
    "an empty stack": b"R",
    "a missing mark": b"Nt",
    "a pop under a mark": b"K\x01(\x85",
    "a persistent name": b"Px\n",
    "a registered extension": b"\x82\x01",
    "an instance of old": b"(ios\nsystem\n",
    "a buffer from outside": b"\x97",
    "no value": b"",
    "two values": b"NN",
    "an open mark": b"N(",
    "pairs in a list": b"]NNs",
    "an item in a dictionary": b"}Na",
    "an array as a key": b"}" + SHELL + state_of(b"K\x02\x85") + b"Ns",
    "half a pair": b"}(Nu",
    "a global of numbers": b"NN\x93",
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_and_nonsense_are_refused(case):
    data = b"\x80\x05" + BOMBS[case] + b"."
    with pytest.raises(PickleRefused, match=r"^(after )?byte \d+"):
        read_pickle(data)


def test_a_pickle_of_too_many_opcodes_and_one_with_a_tail_are_refused(monkeypatch):
    with pytest.raises(PickleRefused, match="3 bytes follow"):
        read_pickle(b"N.abc")
    monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 100)
    with pytest.raises(PickleRefused, match="more than 100 opcodes"):
        read_pickle(pickle.dumps(list(range(200))))


def test_references_do_not_multiply():
    """What is stored a thousand times is the same list, not a thousand lists."""
    row = list(range(100))
    found = read_pickle(pickle.dumps([row] * 1000))
    assert all(item is found[0] for item in found)


def test_broken_files_are_refused_or_read_as_data():
    """Truncated anywhere, and with bytes changed at random: no other error, and nothing but data."""
    kept = {"a": [np.arange(6.0).reshape(2, 3), np.int64(3)], (1, 2): collections.defaultdict(list), "b": ["x", 2.5]}
    whole, pick = pickle.dumps(kept, 4), random.Random(4)
    for stop in range(len(whole)):
        with pytest.raises(PickleRefused):
            read_pickle(whole[:stop])
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(pick.randint(1, 4)):
            data[pick.randrange(len(data))] = pick.randrange(256)
        try:
            read_pickle(bytes(data))
        except PickleRefused:
            continue


def test_arrays_are_views_of_the_file():
    found = read_pickle(pickle.dumps([np.arange(10)]))[0]
    assert not found.flags.writeable
    assert found.base is not None
    assert not any(op.name == "EXT1" for op, _, _ in pickletools.genops(io.BytesIO(pickle.dumps([1]))))
