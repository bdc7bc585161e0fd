"""Runs the ``hetero`` command inside the tests' own process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

import hetero.cli as cli


def run(*arguments: object, code: int = 0) -> Result:
    """What it printed; any exit code but ``code`` is a failure."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result


def documents(result: Result) -> dict[str, Any]:
    """stdout as the one JSON document it must be."""
    return json.loads(result.stdout)
