"""A Parquet table as a VOTable 1.4 (IVOA Recommendation) with TABLEDATA: text made a column at a time, in one pass.

An empty cell is a missing value, as the standard says since 1.3; lists are arrays of any length, in which missing
numbers are NaN.
"""

from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

import pyarrow as pa
import pyarrow.compute as pc

from skysom.storage.fits_export import ExportError
from skysom.storage.table_export import Rows, check_type, is_list, is_text, joined_texts, listed_numbers, text_of

_TYPES = {pa.int8(): "short", pa.int16(): "short", pa.uint8(): "unsignedByte", pa.int32(): "int", pa.uint16(): "int"}
_TYPES |= {pa.int64(): "long", pa.uint32(): "long", pa.uint64(): "long", pa.bool_(): "boolean"}
_TYPES |= {pa.float32(): "float", pa.float64(): "double", pa.string(): "unicodeChar"}
_NO_XML = "[\x00-\x08\x0b\x0c\x0e-\x1f]"


def write_votable(rows: Rows, stream: BinaryIO) -> int:
    """Write the rows as a VOTable of one table; returns how many there are.

    Columns whose UCD begins with pos.eq refer to the ICRS.

    Raises
    ------
    ExportError : a column that it cannot hold, whole numbers beyond 64 bits with a sign or missing within lists.
    """
    schema = rows.schema
    for field in schema:
        check_type(rows.path, field)
    stream.write(_head(schema).encode())
    count = 0
    for batch in filter(len, rows.batches()):
        count += len(batch)
        cells = [_cells(name, batch[name]) for name in schema.names]
        lines = pc.binary_join_element_wise(*cells, "</TD><TD>")
        stream.write("".join(f"<TR><TD>{line}</TD></TR>\n" for line in lines.to_pylist()).encode())
    stream.write(b"</TABLEDATA></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n")
    return count


def _head(schema: pa.Schema) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">',
        '<RESOURCE type="results">',
        '<COOSYS ID="ICRS" system="ICRS"/>',
        '<TABLE name="sources">',
        "<DESCRIPTION>written by skysom</DESCRIPTION>",
    ]
    for field in schema:
        kind = field.type.value_type if is_list(field.type) else field.type
        attributes = {"name": field.name, "datatype": _TYPES[kind]}
        if is_list(field.type) or is_text(field.type):
            attributes["arraysize"] = "*"
        attributes |= {key: text for key in ("unit", "ucd") if (text := text_of(field, key))}
        if attributes.get("ucd", "").startswith("pos.eq"):
            attributes["ref"] = "ICRS"
        listed = " ".join(f"{key}={quoteattr(text)}" for key, text in attributes.items())
        lines.append(f"<FIELD {listed}><DESCRIPTION>{escape(text_of(field, 'description'))}</DESCRIPTION></FIELD>")
    return "\n".join([*lines, "<DATA><TABLEDATA>\n"])


def _cells(name: str, column: pa.Array) -> pa.Array:
    """Content of the cells (n,) of a column as text."""
    if is_text(column.type):
        return _escaped(joined_texts(column) if is_list(column.type) else pc.fill_null(column, ""))
    if is_list(column.type):
        values = _numerals(name, listed_numbers(name, column))
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        offsets = pc.cumulative_sum(pa.concat_arrays([pa.array([0], pa.int32()), lengths]))
        return pc.binary_join(pa.ListArray.from_arrays(offsets, values), " ")
    return _numerals(name, column)


def _numerals(name: str, column: pa.Array) -> pa.Array:
    """Numbers and truths as VOTable writes them, "" where missing."""
    if pa.types.is_uint64(column.type):
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise ExportError(f"column {name!r} holds numbers beyond those of VOTable ({error})") from error
    texts = pc.fill_null(column.cast(pa.string()), "")
    if pa.types.is_boolean(column.type):
        return pc.replace_substring(pc.replace_substring(texts, "true", "T"), "false", "F")
    if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column)).as_py():
        for arrow, standard in (("nan", "NaN"), ("-inf", "-Inf"), ("inf", "+Inf")):
            texts = pc.if_else(pc.equal(texts, arrow), standard, texts)
    return texts


def _escaped(texts: pa.Array) -> pa.Array:
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        texts = pc.replace_substring(texts, character, entity)
    return pc.replace_substring_regex(texts, _NO_XML, "?")
