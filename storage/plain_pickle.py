"""Pickles read as data: numbers, texts, lists, dictionaries and plain numpy arrays, and nothing is ever executed.

`read_pickle` does not use the unpickler. It walks the opcodes with `pickletools` and carries out those few that such
data needs itself; no name is imported, no object of a named class is made (an `Instance` holds its state), no function
is called. An array is a view of the bytes in the file, so nothing is allocated that the file did not bring. Refused
are other opcodes and names, nesting beyond `MAX_DEPTH`, containers changed after they were stored (so cycles cannot
be), contents that references multiply beyond `MAX_VALUES`, and more than `MAX_OPCODES` opcodes.
"""

import math
import pickletools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_DEPTH = 8
MAX_OPCODES, MAX_VALUES = 2_000_000, 2_000_000
MAX_TEXT_BYTES = 65_536
DTYPES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))
_ARRAYS = {
    f"{core} {name}": meaning
    for core in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
    for name, meaning in (("_reconstruct", "shell"), ("scalar", "scalar"), ("_frombuffer", "buffer"))
    if (meaning == "buffer") == core.endswith("numeric")
}
GLOBALS: Mapping[str, str] = _ARRAYS | {
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "collections defaultdict": "defaultdict",
    "collections OrderedDict": "OrderedDict",
    "builtins list": "list",
}
"""The names a pickle may mention, and what they mean here."""


class PickleRefused(ValueError):
    """A pickle that holds more than data, is damaged, or is too much; the message says what and at which byte."""


@dataclass(eq=False)
class Instance:
    """An object of the class that was allowed by name: its state and nothing else."""

    name: str
    state: dict[Any, Any] | None = None


@dataclass(frozen=True)
class _Name:
    """A global that was mentioned."""

    meaning: str


@dataclass(eq=False)
class _Dtype:
    code: str
    order: str = "="


@dataclass(eq=False)
class _Shell:
    """An array before its state is there."""

    array: np.ndarray | None = None


@dataclass
class _Machine:
    """The stack, the memo, and what is known about every container."""

    classes: frozenset[str]
    position: int = 0
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    weights: dict[int, tuple[int, int]] = field(default_factory=dict)  # of containers by id: depth, values inside
    kept: list[Any] = field(default_factory=list)  # so that no id is used twice
    stored: set[int] = field(default_factory=set)

    # --- the stack ---

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleRefused("the stack is empty")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise PickleRefused("a mark is missing")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    # --- containers ---

    def new(self, container: Any) -> Any:
        self.kept.append(container)
        self.weights[id(container)] = (1, 1)
        return container

    def hold(self, container: Any, children: Iterable[Any]) -> list[Any]:
        """``children`` as they are to be stored in ``container``, whose depth and size grow with them."""
        depth, size = self.weights[id(container)]
        held = []
        for child in children:
            value = child.array if isinstance(child, _Shell) else child
            if (value is None and isinstance(child, _Shell)) or (isinstance(child, Instance) and child.state is None):
                raise PickleRefused("an object is stored before its content is there")
            inner_depth, inner_size = self.weights.get(id(value), (0, 1))
            depth, size = max(depth, inner_depth + 1), size + inner_size
            if id(value) in self.weights:
                self.stored.add(id(value))
            held.append(value)
        if depth > MAX_DEPTH:
            raise PickleRefused(f"values are nested deeper than {MAX_DEPTH} levels")
        if size > MAX_VALUES:
            raise PickleRefused(f"references multiply its values beyond {MAX_VALUES}")
        if id(container) in self.stored:
            raise PickleRefused("a container is changed after it was stored in another one, or holds itself")
        self.weights[id(container)] = (depth, size)
        return held

    def tuple_of(self, items: Sequence[Any]) -> tuple[Any, ...]:
        made = self.new([])
        result = tuple(self.hold(made, items))
        self.kept.append(result)
        if result:  # the empty one is shared by the whole process
            self.weights[id(result)] = self.weights[id(made)]
        return result

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleRefused("pairs are set in what is no dictionary")
        for key in items[::2]:
            parts = key if isinstance(key, tuple) else (key,)
            if not all(isinstance(part, int | str) for part in parts):
                raise PickleRefused("a dictionary has keys that are no numbers, texts or tuples of these")
        held = self.hold(target, items)
        target.update(zip(held[::2], held[1::2], strict=True))

    def append_items(self, items: Sequence[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise PickleRefused("items are appended to what is no list")
        target.extend(self.hold(target, items))

    # --- what stands for calls ---

    def mention(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleRefused("a global is named by what is no text")
        full = f"{module} {name}"
        meaning = full if full in self.classes else GLOBALS.get(full)
        if meaning is None:
            raise PickleRefused(f"it mentions {f'{module}.{name}'[:200]!r}, which such a file does not need")
        self.stack.append(_Name(meaning))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, _Name):
            raise PickleRefused("it calls what is no name of the list")
        match function.meaning, arguments:
            case "shell", (_Name("ndarray"), (0,), b"b"):
                self.stack.append(_Shell())
            case "dtype", (str(code), False, True) if code in DTYPES:
                self.stack.append(self.new(_Dtype(code)))
            case "scalar", (_Dtype() as dtype, bytes(raw)):
                self.stack.append(_array(dtype, (), raw, "C").item())
            case "buffer", (bytes() | bytearray() as raw, _Dtype() as dtype, tuple(shape), "C" | "F" as order):
                self.stack.append(_array(dtype, shape, bytes(raw), order))
            case ("defaultdict", (_Name("list"),)) | ("OrderedDict", ()):
                self.stack.append(self.new({}))
            case _:
                raise PickleRefused(f"it calls {function.meaning!r} with other arguments than plain arrays have")

    def new_object(self) -> None:
        arguments, named = self.pop(), self.pop()
        if not isinstance(named, _Name) or named.meaning not in self.classes or arguments != ():
            raise PickleRefused("it makes an object of a class that such a file does not need")
        self.stack.append(self.new(Instance(named.meaning)))

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Instance) and target.state is None and isinstance(state, dict):
            (target.state,) = self.hold(target, [state])
            return
        match target, state:
            case _Shell(array=None), (1, tuple(shape), _Dtype() as dtype, bool(fortran), bytes(raw)):
                target.array = _array(dtype, shape, raw, "F" if fortran else "C")
            case _Dtype(order="="), (3, "<" | ">" | "|" | "=" as order, None, None, None, -1, -1, 0):
                target.order = order
            case _:
                raise PickleRefused("it sets a state that plain arrays and annotations do not have")


def _array(dtype: _Dtype, shape: tuple[Any, ...], raw: bytes, order: Any) -> np.ndarray:
    if not all(type(length) is int and 0 <= length < 2**31 for length in shape) or len(shape) > 8:
        raise PickleRefused(f"an array has the shape {shape!r}"[:200])
    kind = np.dtype(dtype.order + dtype.code)
    if math.prod(shape) * kind.itemsize != len(raw):
        raise PickleRefused(f"an array of shape {shape} and type {kind} has {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(shape, order=order)


def _text(machine: _Machine, value: str) -> None:
    if len(value) > MAX_TEXT_BYTES:
        raise PickleRefused(f"it has a text of {len(value)} characters")
    machine.stack.append(value)


def _integer(machine: _Machine, value: int) -> None:
    if not -(2**63) <= value < 2**64:
        raise PickleRefused("it has an integer of more than 64 bits")
    machine.stack.append(value)


def _remember(machine: _Machine, key: int) -> None:
    machine.memo[key] = machine.top()


def _recall(machine: _Machine, key: int) -> None:
    if key not in machine.memo:
        raise PickleRefused(f"it refers to value {key}, which is not there")
    machine.stack.append(machine.memo[key])


def _last(machine: _Machine, count: int) -> None:
    machine.stack.append(machine.tuple_of([machine.pop() for _ in range(count)][::-1]))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.mention(module, name)


_push: Callable[[_Machine, Any], None] = lambda machine, value: machine.stack.append(value)  # noqa: E731

OPCODES: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, value: None,
    "FRAME": lambda machine, value: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    **dict.fromkeys(("BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _integer),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), _text),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _recall),
    "MEMOIZE": lambda machine, _: _remember(machine, len(machine.memo)),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_LIST": lambda machine, _: machine.stack.append(machine.new([])),
    "EMPTY_DICT": lambda machine, _: machine.stack.append(machine.new({})),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": lambda machine, _: _last(machine, 1),
    "TUPLE2": lambda machine, _: _last(machine, 2),
    "TUPLE3": lambda machine, _: _last(machine, 3),
    "TUPLE": lambda machine, _: machine.stack.append(machine.tuple_of(machine.pop_to_mark())),
    "APPEND": lambda machine, _: machine.append_items([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append_items(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, value: machine.mention(*str(value).split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.new_object(),
    "BUILD": lambda machine, _: machine.build(),
}
"""What may stand in a pickle of protocol 3, 4 or 5, and what it does to the machine."""


def read_pickle(data: bytes, classes: Iterable[str] = ()) -> Any:
    """The value a pickle holds; objects of ``classes`` ("module name") become `Instance`. Nothing is executed.

    Arrays are read-only views of ``data``; numpy scalars become Python numbers, default and ordered dictionaries plain.

    Raises
    ------
    PickleRefused : anything else than data, a damaged or truncated pickle, or one beyond the limits.
    """
    machine = _Machine(frozenset(classes))
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            machine.position = int(position or 0)
            if count >= MAX_OPCODES:
                raise PickleRefused(f"it has more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                break
            if opcode.name not in OPCODES:
                raise PickleRefused(f"the opcode {opcode.name} has no place in a file of data")
            OPCODES[opcode.name](machine, argument)
        if machine.position + 1 != len(data):
            raise PickleRefused(f"{len(data) - machine.position - 1} bytes follow its end")
        if len(machine.stack) != 1 or machine.marks:
            raise PickleRefused("it does not end with one value")
        return machine.hold(machine.new([]), machine.stack)[0]
    except PickleRefused as error:
        raise PickleRefused(f"byte {machine.position}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError) as error:
        raise PickleRefused(f"after byte {machine.position} it is damaged or truncated ({error})"[:300]) from None
