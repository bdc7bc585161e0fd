"""Reading a record that hetero saved as JSON: absent, damaged, of another version and misshapen are each one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hetero.errors import CheckpointError
from hetero.validation import validation_lines

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
