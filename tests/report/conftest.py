"""A made-up report with everything in it: four students, one of them a control."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from hetero.report.assemble import make_report
from hetero.report.numbers import Interval
from hetero.report.schema import (
    Baseline,
    Baselines,
    Cells,
    Check,
    Cost,
    CurvePoint,
    DataDescription,
    Example,
    Histogram,
    Match,
    Metrics,
    Picture,
    Report,
    Rule,
    RuleResult,
    Run,
    Student,
    Threshold,
)

GALLERY_MACS, GALLERY_PARAMS = 52_100_000, 2_310_000
SCORES = {  # name: (MACs, parameters, heterogeneous, homogeneous, reverse), each (R@1, R@5, mAP@R)
    "tiny-23x": (
        2_265_000,
        101_000,
        (0.8581, 0.9532, 0.5701),
        (0.8402, 0.9411, 0.5329),
        (0.8473, 0.9482, 0.5523),
    ),
    "tiny-45x": (
        1_158_000,
        61_000,
        (0.8523, 0.9479, 0.5532),
        (0.8305, 0.9372, 0.5101),
        (0.8391, 0.9423, 0.5344),
    ),
    "tiny-100x": (
        521_000,
        32_000,
        (0.8021, 0.9268, 0.5002),
        (0.8063, 0.9296, 0.4723),
        (0.7952, 0.9154, 0.4851),
    ),
    "tiny-23x-alone": (
        2_265_000,
        101_000,
        (0.0021, 0.0088, 0.0016),
        (0.7862, 0.9131, 0.4612),
        (0.0019, 0.0083, 0.0015),
    ),
}


def interval(value: float, half_width: float = 0.0061) -> Interval:
    half_width = min(half_width, value / 2)
    return Interval(value=value, low=value - half_width, high=min(1.0, value + half_width))


def metrics(scores: tuple[float, float, float]) -> Metrics:
    return Metrics(r_at_1=interval(scores[0]), r_at_5=interval(scores[1]), map_at_r=interval(scores[2], 0.0043))


def rule_result(difference: float, half_width: float = 0.0052) -> RuleResult:
    low, high = difference - half_width, difference + half_width
    return RuleResult(satisfied=low > 0, difference=difference, low=low, high=high)


def student(name: str, *, role: str = "compatible") -> Student:
    macs, params, heterogeneous, homogeneous, reverse = SCORES[name]
    return Student(
        name=name,
        role=role,
        description="trained alone" if role == "control" else "influence + 10 × alignment",
        cells=Cells(
            paragon=metrics((0.8871, 0.9633, 0.6063)),
            heterogeneous=metrics(heterogeneous),
            homogeneous=metrics(homogeneous),
            reverse=metrics(reverse),
        ),
        rule=Rule(
            r_at_1=rule_result(heterogeneous[0] - homogeneous[0]),
            map_at_r=rule_result(heterogeneous[2] - homogeneous[2]),
        ),
        macs=Cost.of(GALLERY_MACS, macs),
        params=Cost.of(GALLERY_PARAMS, params),
    )


def histogram(name: str, mean: float) -> Histogram:
    edges = np.linspace(-1, 1, 81)
    centres = (edges[1:] + edges[:-1]) / 2
    matching = 250_000 * np.exp(-(((centres - mean) / 0.17) ** 2) / 2)
    other = 9_000_000 * np.exp(-(((centres - 0.05) / 0.13) ** 2) / 2)
    return Histogram(
        student=name,
        edges=tuple(edges.tolist()),
        matching=tuple(matching.astype(int).tolist()),
        non_matching=tuple(other.astype(int).tolist()),
    )


def thumbnail(seed: int) -> str:
    """A 28 px scribble as base64 PNG."""
    random = np.random.default_rng(seed)
    pixels = np.full((28, 28), 255, np.uint8)
    y, x = 14, 14
    for _ in range(150):
        y, x = np.clip([y + random.integers(-1, 2), x + random.integers(-1, 2)], 2, 25)
        pixels[y : y + 2, x : x + 2] = 20
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def examples() -> tuple[Example, ...]:
    made = []
    for number in range(6):
        name = f"Futurama/character{number:02d}"
        matches = tuple(
            Match(
                id=f"omniglot28[{1000 * number + rank}]",
                class_name=name if (rank + number) % 3 else "Tengwar/character17",
                similarity=0.93 - 0.04 * rank - 0.01 * number,
                correct=bool((rank + number) % 3),
                image_png=thumbnail(number if (rank + number) % 3 else 99),
            )
            for rank in range(6)
        )
        query = Picture(id=f"omniglot28[{number}]", class_name=name, image_png=thumbnail(number))
        made.append(Example(student="tiny-23x", query=query, matches=matches))
    return tuple(made)


def curves() -> tuple[CurvePoint, ...]:
    points = []
    random = np.random.default_rng(0)
    for step in range(0, 1200, 20):
        loss = 2.0 + 10 * np.exp(-step / 300) + 0.1 * random.standard_normal()
        speed = 610 + 9 * random.standard_normal()
        points.append(CurvePoint(phase="gallery", step=step, epoch=step / 100, loss=loss, images_per_s=speed))
    for step in range(0, 1200, 20):
        terms = {}
        for shift, name in enumerate(("tiny-23x", "tiny-45x", "tiny-100x")):
            terms[f"{name}/influence"] = 3 + shift / 4 + 8 * np.exp(-step / 250) + 0.1 * random.standard_normal()
            terms[f"{name}/alignment"] = 0.5 + shift / 9 + 4 * np.exp(-step / 350)
        loss = sum(terms.values())
        at = {"phase": "students", "step": step, "epoch": step / 100}
        points.append(CurvePoint(**at, loss=loss, terms=terms, images_per_s=480 + 9 * random.standard_normal()))
    return tuple(points)


@pytest.fixture(scope="session")
def run_record() -> Run:
    return Run(
        name="omniglot",
        command="hetero train examples/omniglot.yaml --set seed=7",
        config={"seed": 7, "data": {"name": "omniglot28"}, "gallery": {"width": 1.5, "note": None}},
        config_sha256="0f" * 32,
        hetero_version="0.1.0",
        versions={"python": "3.11.9", "torch": "2.13.0", "numpy": "1.26.4"},
        seed=7,
        device="cpu",
        threads=2,
        dataset=DataDescription(
            name="omniglot28",
            split="test",
            images=13_180,
            classes=659,
            queries=13_180,
            protocol="leave-one-out",
            train_images=15_680,
            train_classes=784,
        ),
        durations_s={"gallery": 1320.0, "students": 1710.4, "compat": 45.2},
        images_per_s={"loader": 21_400.0, "gallery": 611.0, "students": 483.5},
    )


@pytest.fixture(scope="session")
def report(run_record: Run) -> Report:
    students = [student(name, role="control" if "alone" in name else "compatible") for name in SCORES]
    return make_report(
        space_id="hs1-0123456789abcdef01234567",
        run=run_record,
        students=students,
        baselines=Baselines(
            raw_pixels=Baseline(description="PCA-64", r_at_1=interval(0.3483), map_at_r=interval(0.0591)),
            chance=Baseline(r_at_1=Interval.exact(19 / 13_179)),
        ),
        thresholds=[
            Threshold(
                student=one.name,
                false_accept_rate=rate,
                similarity=similarity,
                impostor_pairs=1_200_000,
                true_accept_rate=accepted,
            )
            for one in students[:3]
            for rate, similarity, accepted in ((1e-3, 0.462, 0.8312), (1e-4, 0.571, 0.6571))
        ],
        histograms=[histogram(one.name, 0.66 if one.role == "compatible" else 0.06) for one in students],
        examples=examples(),
        curves=curves(),
        checks=[
            Check(name="heterogeneous R@1 ≥ 0.9 × paragon", passed=True, value=0.967, expected="≥ 0.9"),
            Check(name="control at chance", passed=True, value=0.0021, expected="≤ 3 × chance"),
        ],
    )


@pytest.fixture(scope="session")
def with_recalls(report: Report) -> Report:
    """The same, measured by the preset ``sop``: R@10, R@100 and R@1000 in every cell, too, each another number."""
    document = report.model_dump(mode="json", by_alias=True)
    document["run"]["dataset"]["preset"] = "sop"
    for student in document["students"]:
        student["recalls"] = {}
        for cell, metrics in student["cells"].items():
            missed = 1 - metrics["r_at_5"]["value"]
            more = {str(k): interval(1 - missed * share) for k, share in ((10, 0.8), (100, 0.5), (1000, 0.2))}
            one = {"1": metrics["r_at_1"]}
            student["recalls"][cell] = one | {k: found.model_dump() for k, found in more.items()}
    return Report.model_validate(document)
