"""CSV in parts: a first reading learns the type of every column from all values, later ones give Arrow tables."""

import csv
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from skysom.storage.catalogue import open_unpacked
from skysom.storage.errors import CatalogueError
from skysom.storage.place import Place
from skysom.storage.table_stream import TableStream

BLOCK_BYTES = 2**24
"""Text that is read at once."""
HEADER_BYTES = 2**16
"""Text in which the header is looked for first."""

MISSING = sorted(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""Values that are missing ones, as pandas has them."""
TRUE, FALSE = ("True", "TRUE", "true"), ("False", "FALSE", "false")

_KINDS = ("bool", "int64", "uint64", "float64", "string")
"""Types a column may have; one that does not hold a value gives way to the next."""


@dataclass
class _Column:
    """What the values of a column have shown so far.

    kind : the first of `_KINDS` that holds them, "" before any. zeros : a whole number begins with a zero. negative,
    plus : one has that sign. fraction : some are no whole numbers.
    """

    kind: str = ""
    zeros: bool = False
    negative: bool = False
    plus: bool = False
    fraction: bool = False

    @property
    def type(self) -> pa.DataType:
        names = self.zeros and self.kind in ("int64", "uint64")  # 007
        large = (self.kind == "uint64" and self.negative) or (self.kind == "float64" and not self.fraction)
        return pa.type_for_alias("string" if names or large or not self.kind else self.kind)

    def see(self, values: pa.ChunkedArray) -> None:
        """Learn from more values."""
        if self.kind == "string":
            return
        values = pc.utf8_trim_whitespace(values.drop_null())
        if not len(values):
            return
        if self.kind in ("", "bool"):
            if pc.all(pc.is_in(values, value_set=pa.array([*TRUE, *FALSE]))).as_py():
                self.kind = "bool"
                return
            self.kind = "string" if self.kind else "int64"
        self.zeros = self.zeros or _any(values, r"^[+-]?0[\dxX]")
        self.negative = self.negative or _any(values, "^-")
        self.plus = self.plus or _any(values, r"^\+\d+$")
        self.fraction = self.fraction or _any(values, r"[^\d+-]")
        values = _without_plus(values)
        self.kind = next(kind for kind in _KINDS[_KINDS.index(self.kind) :] if _holds(kind, values))


def _any(values: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(values, pattern)).as_py())


def _without_plus(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(pc.utf8_trim_whitespace(values), r"^\+", "")


def _holds(kind: str, values: pa.ChunkedArray) -> bool:
    try:
        values.cast(pa.type_for_alias(kind))
    except pa.ArrowInvalid:
        return False
    return True


def open_csv(path: Place) -> TableStream:
    """Learn the columns and types of a CSV file, gzipped or not, by reading all of it.

    Whole numbers with missing values stay whole. Numbers that begin with a zero are text, as 007 is a name.

    Raises
    ------
    CatalogueError : binary, empty, a comment before the header, not separated by commas, a row of another length, or
        two columns of one name.
    """
    names, lines = _header(path)
    columns = {name: _Column() for name in names}
    rows = size = 0
    for block in _blocks(path, names, lines, dict.fromkeys(names, pa.string())):
        rows, size = rows + len(block), size + block.nbytes
        for name, column in columns.items():
            column.see(block[name])
    types = {name: column.type for name, column in columns.items()}
    signed = {name for name, column in columns.items() if column.plus and pa.types.is_integer(types[name])}
    schema = pa.schema(types.items())

    def read(wanted: list[str], part_rows: int) -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        texts = types | dict.fromkeys(signed, pa.string())
        for block in _blocks(path, names, lines, texts, wanted):
            for name in signed.intersection(wanted):  # Arrow reads no sign of whole numbers
                number = wanted.index(name)
                block = block.set_column(number, name, _without_plus(block[name]).cast(types[name]))
            waiting.append(block)
            if sum(map(len, waiting)) >= part_rows:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    return TableStream(path, schema, rows, size, read)


def _blocks(
    path: Place, names: list[str], lines: int, types: dict[str, pa.DataType], columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The rows after the first ``lines`` lines, in blocks."""
    from pyarrow import csv as arrow_csv

    convert = arrow_csv.ConvertOptions(
        column_types=types,
        null_values=MISSING,
        true_values=TRUE,
        false_values=FALSE,
        strings_can_be_null=True,
        include_columns=columns,
    )
    read = arrow_csv.ReadOptions(column_names=names, skip_rows=lines, block_size=BLOCK_BYTES, use_threads=False)
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    with ExitStack() as stack:
        stream = _arrow_text(path, stack)
        try:
            reader = arrow_csv.open_csv(stream, read_options=read, parse_options=parse, convert_options=convert)
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return
            raise
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _header(path: Place) -> tuple[list[str], int]:
    """Names of the columns, and how many lines there are up to the end of the header."""
    header, lines, first, after = _header_row(path)
    if len(header) == 1 and re.search(r"[;\t|]", first):
        raise CatalogueError(f"{path} is not separated by commas (it begins {first[:60]!r}); save it as CSV")
    if first.startswith("#") and after and (after[0].startswith("#") or len(after) != len(header)):
        raise CatalogueError(f"{path} begins with a comment ({first[:60]!r}); remove what stands before the header")
    names = [name or f"Unnamed: {number}" for number, name in enumerate(header)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CatalogueError(f"{path} has more than one column named {', '.join(map(repr, twice))}; rename one of each")
    return names, lines


def _header_row(path: Place) -> tuple[list[str], int, str, list[str]]:
    """The first row, the number of lines to its end, its first line and, if that begins with #, the row after it."""
    size = HEADER_BYTES
    while True:
        with open_unpacked(path) as stream:
            start = stream.read(size)
        if b"\0" in start:
            raise CatalogueError(f"{path} holds binary data, not CSV text; give it the suffix of its format")
        if not start.strip():
            raise CatalogueError(f"{path} is empty")
        lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n|$)", start.decode("utf-8-sig", errors="replace"))[:-1]
        blank = next(number for number, line in enumerate(lines) if line.strip())
        reader = csv.reader(lines[blank:])
        try:
            header, after, end = next(reader), list[str](), blank + reader.line_num
            if lines[blank].startswith("#"):
                after = next((row for row in reader if row), after)
        except csv.Error as error:
            raise CatalogueError(f"{path}: the header is no CSV ({error}); check its quotes") from error
        if len(start) < size or end < len(lines) - 1:  # the file, or the row, is whole
            return header, end, lines[blank].rstrip(), after
        if size > BLOCK_BYTES:
            raise CatalogueError(f"{path}: the header does not end in {size:,} bytes; check its quotes")
        size *= 4


def _arrow_text(path: Place, stack: ExitStack) -> Any:
    """The text for Arrow to read in threads of its own.

    A local file is opened by Arrow: its threads let go of a Python stream at any time, even after the reader is gone,
    and the process is aborted where that needs the interpreter as it ends.
    """
    if not isinstance(path, Path):
        return stack.enter_context(open_unpacked(path))
    with path.open("rb") as start:
        zipped = start.read(2) == b"\x1f\x8b"
    stream = stack.enter_context(pa.OSFile(str(path)))
    return stack.enter_context(pa.CompressedInputStream(stream, "gzip")) if zipped else stream
