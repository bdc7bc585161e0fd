"""The tables of IJB-C: template lists, pair lists and the media of the release's metadata, line by line."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hetero.errors import DataError

Box = tuple[int, int, int, int]
TEMPLATE_COLUMNS = ("TEMPLATE_ID", "SUBJECT_ID", "FILENAME")
BOX_COLUMNS = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")
_LARGEST = 2**20  # pixels; a coordinate beyond that is a slip, and int32 would not hold all of them


class Face(NamedTuple):
    """One image of one template, as a line says it.

    ``box`` is (x0, y0, x1, y1) in pixels, None where the image is already a crop; ``medium`` is None where the table
    has no ``SIGHTING_ID``.
    """

    template: int
    subject: int
    name: str
    box: Box | None
    medium: int | None


def require_file(path: Path, what: str) -> Path:
    """The path; a missing file is a :class:`DataError` that says what it would hold."""
    if not path.is_file():
        raise DataError(
            f"no such file: {path}",
            expected=what,
            fix="correct path, or unpack the whole release there (docs/data.md)",
        )
    return path


def read_faces(path: Path) -> Iterator[tuple[int, Face]]:
    """Yield line number and face of a template list of the release.

    Raises:
        DataError: no such file, not UTF-8, a column missing, a value that is not a number, an empty box.
    """
    for line, row in _records(path, TEMPLATE_COLUMNS + BOX_COLUMNS):
        whole = [_whole(path, line, column, row[column]) for column in ("TEMPLATE_ID", "SUBJECT_ID")]
        if not row["FILENAME"]:
            raise DataError(f"{path} line {line}: the FILENAME is blank", fix="repair the line")
        medium = _whole(path, line, "SIGHTING_ID", row["SIGHTING_ID"]) if "SIGHTING_ID" in row else None
        yield line, Face(whole[0], whole[1], row["FILENAME"], _box(path, line, row), medium)


def read_template_subjects(path: Path) -> list[tuple[int, int, int]]:
    """Line number, template and subject of each line of a template list, whatever else it says.

    Raises:
        DataError: as :func:`read_faces`.
    """
    return [
        (line, *(_whole(path, line, column, row[column]) for column in TEMPLATE_COLUMNS[:2]))  # type: ignore[misc]
        for line, row in _records(path, TEMPLATE_COLUMNS[:2])
    ]


def read_memberships(path: Path) -> list[Face]:
    """Faces of the derived list ``name template medium``, whose subject is not known yet (-1).

    Raises:
        DataError: no such file, no line, or a line that is not a name and two whole numbers.
    """
    faces = []
    with open(
        require_file(path, "lines of image name, template and medium"), encoding="utf-8", errors="replace"
    ) as stream:
        for line, text in enumerate(stream, 1):
            match text.split():
                case []:
                    continue
                case [name, template, medium] if template.isdecimal() and medium.isdecimal():
                    faces.append(Face(int(template), -1, name, None, int(medium)))
                case _:
                    raise DataError(
                        f"{path} line {line}: not an image name, a template and a medium",
                        got=repr(text.rstrip()),
                        expected="as in 1.jpg 1 69544",
                        fix="repair the line",
                    )
    if not faces:
        raise DataError(f"{path} lists no image", fix="use the file of the release")
    return faces


class Sightings:
    """From (subject, image, box) to medium: the metadata table of the release.

    The box is asked for only where one subject was sighted more than once in one image. Of sightings with one box the
    least ``SIGHTING_ID`` is taken, whatever the order of the rows, so that all frames of a video are of one medium.

    Raises:
        DataError: as :func:`read_faces`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
        for line, row in _records(path, (*TEMPLATE_COLUMNS[1:], "SIGHTING_ID", *BOX_COLUMNS)):
            key = _plain(row["SUBJECT_ID"]), row["FILENAME"]
            kept = {column: row[column] for column in ("SIGHTING_ID", *BOX_COLUMNS)}
            self._found.setdefault(key, []).append((line, kept))

    def medium(self, face: Face, where: str) -> int:
        """The medium of a face; ``where`` names its line in a message.

        Raises:
            DataError: the table does not hold the face.
        """
        rows = self._found.get((str(face.subject), face.name), [])
        if len({_plain(row["SIGHTING_ID"]) for _, row in rows}) > 1:
            rows = [(line, row) for line, row in rows if _has_box(self._path, line, row, face.box)]
        if not rows:
            raise DataError(
                f"{where}: {self._path.name} does not say which medium {face.name} is from",
                got=f"{len(rows)} lines for subject {face.subject} in this image with this box",
                expected="a line with its SIGHTING_ID",
                fix="use the metadata file and the protocols of one release",
            )
        return min(_whole(self._path, line, "SIGHTING_ID", row["SIGHTING_ID"]) for line, row in rows)


def read_table(path: Path, columns: int, *, delimiter: str | None) -> np.ndarray:
    """Whole numbers, ``int64 [n, columns]``, from a file of millions of lines, with or without a header line.

    Raises:
        DataError: no such file, no line, not UTF-8, or a line that is not ``columns`` whole numbers, with its number.
    """
    require_file(path, f"lines of {columns} whole numbers")
    skip = _header_lines(path, delimiter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about a file without data, which is refused below
            table = np.loadtxt(
                path, np.int64, comments=None, delimiter=delimiter, skiprows=skip, ndmin=2, encoding="utf-8-sig"
            )
    except (ValueError, UnicodeDecodeError) as error:
        raise _bad_line(path, columns, delimiter, skip, error) from error
    if table.shape[1] != columns or len(table) == 0:
        raise _bad_line(path, columns, delimiter, skip, None)
    return table


def line_of(path: Path, row: int, *, delimiter: str | None) -> int:
    """The number of the line that holds row ``row`` of :func:`read_table`, blank lines and a header counted."""
    with open(path, encoding="utf-8-sig") as stream:
        written = (line for line, text in enumerate(stream, 1) if text.strip())
        return next(islice(written, row + _header_lines(path, delimiter), None), 0)


def _header_lines(path: Path, delimiter: str | None) -> int:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            first = stream.readline().split(delimiter)
    except UnicodeDecodeError:
        return 0  # the reading itself says it better
    return int(not any(word.strip().lstrip("-").isdecimal() for word in first))


def _bad_line(path: Path, columns: int, delimiter: str | None, skip: int, error: Exception | None) -> DataError:
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line, text in enumerate(stream, 1):
            words = text.split(delimiter)
            whole = all(word.strip().lstrip("-").isdecimal() for word in words)
            if line > skip and text.strip() and (len(words) != columns or not whole):
                return DataError(
                    f"{path} line {line}: not {columns} whole numbers", got=repr(text.rstrip()), fix="repair the line"
                )
    return DataError(f"{path} holds no pair", got=error, expected=f"lines of {columns} whole numbers")


def _records(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and values by column name, of a CSV file with a header line."""
    require_file(path, f"a CSV file with the columns {', '.join(required)}")
    empty = True
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            columns = [name.strip().upper() for name in next(reader, [])]
            missing = [name for name in required if name not in columns]
            if missing:
                raise DataError(
                    f"{path} has no column {missing[0]!r}",
                    got=f"columns {', '.join(columns) or 'none'}",
                    expected=", ".join(required),
                    fix="use the file of the release, header line included",
                )
            for values in reader:
                if len(values) not in (0, len(columns)):
                    raise DataError(
                        f"{path} line {reader.line_num}: wrong number of values",
                        got=len(values),
                        expected=len(columns),
                        fix="repair the line",
                    )
                if values:
                    empty = False
                    yield reader.line_num, dict(zip(columns, map(str.strip, values), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file", got=error, fix="unpack the release again") from error
    if empty:
        raise DataError(f"{path} lists no image", fix="unpack the release again")


def _plain(text: str) -> str:
    """``12.0``, as spreadsheets and pandas write a column with gaps, as ``12``."""
    return text.removesuffix(".0")


def _whole(path: Path, line: int, column: str, text: str) -> int:
    try:
        return int(_plain(text))
    except ValueError:
        raise DataError(
            f"{path} line {line}: {column} is not a whole number", got=repr(text), fix="repair the line"
        ) from None


def _has_box(path: Path, line: int, row: dict[str, str], box: Box | None) -> bool:
    """Whether a row of the metadata has this box; a sighting may have none, or one that cannot be."""
    try:
        return _box(path, line, row) == box
    except DataError:
        return False


def _box(path: Path, line: int, row: dict[str, str]) -> Box:
    sides = []
    for column in BOX_COLUMNS:
        try:
            sides.append(round(float(row[column])))
        except (ValueError, OverflowError):
            raise DataError(
                f"{path} line {line}: {column} is not a number", got=repr(row[column]), fix="repair the line"
            ) from None
    x, y, width, height = sides
    if min(width, height) < 1 or max(map(abs, sides)) > _LARGEST:
        raise DataError(
            f"{path} line {line}: no such face box in a picture",
            got=f"{width}×{height} at {x}, {y}",
            fix="repair the line",
        )
    return x, y, x + width, y + height
