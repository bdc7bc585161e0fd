"""k = 8 students of one gallery model in one step, against its parts timed alone and against 8 separate runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from hetero.losses.config import AlignmentConfig, CentroidConfig, LossConfig
from hetero.models.arch import ArchSpec, Stage
from hetero.models.cost import cost
from hetero.models.network import build_network, channels_last
from hetero.training.config import TrainConfig
from hetero.training.parallel import side_by_side
from hetero.training.step import train_step
from hetero.training.trainee import Trainee

STUDENTS, BATCH, STEPS, ROUNDS = 8, 96, 3, 7
LARGE = ArchSpec(
    size=28, channels=1, stem_width=32,
    stages=(Stage(width=64, depth=2), Stage(width=128, depth=2), Stage(width=256, depth=2)),
)  # fmt: skip
SMALL = ArchSpec(
    size=28, channels=1, stem_width=8,
    stages=(Stage(width=8, depth=2), Stage(width=24, depth=2), Stage(width=128, depth=2, expansion=0.36)),
)  # fmt: skip


def run() -> list[dict[str, object]]:
    """Ratios of time of the same steps and batch: joint over its bound, joint over separate runs."""
    ratio_of_cost = cost(LARGE).macs / cost(SMALL).macs
    gallery = channels_last(build_network(LARGE, seed=0)).eval()
    students = [_student(number) for number in range(STUDENTS)]
    image = torch.randn(BATCH, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) // 4
    with torch.no_grad():
        embedding = gallery(image)

    def joint() -> None:
        train_step(students, gallery, image, labels, step=1, mapper=mapper)

    def forward() -> None:
        with torch.no_grad():
            gallery(image)

    def alone() -> None:  # eight student steps, the gallery embedding given
        for student in students:
            train_step([student], lambda _: embedding, image, labels, step=1)

    def beside() -> None:  # the same steps as they run in a joint one, side by side
        train_step(students, lambda _: embedding, image, labels, step=1, mapper=mapper)

    def separate() -> None:
        for student in students:
            train_step([student], gallery, image, labels, step=1)

    works = (joint, forward, alone, separate, beside)
    with side_by_side(STUDENTS, torch.device("cpu")) as mapper:
        for work in works:
            work()
        rounds = [[_seconds(work) for work in works] for _ in range(ROUNDS)]
    against_bound = statistics.median(j / (f + a) for j, f, a, _, _ in rounds)
    against_tight_bound = statistics.median(j / (f + b) for j, f, _, _, b in rounds)
    against_separate = statistics.median(j / s for j, _, _, s, _ in rounds)
    best_possible = statistics.median((f + a) / s for _, f, a, s, _ in rounds)
    print(f"gallery model {ratio_of_cost:.1f}x a student, {torch.get_num_threads()} threads")
    return [
        {
            "name": f"{STUDENTS} students in one step, time",
            "ratio": against_bound,
            "against": f"one gallery forward and {STUDENTS} student steps, each timed alone",
            "goal": 1.10,
            "better": "lower",
        },
        {
            "name": f"{STUDENTS} students in one step, time",
            "ratio": against_tight_bound,
            "against": f"one gallery forward and {STUDENTS} student steps side by side, each of the two timed alone",
            "goal": 1.10,
            "better": "lower",
        },
        {
            "name": f"{STUDENTS} students in one step, time",
            "ratio": against_separate,
            "against": f"{STUDENTS} separate runs, each with its gallery forward (bound {best_possible:.2f})",
            "goal": 0.45,
            "better": "lower",
        },
    ]


def _student(number: int) -> Trainee:
    return Trainee(
        f"student {number}",
        SMALL,
        LossConfig(alignment=AlignmentConfig(weight=8), centroid=CentroidConfig(weight=24)),
        TrainConfig(epochs=1),
        steps=100,
        num_classes=BATCH // 4,
        seed=number,
        device=torch.device("cpu"),
    )


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(STEPS):
        work()
    return (time.perf_counter() - start) / STEPS
