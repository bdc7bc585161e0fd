"""Named evaluations of published data sets: which split, which protocol, and at which ranks their papers report R@k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hetero.errors import ConfigError, nearest
from hetero.retrieval.bootstrap import RESAMPLES, Interval, intervals
from hetero.retrieval.metrics import Scores


@dataclass(frozen=True)
class Preset:
    """How one published data set is evaluated.

    Attributes:
        name: what a config calls it.
        data_format: ``data.format`` that it belongs to.
        split: whose classes are searched.
        protocol: who is searched against whom, in words; the reader's roles make it so.
        ranks: increasing k of R@k.
        metrics: of :data:`hetero.retrieval.metrics.METRICS`, those to quote beside R@k.
        source: the paper that set it.
    """

    name: str
    data_format: str
    split: str
    protocol: str
    ranks: tuple[int, ...]
    metrics: tuple[str, ...]
    source: str


_LEAVE_ONE_OUT = "leave-one-out: every image is a query against all others"

PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset(
            name="omniglot",
            data_format="omniglot",
            split="test",
            protocol=f"{_LEAVE_ONE_OUT}, of the evaluation alphabets",
            ranks=(1, 5, 10),
            metrics=("r_at_1", "map_at_r"),
            source="Lake et al., Human-level concept learning through probabilistic program induction, Science 2015 "
            "(the division of the alphabets; retrieval over all of them is hetero's)",
        ),
        Preset(
            name="cub200",
            data_format="cub200",
            split="test",
            protocol=f"{_LEAVE_ONE_OUT}, of classes 101 to 200",
            ranks=(1, 2, 4, 8),
            metrics=("r_at_1", "map_at_r"),
            source="Song et al., Deep metric learning via lifted structured feature embedding, CVPR 2016; mAP@R: "
            "Musgrave et al., A metric learning reality check, ECCV 2020",
        ),
        Preset(
            name="sop",
            data_format="sop",
            split="test",
            protocol=f"{_LEAVE_ONE_OUT}, of the products in Ebay_test.txt",
            ranks=(1, 10, 100, 1000),
            metrics=("r_at_1", "map_at_r"),
            source="Song et al., Deep metric learning via lifted structured feature embedding, CVPR 2016",
        ),
        Preset(
            name="inshop",
            data_format="inshop",
            split="test",
            protocol="images of status query against images of status gallery",
            ranks=(1, 10, 20, 30, 40, 50),
            metrics=("r_at_1",),
            source="Liu et al., DeepFashion: powering robust clothes recognition and retrieval with rich annotations, "
            "CVPR 2016",
        ),
        Preset(
            name="deepfashion2-c2s",
            data_format="deepfashion2",
            split="test",
            protocol="consumers' garments of a pair against all shop garments of validation, in their true boxes; "
            "top-k accuracy is R@k",
            ranks=(1, 5, 10, 15, 20),
            metrics=("r_at_1",),
            source="Ge et al., DeepFashion2: a versatile benchmark for detection, pose estimation, segmentation and "
            "re-identification of clothing images, CVPR 2019",
        ),
    )
}


@dataclass(frozen=True)
class TemplatePreset:
    """How ``hetero templates`` scores a published set of templates, which no ``data`` section reads.

    Attributes:
        name: how it is called.
        benchmark: the reader it belongs to.
        protocol: verification of pairs (1:1) or search in galleries (1:N).
        fars: false accept rates of 1:1, at which TAR is reported.
        ranks, fpirs: of 1:N: ranks of the closed set, false positive identification rates of the open one.
        source: the paper that set it.
    """

    name: str
    benchmark: str
    protocol: Literal["1:1", "1:N"]
    fars: tuple[float, ...]
    ranks: tuple[int, ...]
    fpirs: tuple[float, ...]
    source: str


_IJBC = "Maze et al., IARPA Janus Benchmark – C: face dataset and protocol, ICB 2018"

TEMPLATE_PRESETS: Final[dict[str, TemplatePreset]] = {
    preset.name: preset
    for preset in (
        TemplatePreset(
            name="ijbc-1:1",
            benchmark="ijbc",
            protocol="1:1",
            fars=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),  # its 15.6 million impostor pairs support the last
            ranks=(),
            fpirs=(),
            source=f"{_IJBC} (test 1, 1:1 verification: TAR at stated FARs)",
        ),
        TemplatePreset(
            name="ijbc-1:N",
            benchmark="ijbc",
            protocol="1:N",
            fars=(),
            ranks=(1, 5, 10),
            fpirs=(1e-1, 1e-2),
            source=f"{_IJBC} (test 4, 1:N mixed search in galleries G1 and G2)",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of this name that a config can name.

    Raises:
        ConfigError: there is none (lists the nearest), or it scores templates, which a command does.
    """
    if name in TEMPLATE_PRESETS:
        preset = TEMPLATE_PRESETS[name]
        raise ConfigError(
            f"the preset {name!r} scores templates, which no data section holds",
            expected=nearest(name, PRESETS),
            fix=f"remove evaluation.preset, train, and run: hetero templates RUN PATH --protocol {preset.protocol}",
        )
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(
            f"there is no evaluation preset {name!r}",
            expected=nearest(name, [*PRESETS, *TEMPLATE_PRESETS]),
            fix="correct evaluation.preset",
        ) from None


def find_template_preset(name: str) -> TemplatePreset:
    """The preset of ``hetero templates`` of this name.

    Raises:
        ConfigError: there is none; lists the nearest.
    """
    try:
        return TEMPLATE_PRESETS[name]
    except KeyError:
        raise ConfigError(
            f"there is no preset of templates {name!r}",
            expected=nearest(name, TEMPLATE_PRESETS),
            fix="correct the name",
        ) from None


def recalls(scores: Scores, ranks: Sequence[int], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[int, Interval]:
    """R@k of each rank with its 95 % interval, by rank; the resampled queries are those of every other metric.

    Raises:
        RetrievalError: a rank below 1, or none.
    """
    values = scores.hits_at(ranks)
    return dict(zip(ranks, intervals(values, seed=seed, resamples=resamples), strict=True))
