"""What the sections of a config have in common, and pydantic's errors in one line, keys named as people wrote them."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from hetero.errors import nearest


class Section(BaseModel):
    """A section of a config: frozen, no unknown key, no number that is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def validation_lines(error: ValidationError, kind: Any = None, *, under: str | None = None) -> str:
    """A pydantic error as one line: ``stages.0.width: Input should be …; …``.

    Args:
        kind: what was to be read, a record or a union of records; given, keys are named as they stand in the file, and
            an unknown one is answered with those that there are.
        under: the key whose value was read.
    """
    return "; ".join(_line(item, kind, under) for item in error.errors())


def _line(item: ErrorDetails, kind: Any, under: str | None) -> str:
    loc, message = item["loc"], item["msg"]
    path, known = (list(loc), set[str]()) if kind is None else _place(loc, kind)
    path = path if under is None else [under, *path]
    if item["type"] == "extra_forbidden" and known:
        message = f"unknown key, expected {nearest(str(loc[-1]), known)}"
    elif item["type"] == "union_tag_not_found":
        message = f"the key {item['ctx']['discriminator']} is missing, which says what this is"
    elif item["type"] == "tuple_type":
        message = "Input should be a list"
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, path))}: {message}" if path else message


def _place(loc: tuple[int | str, ...], kind: Any) -> tuple[list[int | str], set[str]]:
    """A place in ``kind`` without the tags that pydantic puts into it, and the keys of the section around it."""
    path: list[int | str] = []
    sections = _sections(kind)
    known: set[str] = set()
    for part in loc:
        known = {name for section in sections for name in section.model_fields}
        tagged = [section for section in sections if _has_tag(section, part)]
        if part not in known and tagged:
            sections, known = tagged, {name for section in tagged for name in section.model_fields}
            continue
        path.append(part)
        if part in known:
            fields = (section.model_fields.get(str(part)) for section in sections)
            sections = [one for field in fields if field is not None for one in _sections(field.annotation)]
    return path, known


def _has_tag(section: type[BaseModel], tag: int | str) -> bool:
    return any(tag in get_args(field.annotation) for field in section.model_fields.values())


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The records that a value of this annotation may be, or be made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for part in get_args(annotation) for one in _sections(part)]
