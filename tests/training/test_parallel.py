"""Students side by side: as many as there are threads, each with its share of them and what that share gives."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from fleets import student, train, with_students
from test_run import Killed, StopAt, weights

from hetero.journal import read_journal
from hetero.training.parallel import one_by_one, side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "available", "each"), [(4, 2, 1), (2, 4, 2), (3, 7, 2), (8, 3, 1)], ids=lambda value: str(value)
)
def test_the_processs_threads_are_shared_out_and_given_back(threads, count, available, each):
    threads(available)
    workers = min(count, available)
    meeting = threading.Barrier(workers)

    def work(item):
        meeting.wait(10)  # only if so many are at work at once
        return item, torch.get_num_threads(), threading.get_ident()

    with side_by_side(count, CPU) as mapper:
        found = mapper(work, range(workers))
        assert torch.get_num_threads() == available
    assert [item for item, _, _ in found] == list(range(workers))
    assert {own for _, own, _ in found} == {each}
    assert len({name for _, _, name in found}) == workers
    assert torch.get_num_threads() == available


@pytest.mark.parametrize(("count", "available"), [(1, 4), (4, 1), (0, 2)])
def test_students_take_turns_where_there_is_nothing_to_share(threads, count, available):
    threads(available)
    with side_by_side(count, CPU) as mapper:
        assert mapper is one_by_one
    with side_by_side(4, torch.device("meta")) as mapper:
        assert mapper is one_by_one


def test_an_error_in_one_student_is_raised(threads):
    threads(2)

    def fail(item):
        raise ZeroDivisionError(item)

    with pytest.raises(ZeroDivisionError), side_by_side(2, CPU) as mapper:
        mapper(fail, [1, 2])
    assert torch.get_num_threads() == 2


def fleet(pictures, gallery):
    return with_students(
        pictures,
        gallery,
        student("a"),
        student("b", loss={"alignment": {}, "centroid": {}}),
        student("c", role="control", loss={"softmax": {}}),
        sampler={"kind": "pk", "images_per_class": 2},
        save_every_steps=2,
    )


def test_students_side_by_side_learn_what_they_learn_in_turns_and_resume_to_the_same_bits(
    pictures, gallery, tmp_path, threads
):
    turns = train(fleet(pictures, gallery), tmp_path / "turns", threads=1)
    beside = train(fleet(pictures, gallery), tmp_path / "beside", threads=2)
    assert weights(beside.run) == weights(turns.run)  # one thread each in both
    with pytest.raises(Killed):
        train(fleet(pictures, gallery), tmp_path / "cut", StopAt(5), threads=2)
    cut = train(fleet(pictures, gallery), tmp_path / "cut", threads=2)
    assert weights(cut.run) == weights(beside.run)
    logged = [[line["loss"] for line in read_journal(run.run / "metrics.jsonl")] for run in (turns, beside, cut)]
    assert logged[0] == logged[1] == logged[2]


def test_a_diverging_student_is_stopped_beside_others_too(pictures, gallery, tmp_path, threads):
    good, bad = student("good"), student("bad", train={"lr": 1e38})
    run = train(with_students(pictures, gallery, good, bad), tmp_path / "run", threads=2)
    assert "good" in run.students
    assert "bad" in run.stopped
