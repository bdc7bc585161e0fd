"""Plain lists that come with published data sets: columns between blanks, every line parsed or refused by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hetero.errors import DataError


@dataclass(frozen=True)
class Row:
    """One line of a list: its file, its number counted from 1, and its values by column."""

    file: Path
    line: int
    values: dict[str, str]

    @property
    def place(self) -> str:
        """``FILE line N``."""
        return f"{self.file} line {self.line}"

    def number(self, column: str) -> int:
        """A whole number from 1, as these lists count; anything else is a :class:`DataError` that names the line."""
        text = self.values[column]
        if not (text.isascii() and text.isdecimal() and int(text) > 0):
            raise self.refused(column, "a whole number from 1")
        return int(text)

    def refused(self, column: str, expected: str) -> DataError:
        """The error of a value that cannot be used."""
        return DataError(
            f"{self.place}: wrong {column}",
            got=repr(self.values[column]),
            expected=expected,
            fix="download the file again, or correct the line",
        )


def existing(root: Path, name: str, origin: str) -> Path:
    """``root / name``, which must be there.

    Args:
        name: a file, or a folder where it ends in ``/``.
        origin: what the layout comes from ("the archive …"), for the message.

    Raises:
        DataError: it is not; names the folder where it was looked for.
    """
    path = root / name
    if path.is_dir() if name.endswith("/") else path.is_file():
        return path
    kind = "folder" if name.endswith("/") else "file"
    raise DataError(
        f"no such {kind}: {path}",
        got=None if root.is_dir() else f"data.path {root}, which is no folder",
        expected=f"{name} in the folder {root}, as {origin} unpacks",
        fix="correct data.path in the config, or unpack the whole download there",
    )


def read_list(path: Path, columns: Sequence[str], *, header: bool = False, counted: bool = False) -> Iterator[Row]:
    """Yield the lines of a list; blank lines are passed over.

    Args:
        path: a UTF-8 text file.
        columns: names of the values of a line, which blanks divide; the last may hold blanks itself.
        header: whether the names stand in a line above the values.
        counted: whether the first line of all says how many there are.

    Raises:
        DataError: not UTF-8, another header, too few or too many values, another number of lines than counted.
    """
    try:
        lines = [(i, line.strip()) for i, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", got=error, fix="download the file again") from error
    lines = [(number, line) for number, line in lines if line]
    count = _count(path, lines) if counted else None
    lines = lines[1:] if counted else lines
    if header:
        if not lines or lines[0][1].split() != list(columns):
            raise DataError(
                f"{path} has another header",
                got=repr(lines[0][1]) if lines else "no line",
                expected=repr(" ".join(columns)),
                fix="download the file again",
            )
        lines = lines[1:]
    if not lines or (count is not None and count != len(lines)):
        raise DataError(
            f"{path} is cut short or has lines too many",
            got=f"{len(lines)} lines of values",
            expected="at least one" if count is None else f"{count}, as its first line says",
            fix="download the file again",
        )
    for number, line in lines:
        values = line.split(maxsplit=len(columns) - 1)
        if len(values) != len(columns):
            raise DataError(
                f"{path} line {number}: wrong number of values",
                got=repr(line),
                expected=" ".join(f"<{column}>" for column in columns),
                fix="download the file again, or correct the line",
            )
        yield Row(path, number, dict(zip(columns, values, strict=True)))


def by_number(rows: Iterator[Row], column: str) -> dict[int, Row]:
    """Rows by the number in a column, in their order; a number that comes twice is a :class:`DataError`."""
    found: dict[int, Row] = {}
    for row in rows:
        number = row.number(column)
        if number in found:
            raise DataError(
                f"{row.place}: the {column} {number} is given twice",
                got=f"lines {found[number].line} and {row.line}",
                fix="download the file again, or remove one of the lines",
            )
        found[number] = row
    return found


def matching(row: Row, column: str, others: dict[int, Row], file: Path) -> Row:
    """The row of another list with the number in ``column`` of this one; without one a :class:`DataError`."""
    number = row.number(column)
    if number not in others:
        raise DataError(
            f"{row.place}: the {column} {number} is not in {file.name}",
            expected=f"one line of {file} for it",
            fix="download both files again",
        )
    return others[number]


def _count(path: Path, lines: Sequence[tuple[int, str]]) -> int:
    if not lines or not (lines[0][1].isascii() and lines[0][1].isdecimal()):
        raise DataError(
            f"{path} does not begin with its number of lines",
            got=repr(lines[0][1]) if lines else "no line",
            expected="a whole number",
            fix="download the file again",
        )
    return int(lines[0][1])
