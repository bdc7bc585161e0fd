"""Why an exported file computes something else: known mistakes are made on purpose in torch and compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import nn

from exporters.graph import Graph
from exporters.ladder import Measured, Probes
from exporters.parity import compare, reference_embeddings
from exporters.quantize import observe
from hetero.preprocess import PreprocessSpec

_EXPLAINED = 0.1  # of what is lost: so little may be left over if the torch model with a mistake is to explain it
_NOTHING = 1e-6  # of a cosine: roundings, which no mistake explains
_ARITHMETIC = 5e-3  # of a component: half precision moves them by a tenth of that
_IMPRECISE = 10  # times the limit of fp32 files, and no less precise operator explains it
_SAME_DIRECTION = 1e-2  # of a cosine
_LENGTH = 0.05  # that a normalised embedding may differ from 1 by, however imprecise
_SAME = 1e-4  # of a component: embeddings so near are one
_OFFSETS = (1.0, 4.0, 16.0, 64.0, 128.0)  # grey levels that a mean may be wrong by; between them the offset is fitted
_TRIALS = 16  # steps of that fit: to a hundredth of a grey level and less
_FITTED_ON = 16  # pictures
_NARROWER = 0.6  # a layer's calibrated range to the one seen: what lies outside is cut off
_WIDER = 1.5  # the same in the median layer; some layers of pictures of one kind are wider, there being more of them


def likely_cause(
    measured: Measured,
    probes: Probes,
    network: nn.Module,
    preprocess: PreprocessSpec,
    *,
    rounded: bool = False,
    step: float | None = None,
) -> str:
    """The fix of an export error; ``rounded``: of a file of fewer bits, whose rounding may be all that is wrong.

    ``step``: of the embedding's components, where the file gives them as integers.
    """
    vectors = measured.vectors
    if vectors is None:
        return "look at what each runtime says of the file"
    lost = 1 - compare(probes.reference, vectors).mean_cosine
    lengths = np.linalg.norm(vectors, axis=1)
    if np.abs(lengths - 1).max() > _LENGTH and lost < _SAME_DIRECTION:
        return (
            f"the file's embeddings have lengths of {lengths.min():.3g} to {lengths.max():.3g}: the normalisation "
            "to unit length at the end is missing"
        )
    if np.abs(vectors - vectors[0]).max() < _SAME:
        return "the file gives the same embedding for every picture: what it computes does not depend on its input"
    if lost > _NOTHING:
        mistakes = [*_mistakes(probes.pixels, preprocess), _wrong_mean(vectors, probes, network, preprocess)]
        left = [_left(network, pixels, spec, vectors) for _, pixels, spec in mistakes]
        if min(left) < _EXPLAINED * lost:
            return mistakes[int(np.argmin(left))][0]
    limit = measured.ladder[0].limits.get("max_abs")
    arithmetic = _ARITHMETIC if limit is None else _IMPRECISE * limit
    if not rounded and compare(probes.reference, vectors).max_abs > arithmetic:
        return (
            "the two compute different functions: check mean and std, the order of channels, and dropout or batch "
            "statistics left in training mode"
        )
    if rounded and step is not None:
        return (
            f"the file gives the embedding itself in steps of {step:.3g}: export int8, which gives it in float, or "
            "fine-tune the student to rounded numbers"
        )
    if rounded:
        return "see which layers lose most; export a finer precision, or fine-tune the student to rounded numbers"
    return "an operator computes less precisely in the exported model: compare the two layer by layer"


def _left(network: nn.Module, pixels: np.ndarray, spec: PreprocessSpec, vectors: np.ndarray) -> float:
    """What is still lost, of the mean cosine, if the torch model makes a mistake, too."""
    return 1 - compare(reference_embeddings(network, pixels, spec), vectors).mean_cosine


def _wrong_mean(
    vectors: np.ndarray, probes: Probes, network: nn.Module, spec: PreprocessSpec
) -> tuple[str, np.ndarray, PreprocessSpec]:
    """The mean, off by the same in every channel, that explains most: the best of some, then fitted between them."""
    pixels, near = probes.pixels[:_FITTED_ON], vectors[:_FITTED_ON]

    def shifted(level: float) -> PreprocessSpec:
        return spec.model_copy(update={"mean": tuple(value + level / 255 for value in spec.mean)})

    def left(level: float) -> float:
        return _left(network, pixels, shifted(level), near)

    tried = sorted([0.0, *_OFFSETS, *(-level for level in _OFFSETS)])
    best = min(range(len(tried)), key=lambda place: left(tried[place]))
    low, high = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    for _ in range(_TRIALS):
        third = (high - low) / 3
        if left(low + third) < left(high - third):
            high -= third
        else:
            low += third
    level = (low + high) / 2
    return f"the file's mean is wrong, by about {level:+.2g} grey levels", probes.pixels, shifted(level)


def _mistakes(pixels: np.ndarray, spec: PreprocessSpec) -> Iterator[tuple[str, np.ndarray, PreprocessSpec]]:
    n, h, w, c = pixels.shape
    if c == 3:
        yield "the file takes the channels in the order BGR: swap them", pixels[..., ::-1], spec
        yield (
            "the file reads the bytes as NCHW: the layout must be NHWC",
            np.ascontiguousarray(pixels.reshape(n, c, h, w).transpose(0, 2, 3, 1)),
            spec,
        )
        yield (
            "the file takes NHWC but computes as if rows, columns and channels were in another order",
            np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(n, h, w, c),
            spec,
        )
    if h == w:
        yield "the file takes rows for columns: the picture is transposed", pixels.transpose(0, 2, 1, 3), spec
    yield "the file takes the picture upside down", pixels[:, ::-1], spec
    yield "the file takes the picture mirrored, left for right", pixels[:, :, ::-1], spec
    yield "the file takes the negative of the picture", 255 - pixels, spec
    wider = 256 / 255
    for what, mean, std in (
        (
            "the file divides by 256 instead of 255",
            [value * wider for value in spec.mean],
            [value * wider for value in spec.std],
        ),
        ("the file divides by 255 but applies neither mean nor std", [0.0] * c, [1.0] * c),
        ("the file applies neither mean nor std, and does not divide by 255", [0.0] * c, [1 / 255] * c),
        ("the file scales to -1..1 instead of applying mean and std", [0.5] * c, [0.5] * c),
        ("the file applies no mean", [0.0] * c, list(spec.std)),
        ("the file applies no std", list(spec.mean), [1.0] * c),
        ("the file applies ImageNet's mean and std", [0.485, 0.456, 0.406][:c], [0.229, 0.224, 0.225][:c]),
    ):
        yield what, pixels, spec.model_copy(update={"mean": tuple(mean), "std": tuple(std)})


def unlike_calibration(graph: Graph, calibration: np.ndarray, pixels: np.ndarray) -> str | None:
    """What to say where activations were calibrated on something else than what is embedded; None: they were not.

    Args:
        calibration, pixels: ``uint8 [n, h, w, c]``, the calibration pictures and ones to be embedded.
    """
    calibrated, seen = observe(graph, calibration), observe(graph, pixels)
    widths = {
        name: (high - low) / max(seen[name][1] - seen[name][0], 1e-12)
        for name, (low, high) in calibrated.items()
        if seen[name] != (0.0, 0.0)
    }
    median, least = float(np.median(list(widths.values()))), min(widths, key=lambda name: widths[name])
    if widths[least] < _NARROWER:
        how = f"{1 / widths[least]:.1f} times narrower in {least}"
    elif median > _WIDER:
        how = f"{median:.1f} times wider in the median layer"
    else:
        return None
    return (
        f"the calibration pictures are unlike those embedded: what they give is {how}; calibrate on real pictures of "
        "the kind to be embedded"
    )
