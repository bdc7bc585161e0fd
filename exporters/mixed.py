"""Automatic mixed precision: keep in float the fewest layers with which an int8 file passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def fewest_float(layers: Sequence[str], attempt: Callable[[tuple[str, ...]], T], passes: Callable[[T], bool]) -> T:
    """Try files with more and more of the worst layers in float, then with fewer again; the last that passed.

    Each try converts and measures a file, so their number grows with the logarithm of the number of layers: the
    prefix of the ranking is doubled until it passes, then bisected. The result is the shortest prefix if passing is
    monotone in its length, which measured cosines are but for noise.

    Args:
        layers: names, the one that loses most first; at most half of them are kept (a file with more is no int8 file).
        attempt: makes and measures the file with these in float.
        passes: whether it is good enough.

    Returns:
        What ``attempt`` made of the shortest prefix found to pass, or of the longest tried where none passes.
    """
    most = len(layers) // 2
    failed, size = 0, 1
    best: tuple[int, T] | None = None
    last = attempt(tuple(layers[: min(size, most)]))
    while not passes(last):
        failed = min(size, most)
        if failed == most:
            return last
        size = min(2 * size, most)
        last = attempt(tuple(layers[:size]))
    best = min(size, most), last
    while best[0] - failed > 1:
        middle = (best[0] + failed) // 2
        tried = attempt(tuple(layers[:middle]))
        if passes(tried):
            best = middle, tried
        else:
            failed = middle
    return best[1]
