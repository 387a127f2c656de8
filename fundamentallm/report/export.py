"""Tables as CSV and Parquet, so that a reader gets every value as it was."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from fundamentallm.errors import FundamentallmError
from fundamentallm.report.tables import Table

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of texts that a spreadsheet may run as a formula."""
LARGEST_INT = 2**63 - 1
LARGEST_EXACT = 2**53
"""Largest size of whole numbers that all are exact as floats."""


class ExportError(FundamentallmError):
    """A table cannot be written in this form."""


def csv_text(table: Table) -> str:
    """Return a table as CSV: numbers exact, all else in quotes, nothing at all where None is.

    As Python's writer with `csv.QUOTE_STRINGS`, which Python 3.11 lacks.
    """
    lines = (",".join(map(_quoted, row)) + "\n" for row in (table.columns, *table.rows))
    return _encodable("".join(lines))


def find_formula(table: Table) -> str:
    """Return a text in the table that a spreadsheet may run as a formula; "" if there is none."""
    cells = (cell for row in (table.columns, *table.rows) for cell in row if isinstance(cell, str))
    return next((cell for cell in cells if cell.startswith(FORMULA)), "")


def parquet_bytes(table: Table) -> bytes:
    """Return a table as a Parquet file; a column of several kinds has the text of CSV.

    Raises:
        ExportError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import write_table
    except ModuleNotFoundError:
        raise ExportError(
            "--parquet needs pyarrow; install it with: pip install 'fundamentallm[parquet]'"
        ) from None
    columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.columns)
    arrays = [pyarrow.array(_of_one_kind(values)) for values in columns]
    file = io.BytesIO()
    write_table(pyarrow.table(arrays, names=[*map(_encodable, table.columns)]), file)
    return file.getvalue()


def _quoted(value: Any) -> str:
    if value is None or type(value) in (int, float):
        return _cell(value)
    return '"' + _cell(value).replace('"', '""') + '"'


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return repr(value) if isinstance(value, float) else str(value)


def _of_one_kind(values: Sequence[Any]) -> list[Any]:
    """Return the values of a column that Parquet can hold; None stays."""
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({bool}, {float}) or (kinds == {int} and _are_at_most(values, LARGEST_INT)):
        return [*values]
    if kinds == {int, float} and _are_at_most(values, LARGEST_EXACT):
        return [None if value is None else float(value) for value in values]
    return [None if value is None else _encodable(_cell(value)) for value in values]


def _are_at_most(values: Sequence[Any], most: int) -> bool:
    """Return whether no whole number is larger, with either sign."""
    return all(abs(value) <= most for value in values if type(value) is int)


def _encodable(text: str) -> str:
    """Return the text with halves of characters, which UTF-8 lacks, escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
