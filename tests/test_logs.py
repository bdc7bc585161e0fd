"""Progress says where it is, and never on stdout."""

from __future__ import annotations

import io

from rich.console import Console

from hetero.logs import BarProgress, PlainProgress, Progress, SilentProgress, stderr_progress


def run_through(progress: Progress) -> None:
    progress.start("students", total=100, done=40)
    progress.advance(60, losses={"small": 1.25, "alone": 2.5}, images_per_s=512.4)
    progress.advance(61, losses={"small": 1.25, "alone": 2.5}, images_per_s=512.4)
    progress.advance(100, losses={"small": 0.5, "alone": 2.0}, images_per_s=600.0)
    progress.finish()


def test_plain_lines_say_step_loss_speed_and_time_left_at_most_every_ten_seconds():
    text = io.StringIO()
    run_through(PlainProgress(Console(file=text, soft_wrap=True)))
    lines = text.getvalue().splitlines()
    assert lines[0] == "students: 100 steps, resumed after step 40"
    assert lines[1].startswith("students: step 60/100, loss small 1.250, alone 2.500, 512 images/s, ")
    assert lines[1].endswith(" s left")
    assert len(lines) == 3
    assert "step 100/100" in lines[2]


def test_the_bar_shows_count_and_loss():
    text = io.StringIO()
    run_through(BarProgress(Console(file=text, force_terminal=True, width=140)))
    assert "100/100" in text.getvalue()
    assert "loss small 0.500, alone 2.000, 600 images/s" in text.getvalue()


def test_nothing_reaches_stdout(capsys):
    run_through(stderr_progress())
    run_through(SilentProgress())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 100/100" in captured.err


def test_a_terminal_gets_the_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(stderr_progress(), BarProgress)
