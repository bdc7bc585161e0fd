"""Reading a record that hetero saved as JSON: absent, damaged, of another version and misshapen are each one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hetero.errors import CheckpointError, nearest

Record = TypeVar("Record", bound=BaseModel)


def read_record(file: Path, kind: type[Record], *, schema: int, absent: CheckpointError, instead: str) -> Record:
    """The content of ``file``, whose ``schema_version`` must be ``schema``.

    Args:
        absent: what to raise where there is no such file.
        instead: what to do about a file of another version.

    Raises:
        CheckpointError: no such file, not JSON, another schema version, unknown or missing keys.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise absent from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is damaged", got=error, fix="restore it from a copy") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != schema:
        raise CheckpointError(
            f"{file} was written by another version of hetero",
            got=f"schema_version {version!r}",
            expected=schema,
            fix=instead,
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{file} does not fit its schema", got=validation_lines(error)) from error


def validation_lines(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """A pydantic error as one line: ``stages.0.width: Input should be …; …``.

    Args:
        kind: what was to be read; given, keys are named as they stand in the file, and an unknown one is answered with
            those that there are.
    """
    return "; ".join(_line(item, kind) for item in error.errors())


def _line(item: ErrorDetails, kind: type[BaseModel] | None) -> str:
    loc, message = item["loc"], item["msg"]
    path, known = (list(loc), set[str]()) if kind is None else _place(loc, kind)
    if item["type"] == "extra_forbidden" and known:
        message = f"unknown key, expected {nearest(str(loc[-1]), known)}"
    elif item["type"] == "union_tag_not_found":
        message = f"the key {item['ctx']['discriminator']} is missing, which says what this is"
    elif item["type"] == "tuple_type":
        message = "Input should be a list"
    return f"{'.'.join(map(str, path)) or 'value'}: {message.removeprefix('Value error, ')}"


def _place(loc: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[list[int | str], set[str]]:
    """A place in ``kind`` without the tags that pydantic puts into it, and the keys of the section around it."""
    path: list[int | str] = []
    sections = [kind]
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
