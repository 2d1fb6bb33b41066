"""The integers at the start of the peer's binary files, each checked before any value is used."""

import math
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from skysom.storage.errors import PinkFormatError

Layout = Literal["auto", "cartesian", "hexagonal"]

_LARGEST_SIDE = 1 << 16
_LARGEST_COMMENT = 1 << 20
_END_OF_COMMENT = b"# END OF HEADER\n"
_KINDS = ("data", "SOM", "map", "transform")


def neuron_count(som_dims: Sequence[int], layout: str) -> int:
    """Neurons of a map with the header's dimensions: w*w - r(r+1), r = (w-1)/2, where hexagonal."""
    if layout == "hexagonal":
        radius = (som_dims[0] - 1) // 2
        return som_dims[0] ** 2 - radius * (radius + 1)
    return math.prod(som_dims)


def refuse(path: Path, byte: int, what: str, found: object, expected: object, remedy: str = "") -> NoReturn:
    end = f"; {remedy}" if remedy else ""
    raise PinkFormatError(f"{path}, byte {byte}: {what} is {found}, expected {expected}{end}")


class Header:
    """Reads the integers of a header one after another and checks each."""

    def __init__(self, path: str | Path, kind: int) -> None:
        self.path = Path(path)
        try:
            # Opening a pipe would wait for a writer, and its length cannot be checked.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise PinkFormatError(f"{self.path} cannot be opened (it is not a regular file); give a PINK file")
            self._file: BinaryIO = self.path.open("rb")
        except OSError as error:
            reason = f"cannot be opened ({error.strerror}); give a PINK file"
            raise PinkFormatError(f"{self.path} {reason}") from error
        self.size = os.fstat(self._file.fileno()).st_size
        try:
            self.comment = self._read_comment()
            remedy = "this is not a PINK file, or of another version"
            self.integer("format version", (2,), remedy)
            self.integer("file type", (kind,), f"give a {_KINDS[kind]} file")
        except PinkFormatError:
            self._file.close()
            raise

    def __enter__(self) -> "Header":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def position(self) -> int:
        return self._file.tell()

    def _read_comment(self) -> bytes:
        block = b""
        while self._file.peek(1)[:1] == b"#":  # type: ignore[attr-defined]
            line = self._file.readline(_LARGEST_COMMENT)
            block += line
            if not line.endswith(b"\n") or len(block) > _LARGEST_COMMENT:
                refuse(self.path, self.position, "the comment", "unended", "an end of line within 1 MiB")
            if line == _END_OF_COMMENT:
                break
        return block

    def _next(self, what: str, check: Callable[[int], bool], expected: object, remedy: str = "") -> int:
        byte = self.position
        raw = self._file.read(4)
        if len(raw) < 4:
            expected = f"at least {byte + 4} bytes ({what})"
            refuse(self.path, byte, "the length of the file", self.size, expected)
        value = int.from_bytes(raw, "little", signed=True)
        if not check(value):
            refuse(self.path, byte, f"the {what}", value, expected, remedy)
        return value

    def integer(self, what: str, allowed: tuple[int, ...], remedy: str = "") -> int:
        """The next integer, one of ``allowed``."""
        expected = " or ".join(str(value) for value in allowed)
        return self._next(what, lambda value: value in allowed, expected, remedy)

    def count(self) -> int:
        return self._next("number of images", lambda value: value > 0, "at least 1")

    def _dims(self, what: str, ranks: tuple[int, ...]) -> tuple[int, ...]:
        rank = self.integer(f"number of {what} dimensions", ranks)
        expected = f"1 to {_LARGEST_SIDE}"
        return tuple(
            self._next(f"{what} dimension {i + 1}", lambda value: 0 < value <= _LARGEST_SIDE, expected)
            for i in range(rank)
        )

    def image_dims(self, what: str) -> tuple[int, ...]:
        """(H, W) or (C, H, W) with H = W."""
        dims = self._dims(what, (2, 3))
        if dims[-1] != dims[-2]:
            byte = self.position - 4
            expected = f"{dims[-2]} as the height"
            refuse(self.path, byte, f"the {what} width", dims[-1], expected, "images must be square")
        return dims

    def som_dims(self) -> tuple[int, tuple[int, ...]]:
        """Layout code and dimensions of the map."""
        code = self.integer("map layout", (0, 1))
        return code, self._dims("map", (1, 2, 3))

    def payload(self, *lengths: int) -> None:
        """Refuse a payload that has none of ``lengths`` bytes."""
        found = self.size - self.position
        if found not in lengths:
            byte = self.size if found < min(lengths) else self.position + min(lengths)
            short = "short" if found < min(lengths) else "long"
            expected = " or ".join(str(length) for length in lengths)
            remedy = f"the file is too {short} for its header, write it again"
            refuse(self.path, byte, "the payload", f"{found} bytes", expected, remedy)

    def map_payload(self, code: int, som_dims: tuple[int, ...], layout: Layout, neuron_bytes: int) -> str:
        """Check the payload, ``neuron_bytes`` a neuron, and return the layout of the map."""
        can_be_hexagonal = len(som_dims) == 2 and som_dims[0] == som_dims[1] and som_dims[0] % 2 == 1
        if (layout == "hexagonal" or code == 1) and not can_be_hexagonal:
            expected = "an odd width, equal to the height"
            refuse(self.path, self.position, "the size of the hexagonal map", som_dims, expected)
        cartesian = neuron_bytes * math.prod(som_dims)
        if layout == "cartesian" or not can_be_hexagonal:
            self.payload(cartesian)
            return "cartesian"
        hexagonal = neuron_bytes * neuron_count(som_dims, "hexagonal")
        if layout == "hexagonal" or code == 1:
            self.payload(hexagonal)
            return "hexagonal"
        self.payload(cartesian, hexagonal)
        return "cartesian" if self.size - self.position == cartesian else "hexagonal"
