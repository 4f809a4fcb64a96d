"""Reads rows from the files that people have: JSON lines, a JSON array, columns as pandas writes them, CSV.

The module knows files and rows, and not what a question is."""

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.plain import plain_json

Row = tuple[str, Any]
"""Where the row stands, for errors, and the row."""


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file: of CSV or TSV by its ending, else of JSON in any of three forms.

    Raises:
        UserError: where the file cannot be read, or a line is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if path.suffix.casefold() in (".csv", ".tsv"):
        yield from _of_csv(path, text)
        return
    whole = _whole(path, text)
    if isinstance(whole, list):
        yield from ((f"{path}, item {number} of its JSON array", row) for number, row in enumerate(whole, 1))
    elif isinstance(whole, Mapping):
        yield from ((f"{path}, row {number} of its columns", row) for number, row in enumerate(_rows(path, whole), 1))
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield f"{path}, line {number}", plain_json(line)
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None


def _whole(path: Path, text: str) -> Any:
    """The JSON array or the columns that are the whole file; None where it holds a row a line."""
    begins = text.lstrip()[:1]
    if begins not in ("[", "{"):
        return None
    try:
        value = plain_json(text)
    except ValueError as error:
        if begins == "[" and not text.strip().partition("\n")[0].rstrip().endswith("]"):
            raise UserError(f"{path}: its JSON array is malformed ({error})") from None
        return None  # a row a line: the second one ends the text
    if isinstance(value, list) and any(isinstance(row, Mapping) for row in value):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("question", value.get("query")), list | Mapping):
        return value
    return [value] if isinstance(value, Mapping) and "\n" in text.strip() else None


def _rows(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of columns: lists, or values by the row's index, as pandas' `to_json` writes them."""
    by_index = {
        name: dict(column)
        if isinstance(column, Mapping)
        else dict(enumerate(column))
        if isinstance(column, list)
        else None
        for name, column in columns.items()
    }
    if plain := [name for name, column in by_index.items() if column is None]:
        raise UserError(f"{path}: its columns are lists or objects, but {plain[0]!r} is neither")
    indices = list(dict.fromkeys(index for column in by_index.values() for index in column or ()))
    return [
        {name: column[index] for name, column in by_index.items() if column is not None and index in column}
        for index in indices
    ]


def _of_csv(path: Path, text: str) -> Iterator[Row]:
    """The rows of a table whose first line names the columns; an empty cell is a value that is missing."""
    if "\0" in text:
        raise UserError(f"{path}: a null character stands in it, which no table holds")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.casefold() == ".tsv" else ",")
    names = reader.fieldnames or ()
    if twice := next((name for name in names if list(names).count(name) > 1), None):
        raise UserError(f"{path}: the column {twice!r} stands there twice")
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise UserError(f"{where}: more cells than the first line has names")
            yield where, {name: _cell(value, where) for name, value in row.items() if value}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None


def _cell(value: str, where: str) -> Any:
    """A cell's value: a list or a mapping where it is written as one in JSON or Python, else its text.

    Raises:
        UserError: for a list without commas, as numpy prints it.
    """
    text = value.strip()
    if (text[:1] + text[-1:]) not in ("[]", "{}") or len(text) > 1_000_000:
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            items = read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(items, list | dict):
            if read is ast.literal_eval and re.search(r"""['"]\s+['"]""", text):
                raise UserError(f"{where}: a list without commas, {text[:40]!r}; write it as JSON")
            return items
    return value
