"""Keep what converters print, warn and log out of the way: stdout belongs to ``--json``."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Catch what is printed; warnings and log records, of all of Python, are dropped meanwhile.

    What compiled code prints past Python is dropped, too.
    """
    captured = io.StringIO()
    disabled = logging.root.manager.disable
    with (
        _without_descriptors(),
        contextlib.redirect_stdout(captured),
        contextlib.redirect_stderr(captured),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield captured
        finally:
            logging.disable(disabled)


@contextlib.contextmanager
def _without_descriptors() -> Iterator[None]:
    """Send what is written to the process's standard output and error, by whatever code, into a file nobody reads."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with tempfile.TemporaryFile() as sink:
        try:
            for descriptor in (1, 2):
                os.dup2(sink.fileno(), descriptor)
            yield
        finally:
            for descriptor, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, descriptor)
                os.close(saved)
