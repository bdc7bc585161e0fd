"""From image indices to the uint8 batch that models and loaders take, from pixels and from files alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hetero.data.dataset import Dataset
from hetero.errors import ImageError
from hetero.preprocess import PreprocessSpec, load_image, preprocess_array


@dataclass(frozen=True)
class Readable:
    """What could be read.

    Attributes:
        pixels: ``uint8 [m, H, W, C]``.
        indices: ``int64 [m]``, the image index of each row of ``pixels``, in the order asked for.
        skipped: one line for each picture left out: path and reason.
    """

    pixels: np.ndarray
    indices: np.ndarray
    skipped: tuple[str, ...]


def read_pixels(
    dataset: Dataset,
    indices: np.ndarray | Sequence[int],
    spec: PreprocessSpec,
    *,
    workers: int = 2,
    skip_bad: bool = False,
) -> np.ndarray:
    """Preprocessed pictures ``uint8 [n, H, W, C]`` in the order of ``indices``.

    Args:
        dataset: where the pictures are.
        indices: image indices ``[n]``; repeats are allowed.
        spec: size, channels and resizing.
        workers: threads that decode files (decoding releases the interpreter lock).
        skip_bad: leave unreadable pictures out, so that there are fewer rows than indices; whoever needs to
            know which rows are left calls :func:`read_readable`.

    Raises:
        ImageError: a picture cannot be read and ``skip_bad`` is off.
    """
    if skip_bad:
        return read_readable(dataset, indices, spec, workers=workers).pixels
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    ready = _already_fitting(dataset, spec)
    if ready is not None:
        return ready[wanted]
    pixels = np.empty((len(wanted), spec.height, spec.width, spec.channels), np.uint8)
    read = _reader(dataset, spec)

    def fill(row: int) -> None:
        pixels[row] = read(int(wanted[row]))

    _each(fill, len(wanted), 1 if dataset.in_memory else workers)
    return pixels


def read_readable(
    dataset: Dataset, indices: np.ndarray | Sequence[int], spec: PreprocessSpec, *, workers: int = 2
) -> Readable:
    """Like :func:`read_pixels`, with unreadable pictures left out and listed."""
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    pixels = np.empty((len(wanted), spec.height, spec.width, spec.channels), np.uint8)
    problems: dict[int, str] = {}
    read = _reader(dataset, spec)

    def fill(row: int) -> None:
        try:
            pixels[row] = read(int(wanted[row]))
        except ImageError as error:
            problems[row] = _line(dataset.image_id(int(wanted[row])), error)

    _each(fill, len(wanted), 1 if dataset.in_memory else workers)
    good = np.array([row not in problems for row in range(len(wanted))], bool)
    return Readable(pixels[good], wanted[good], tuple(problems[row] for row in sorted(problems)))


def find_unreadable(paths: Sequence[Path], boxes: np.ndarray | None = None, *, workers: int = 2) -> dict[int, str]:
    """Decode every file once; position in ``paths`` to a line (path and reason) for each that fails.

    Args:
        boxes: ``int32 [n, 4]``, optional: the part of each that must lie in it, as of :class:`Dataset`.
    """
    probe = PreprocessSpec(height=1, width=1, channels=1)  # the smallest result: only the decoding matters
    problems: dict[int, str] = {}

    def check(i: int) -> None:
        try:
            load_image(paths[i], probe, box=_box(boxes, i))
        except ImageError as error:
            problems[i] = _line(str(paths[i]), error)

    _each(check, len(paths), workers)
    return {i: problems[i] for i in sorted(problems)}


def _line(name: str, error: ImageError) -> str:
    reason = error.what if error.got is None else f"{error.what}; got {error.got}"
    return reason if name in reason else f"{name}: {reason}"


def _already_fitting(dataset: Dataset, spec: PreprocessSpec) -> np.ndarray | None:
    """The whole pixel array as ``[n, H, W, C]`` where preprocessing would change nothing."""
    images = dataset.images
    if not isinstance(images, np.ndarray):
        return None
    images = images if images.ndim == 4 else images[..., None]
    return images if images.shape[1:] == (spec.height, spec.width, spec.channels) else None


def _reader(dataset: Dataset, spec: PreprocessSpec) -> Callable[[int], np.ndarray]:
    images = dataset.images
    if isinstance(images, np.ndarray):
        return lambda i: preprocess_array(images[i], spec)
    if dataset.inverted:
        return lambda i: 255 - load_image(images[i], spec, box=_box(dataset.boxes, i))
    return lambda i: load_image(images[i], spec, box=_box(dataset.boxes, i))


def _box(boxes: np.ndarray | None, index: int) -> tuple[int, int, int, int] | None:
    if boxes is None:
        return None
    left, top, right, bottom = boxes[index].tolist()
    return left, top, right, bottom


def _each(work: Callable[[int], None], count: int, workers: int) -> None:
    if workers <= 1 or count <= 1:
        for i in range(count):
            work(i)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, i) for i in range(count)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
