"""Scores kept for the repository, and the pages of results that are made of them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from commands import run

from benchmarks.keep_scores import main as keep_scores
from benchmarks.results_pages import renewed
from hetero.workflows.summary import summarise


def test_kept_scores_say_what_the_run_says(runs, tmp_path):
    kept = [tmp_path / run.name for run in runs]
    for source, target in zip(runs, kept, strict=True):
        keep_scores(source, target)
    whole, small = summarise(runs), summarise(kept)
    for series in ("paragon", "small", "small/homogeneous", "alone"):
        assert small.by_seed(series, "r_at_1") == pytest.approx(whole.by_seed(series, "r_at_1"), abs=1e-9)
        assert small.by_seed(series, "map_at_r") == pytest.approx(whole.by_seed(series, "map_at_r"), abs=2e-4)
    assert not any(series.endswith("/reverse") for own in small.scores.values() for series in own)
    for first, second in zip(whole.comparisons, small.comparisons, strict=True):
        assert tuple(second.difference) == pytest.approx(tuple(first.difference), abs=2e-4)


def test_kept_scores_name_no_folder_and_go_with_runs_on_any_machine(runs, tmp_path):
    keep_scores(runs[0], tmp_path / "kept")
    data = json.loads((runs[0] / "report.json").read_text())["run"]["config"]["data"]
    assert Path(data["path"]).is_absolute()
    assert json.dumps(str(Path(data["path"]).parent))[1:-1] not in (tmp_path / "kept" / "report.json").read_text()
    command = json.loads((tmp_path / "kept" / "report.json").read_text())["run"]["command"]
    assert command.startswith("hetero compat")
    assert "/" not in command
    both = summarise([tmp_path / "kept", runs[1]])
    assert both.by_seed("small", "r_at_1") == pytest.approx(summarise(runs).by_seed("small", "r_at_1"), abs=1e-9)


def test_a_page_of_results_has_its_tables_and_plots_made_again(runs, tmp_path):
    for source in runs:
        shutil.copytree(source, tmp_path / "kept" / source.name)
    page = "before\n<!-- hetero summary kept/0 kept/1 --plot curve.svg -->\nold\n<!-- end -->\nafter\n"
    made = renewed(page, tmp_path)
    assert made.startswith("before\n<!-- hetero summary kept/0 kept/1 --plot curve.svg -->\n")
    assert made.endswith("\n<!-- end -->\nafter\n")
    assert run("summary", *runs, "--markdown").stdout.strip() in made
    assert "old" not in made
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")
    assert renewed(made, tmp_path) == made
    with pytest.raises(SystemExit, match=r"hetero summary kept/2\nerror: there is no readable report at kept/2"):
        renewed("<!-- hetero summary kept/2 -->\n<!-- end -->", tmp_path)
