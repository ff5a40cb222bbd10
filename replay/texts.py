"""Texts of a row group, whose length its footer does not tell: a megabyte of text in a million rows is a small file.

Where a text is written once for many rows, Arrow is asked to leave it so, and what it would take with a copy for each
row is known before there is any.

Input: a Parquet file, and tables read from it with its texts left as dictionaries.
Output: names of columns; tables with plain texts.
Units: bytes.
Errors: ValueError for texts of more than GROUP_BYTES_MAX in one table, and for columns that are not bounded by it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.limits import GROUP_BYTES_MAX


def text_columns(parquet: pq.ParquetFile) -> list[str]:
    """Parquet names of the columns of texts. Errors: ValueError for texts of a fixed length: we have none."""
    columns = [parquet.schema.column(i) for i in range(len(parquet.schema))]
    for column in columns:
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            raise ValueError(f"column {column.path} of texts of {column.length} bytes each")
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def plain_schema(parquet: pq.ParquetFile) -> pa.Schema:
    """What its tables would be if no text was left as a dictionary."""
    return parquet.metadata.schema.to_arrow_schema()


def check_texts(table: pa.Table) -> None:
    """Errors: ValueError if the texts of a table would take more than GROUP_BYTES_MAX with a copy for each row."""
    size = sum(_size_bytes(array) for array in _dictionaries(table))
    if size > GROUP_BYTES_MAX:
        raise ValueError(f"texts of {size} bytes, {GROUP_BYTES_MAX} at most")


def plain(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with its texts as `schema` has them. Errors: as `check_texts`."""
    check_texts(table)
    return table.cast(schema)


def _dictionaries(table: pa.Table) -> Iterator[pa.DictionaryArray]:
    for column in table.columns:
        waiting = list(column.chunks)
        while waiting:
            array = waiting.pop()
            if pa.types.is_struct(array.type):
                waiting += [array.field(i) for i in range(array.type.num_fields)]
            elif pa.types.is_dictionary(array.type):
                yield array


def _size_bytes(array: pa.DictionaryArray) -> int:
    longest = pc.max(pc.binary_length(array.dictionary)).as_py() or 0
    if longest * len(array) <= GROUP_BYTES_MAX >> 8:  # as good as nothing, and sooner known
        return int(longest * len(array))
    return int(pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0)
