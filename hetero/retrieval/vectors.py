"""What may be searched, and what the similarity of two vectors is, to the last bit (docs/retrieval.md).

The similarity of two vectors is the dot product of their components rounded to multiples of 2⁻²⁶. Each
product is then a multiple of 2⁻⁵², and as the norms are 1 every partial sum stays below 2, so float64 holds
all of them exactly: the result is the same whatever the order of summation, the block shape, the BLAS, the
number of threads or the place of a vector in the gallery. Equal vectors tie always, and permuting a gallery
changes nothing.
"""

from __future__ import annotations

import numpy as np

from hetero.errors import RetrievalError

GRID = 2.0**26  # finest grid for which a dot product of unit vectors fits the 53 bits of float64
NORM_TOLERANCE = 1e-3  # float16 storage of a unit vector stays inside; an un-normalised vector does not
_CHECK_ROWS = 65_536  # rows checked at a time, so that a check of a large gallery allocates little


def check_vectors(name: str, vectors: np.ndarray, *, dim: int | None = None) -> np.ndarray:
    """Vectors as C-contiguous float32 (or float64) ``[n, dim]``, finite and L2-normalised.

    Args:
        name: what they are, for the message.
        vectors: ``[n, dim]`` of any floating type.
        dim: required length of a vector.

    Raises:
        RetrievalError: not two-dimensional or empty, another dimension, NaN or infinite, not of unit length.
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise RetrievalError(
            f"{name} are not a table of vectors",
            got=f"{vectors.dtype} {list(vectors.shape)}",
            expected="float [n, dim], neither empty",
        )
    if dim is not None and vectors.shape[1] != dim:
        raise RetrievalError(
            f"{name} have another dimension",
            got=f"dimension {vectors.shape[1]}",
            expected=f"dimension {dim}",
            fix="embed queries and gallery with models of one space",
        )
    wide = vectors.dtype if vectors.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    vectors = np.ascontiguousarray(vectors, dtype=wide)
    for start in range(0, len(vectors), _CHECK_ROWS):
        _check_rows(name, vectors[start : start + _CHECK_ROWS], start)
    return vectors


def _check_rows(name: str, rows: np.ndarray, start: int) -> None:
    squares = np.einsum("nd,nd->n", rows, rows)
    # NaN and infinity fail this comparison too, so one pass finds everything
    wrong = np.flatnonzero(~(np.abs(np.sqrt(squares) - 1.0) <= NORM_TOLERANCE))
    if len(wrong) == 0:
        return
    first = int(wrong[0])
    if not np.isfinite(rows[first]).all():
        raise RetrievalError(
            f"{name} hold a value that is not a number",
            got=f"{rows[first][~np.isfinite(rows[first])][0]} in row {start + first}",
            expected="finite components",
            fix="find the image of this row; a model that gives NaN was trained with a diverged loss",
        )
    raise RetrievalError(
        f"{name} are not L2-normalised",
        got=f"norm {float(np.sqrt(squares[first])):.6g} in row {start + first}",
        expected=f"1 within {NORM_TOLERANCE}",
        fix="divide each vector by its norm",
    )


def on_grid(vectors: np.ndarray) -> np.ndarray:
    """Components rounded (half to even) to multiples of 2⁻²⁶, float64, same shape."""
    grid = np.multiply(vectors, GRID, dtype=np.float64)
    np.rint(grid, out=grid)
    grid /= GRID
    return grid
