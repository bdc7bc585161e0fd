"""What the commands print, and how their errors become exit codes: results on stdout, errors on stderr."""

from __future__ import annotations

import functools
import json as json_module
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast

import typer
from rich.console import Console

from hetero.errors import HeteroError

Command = TypeVar("Command", bound=Callable[..., None])
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


class CheckFailedError(Exception):
    """Everything ran, but something measured is not as it must be: exit code 1."""


def reporting_errors(function: Command) -> Command:
    """The same command; its errors become one clear line (or one JSON document) and an exit code."""

    @functools.wraps(function)
    def reported(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except CheckFailedError as failure:
            stderr().print(f"failed: {failure}", style="bold red", markup=False)
            raise typer.Exit(1) from None
        except HeteroError as error:
            if kwargs.get("json"):
                _print_error(error, error.what, error.fix)
            stderr().print(f"error: {error}", style="bold red", markup=False)
            raise typer.Exit(2) from None
        except OSError as error:  # what no room foresaw, e.g. a disk that returns errors
            if kwargs.get("json"):
                _print_error(error, str(error), None)
            stderr().print(f"error: {error}", style="bold red", markup=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            stderr().print("interrupted; what was saved is intact")
            raise typer.Exit(130) from None

    return cast("Command", reported)


def _print_error(error: Exception, what: str, fix: str | None) -> None:
    print_json({"error": {"type": type(error).__name__, "message": str(error), "what": what, "fix": fix}})


def require(report: Any) -> None:
    """Fail where a check of the report does.

    Raises:
        CheckFailedError: naming every failed check.
    """
    bad = [
        f"{check.name}: got {check.value:.4g}, expected {check.expected}" for check in report.checks if not check.passed
    ]
    if bad:
        raise CheckFailedError("; ".join(bad))


def list_skipped(lines: Any) -> None:
    """Name the images that were left out, one a line."""
    if lines:
        stdout().print(f"left out {len(lines)} unreadable images:")
        for line in lines:
            stdout().print(f"  {line}", soft_wrap=True, markup=False)


def stdout() -> Console:
    """Where results go; a file or a pipe has no width of its own: 120 columns show every table whole."""
    return Console(width=None if sys.stdout.isatty() else 120)


def stderr() -> Console:
    """Where errors go."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(content: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json_module.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
