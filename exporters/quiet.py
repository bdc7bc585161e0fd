"""Keep what torch prints, warns and logs while it traces out of the way: stdout belongs to ``--json``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Catch what is printed; warnings and log records, of all of Python, are dropped meanwhile."""
    captured = io.StringIO()
    disabled = logging.root.manager.disable
    with contextlib.redirect_stdout(captured), contextlib.redirect_stderr(captured), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield captured
        finally:
            logging.disable(disabled)
