"""Rendering a page from a template: the report of a run and that of a bundle share their look and their macros."""

from __future__ import annotations

from importlib import resources
from typing import Any

from hetero.errors import MissingExtraError

_SHARED = "hetero.report"


def render(package: str, template: str, **values: Any) -> str:
    """A template of a package with these values, each escaped; it may include what lies in ``hetero/report``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ModuleNotFoundError:
        raise MissingExtraError("the HTML report", "jinja2", "report") from None

    def read(name: str) -> str:
        source = resources.files(package if name == template else _SHARED).joinpath(name)
        return source.read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = "{:,}".format
    return environment.get_template(template).render(**values)
