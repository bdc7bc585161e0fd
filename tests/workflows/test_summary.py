"""Several seeds together: means, paired differences, and an ordering only where interval and all seeds agree."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
from commands import documents, run
from toy import toy_tree, write_pictures

from hetero.errors import ConfigError
from hetero.report.summary import plot_summary, summary_markdown
from hetero.retrieval.bootstrap import Interval, paired_difference
from hetero.workflows import experiment
from hetero.workflows.scores import SCORES, load_scores
from hetero.workflows.summary import Comparison, summarise


@pytest.fixture
def made_up(monkeypatch):
    """Scores are changed by hand, the report beside them is not."""
    monkeypatch.setattr(experiment, "_require_of_report", lambda run, report, scores: None)


def rewritten(source, target, change):
    """A copy of a run whose per-query scores are changed."""
    shutil.copytree(source, target)
    arrays = dict(np.load(target / SCORES))
    change(arrays)
    np.savez_compressed(target / SCORES, **arrays)
    return target


def as_seed(source, target, seed):
    """A copy of a run that says it is of another seed."""
    shutil.copytree(source, target)
    report = json.loads((target / "report.json").read_text())
    report["run"]["seed"] = report["run"]["config"]["seed"] = seed
    report["space_id"] = f"{seed:016x}"
    (target / "report.json").write_text(json.dumps(report))
    return target


def test_compat_keeps_what_each_query_scored_and_its_means_are_the_reports(runs):
    scores = load_scores(runs[0] / SCORES)
    assert set(scores) == {"paragon", "small", "small/homogeneous", "small/reverse", "alone", "alone/homogeneous",
                           "alone/reverse"}  # fmt: skip
    report = json.loads((runs[0] / "report.json").read_text())
    cells = report["students"][0]["cells"]
    for series, cell in (("paragon", "paragon"), ("small", "heterogeneous"), ("small/homogeneous", "homogeneous")):
        for metric in ("r_at_1", "map_at_r"):
            assert scores[series][metric].mean() == pytest.approx(cells[cell][metric]["value"], abs=1e-6)


def test_a_summary_has_means_over_seeds_and_paired_differences(runs):
    found = summarise(runs, [("small", "paragon")])
    one, two = (load_scores(path / SCORES) for path in runs)
    assert found.seeds == (0, 1)
    assert found.by_seed("small", "r_at_1") == pytest.approx([s["small"]["r_at_1"].mean() for s in (one, two)])
    gaps = [s["small"]["r_at_1"].astype(float) - s["paragon"]["r_at_1"] for s in (one, two)]
    comparison = found.comparisons[0]
    assert comparison.by_seed == pytest.approx([gap.mean() for gap in gaps])
    expected = paired_difference(np.mean(gaps, axis=0), np.zeros(len(gaps[0])))
    assert tuple(comparison.difference) == pytest.approx(tuple(expected))
    assert found.mean("small", "r_at_1") == pytest.approx(np.mean([s["small"]["r_at_1"].mean() for s in (one, two)]))


def test_by_default_compatible_students_are_compared_with_the_paragon_and_themselves(runs):
    pairs = {(one.first, one.second) for one in summarise(runs).comparisons}
    assert pairs == {("small", "paragon"), ("small", "small/homogeneous")}


@pytest.mark.parametrize(
    ("low", "high", "seeds", "claimed"),
    [
        (0.01, 0.03, (0.02, 0.018, 0.023), True),
        (-0.03, -0.01, (-0.02, -0.018, -0.023), True),
        (-0.01, 0.03, (0.02, 0.018, 0.023), False),  # the interval holds 0
        (0.01, 0.03, (0.04, -0.001, 0.03), False),  # one seed says otherwise
        (0.01, 0.03, (0.02,), False),  # a single seed claims nothing
        (0.01, 0.03, (0.02, 0.02), False),  # nor do two, however alike
        (0.01, 0.03, (0.03, 0.001, 0.03), False),  # all agree, yet Student's interval over trainings holds 0
    ],
)
def test_an_ordering_is_claimed_where_interval_and_every_seed_agree(low, high, seeds, claimed):
    assert Comparison("a", "b", "r_at_1", Interval((low + high) / 2, low, high), seeds, len(seeds)).claimed == claimed


def test_equal_recipes_are_seldom_told_apart_however_narrow_the_interval_over_queries():
    rng = np.random.default_rng(0)
    claims = {}
    for count in (3, 5):
        found = []
        for _ in range(400):
            by_seed = tuple(rng.normal(0, 0.02, count).tolist())
            mean = float(np.mean(by_seed))
            found.append(Comparison("a", "b", "r_at_1", Interval(mean, mean, mean), by_seed, count).claimed)
        claims[count] = np.mean(found)
    assert max(claims.values()) < 0.09, claims  # 0.05 is meant; signs that agree alone would give 0.25, 0.06


def test_of_a_gallery_model_that_stands_under_all_seeds_nothing_is_claimed(runs, tmp_path):
    seeds = [runs[0], *(as_seed(runs[0], tmp_path / f"{seed}", seed) for seed in (1, 2))]
    found = summarise(seeds, [("small", "paragon"), ("small", "small/homogeneous")])
    assert [one.trainings for one in found.comparisons] == [3, 3, 3, 3]
    for copied in seeds[1:]:
        report = json.loads((copied / "report.json").read_text())
        report["space_id"] = json.loads((seeds[0] / "report.json").read_text())["space_id"]
        (copied / "report.json").write_text(json.dumps(report))
    found = summarise(seeds, [("small", "paragon"), ("small", "small/homogeneous")])
    assert [one.trainings for one in found.comparisons] == [1, 1, 3, 3]
    assert [one.over_trainings is None for one in found.comparisons] == [True, True, False, False]


def test_of_gallery_models_that_stand_under_several_seeds_none_is_claimed_either_way_round(runs, tmp_path, made_up):
    others = [rewritten(run, tmp_path / f"b{run.name}", lambda a: a.update({"paragon|r_at_1": a["paragon|r_at_1"] / 2}))
              for run in runs]  # fmt: skip
    for other in others:
        report = json.loads((other / "report.json").read_text())
        report["space_id"] = json.loads((others[0] / "report.json").read_text())["space_id"]
        (other / "report.json").write_text(json.dumps(report))
    name = f"paragon of {summarise(runs, versus=others).rival.name}"
    found = summarise(runs, [(name, "paragon"), ("paragon", name)], versus=others)
    assert {(one.trainings, one.claimed) for one in found.comparisons} == {(1, False)}


def test_queries_without_a_match_are_counted_as_left_out(tmp_path):
    path = write_pictures(tmp_path / "toy.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    last = arrays["labels"] == arrays["labels"].max()
    groups = np.where(last, len(last), np.arange(len(last)))  # all pictures of one class are of one group
    np.savez(path, **arrays, groups=groups)
    tree = toy_tree(path)
    tree["data"]["groups_key"] = "groups"
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(tree))
    run("train", tmp_path / "toy.yaml", "--out", tmp_path / "run", "--threads", "1")
    run("compat", tmp_path / "run", code=1)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    data = report["run"]["dataset"]
    assert (data["images"], data["queries"]) == (96, 84)
    assert data["queries_without_match"] == 12
    found = summarise([tmp_path / "run"])
    assert found.report.run.dataset.queries == 84
    told = "12 more queries have no possible match and are left out"
    assert told in summary_markdown(found)
    assert told in (tmp_path / "run" / "report.html").read_text()


def test_the_command_prints_json_markdown_a_table_and_a_plot(runs, tmp_path):
    content = documents(run("summary", *runs, "--json", "--compare", "small:small/homogeneous"))
    assert content["seeds"] == [0, 1]
    assert len(content["series"]["small"]["map_at_r"]) == 2
    assert [(c["first"], c["second"]) for c in content["comparisons"]] == [("small", "small/homogeneous")] * 2
    plot = tmp_path / "curve.svg"
    text = run("summary", *runs, "--markdown", "--plot", plot).stdout
    assert "| small − paragon | R@1 | " in text
    value = np.mean(content["series"]["small"]["r_at_1"])
    assert f"| small | {next(s['macs'] for s in content['students'] if s['name'] == 'small'):,} |" in text
    assert f"{value:.4f} [" in text
    assert plot.read_text().startswith("<svg")
    assert (content["name"], content["split"]) == ("toy", "test")
    refused = run("summary", *runs, "--plot", tmp_path / "curve.png", code=2)
    assert "--plot writes an SVG file" in refused.stderr
    assert "small − paragon" in run("summary", *runs).stdout.replace("\n", " ")
    assert "no ordering is claimed" in run("summary", runs[0], "--markdown").stdout


def test_students_that_need_not_be_of_the_family_are_known_as_such(runs, tmp_path):
    for source in runs:
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        report = json.loads((folder / "report.json").read_text())
        next(one for one in report["run"]["config"]["students"] if one["name"] == "small")["matched"] = False
        (folder / "report.json").write_text(json.dumps(report))
    assert summarise(runs).mismatched == frozenset()
    assert summarise([tmp_path / source.name for source in runs]).mismatched == {"small"}


def joined(source, target, **names):
    """A copy of a run whose students are called otherwise, as if trained later under one gallery model."""
    shutil.copytree(source, target)
    report = json.loads((target / "report.json").read_text())
    for student in [*report["students"], *report["run"]["config"]["students"]]:
        student["name"] = names[student["name"]]
    for part in ("thresholds", "histograms", "examples"):
        for entry in report[part]:
            entry["student"] = names[entry["student"]]
    report["curves"] = []
    report["run"]["config"]["gallery"] = {"checkpoint": str(source / "gallery")}
    (target / "report.json").write_text(json.dumps(report))
    arrays = {}
    for key, values in np.load(source / SCORES).items():
        series, _, _ = key.partition("/" if "/" in key else "|")
        arrays[key.replace(series, names.get(series, series), 1)] = values
    np.savez_compressed(target / SCORES, **arrays)
    return target


def test_students_trained_later_under_one_gallery_model_join_the_table(runs, tmp_path):
    later = joined(runs[0], tmp_path / "later", small="tiny", alone="lone")
    found = summarise([*runs, later], [("tiny", "small"), ("tiny", "paragon")])
    assert found.seeds == (0, 1)
    assert {student.name for student in found.students} == {"small", "alone", "tiny", "lone"}
    assert found.seeds_of("small") == (0, 1)
    assert found.seeds_of("tiny") == (0,)
    assert tuple(found.comparisons[0].difference) == (0, 0, 0)
    assert len(found.comparisons[2].by_seed) == 1
    assert not found.comparisons[2].claimed
    text = run("summary", *runs, later, "--markdown").stdout
    assert [line.split("|")[4].strip() for line in text.splitlines() if line.startswith("| tiny |")] == ["1"]
    assert [line.split("|")[4].strip() for line in text.splitlines() if line.startswith("| small |")] == ["2"]
    with pytest.raises(ConfigError, match=r"repeats what another run of the same seed has.*small"):
        summarise([*runs, joined(runs[0], tmp_path / "again", small="small", alone="lone")])


def test_controls_turned_at_random_are_listed_by_seed_and_those_outside_are_named(runs, tmp_path):
    def with_band(run, name, band):
        shutil.copytree(run, tmp_path / name)
        report = json.loads((run / "report.json").read_text())
        control = next(student for student in report["students"] if student["role"] == "control")
        score = {key: control["cells"]["heterogeneous"][key]["value"] for key in ("r_at_1", "map_at_r")}
        control["rotated"] = {"rotations": 9} | {key: [low(value), high(value)] for (key, value), (low, high) in
                                                 zip(score.items(), band, strict=True)}  # fmt: skip
        (tmp_path / name / "report.json").write_text(json.dumps(report))
        return tmp_path / name, score

    around, below = (lambda v: v * 0.9, lambda v: v + 0.1), (lambda v: v + 0.1, lambda v: v + 0.2)
    (first, score), (second, _) = with_band(runs[0], "a", (around, around)), with_band(runs[1], "b", (around, below))
    found = summarise([second, first])
    assert {(one.seed, one.within("r_at_1"), one.within("map_at_r")) for one in found.turned} == {
        (0, True, True), (1, True, False),
    }  # fmt: skip
    listed = {one["seed"]: one for one in found.to_json()["turned"]}
    assert listed[0]["r_at_1"]["score"] == score["r_at_1"]
    assert listed[1]["map_at_r"]["within"] is False
    text = run("summary", first, second, "--markdown").stdout
    rows = [line for line in text.splitlines() if line.startswith(("| alone | 0 |", "| alone | 1 |"))]
    assert ["outside" in row for row in rows] == [False, True]
    assert "9 random rotations. Outside: 0 in R@1 and 1 in mAP@R, of 2;" in text
    assert "random rotations" not in run("summary", *runs, "--markdown").stdout


def test_series_that_no_seed_has_both_of_are_refused(runs, tmp_path):
    later = joined(runs[1], tmp_path / "later", small="tiny", alone="lone")
    with pytest.raises(ConfigError, match=r"small and tiny cannot be compared.*no seed that has both"):
        summarise([runs[0], later], [("small", "tiny")])


def test_another_recipes_gallery_model_is_compared_by_seed_and_query(runs, tmp_path, made_up):
    def worse(seed, by):
        def lower(arrays):
            for metric in ("r_at_1", "map_at_r"):
                arrays[f"paragon|{metric}"] = arrays[f"paragon|{metric}"] - np.float32(by)

        return rewritten(runs[seed], tmp_path / f"other{seed}-{by}", lower)

    others = [worse(0, 0.1171875), worse(1, 0.1328125)]
    third = [as_seed(source, tmp_path / f"third{i}", 2) for i, source in enumerate((runs[0], worse(0, 0.125)))]
    found = summarise([*runs, third[0]], versus=[*others, third[1]])
    comparison = found.comparisons[-1]
    assert (comparison.first, comparison.second) == ("paragon", f"paragon of {found.rival.name}")
    assert tuple(comparison.difference) == pytest.approx((0.125, 0.125, 0.125))
    assert comparison.claimed
    report = json.loads((others[1] / "report.json").read_text())
    report["space_id"] = json.loads((others[0] / "report.json").read_text())["space_id"]
    (others[1] / "report.json").write_text(json.dumps(report))
    twice = summarise(runs, versus=others).comparisons[-1]
    assert (twice.trainings, twice.claimed) == (1, False)  # one gallery model under two seeds
    plot = plot_summary(found)
    assert f"{found.rival.series}: R@1 {found.mean(found.rival.series, 'r_at_1'):.4f}" in plot.alt
    assert plot.svg != plot_summary(summarise(runs)).svg  # letters are outlines: that it is drawn is all that shows
    text = run("summary", *runs, "--versus", others[0], "--versus", others[1], "--markdown").stdout
    assert f"| paragon − paragon of {found.rival.name} | R@1 | +0.1250 [+0.1250, +0.1250] |" in text
    assert f"| paragon of {found.rival.name} | {found.report.macs.gallery:,} | 1.0× | 2 |" in text


def test_a_series_that_there_is_not_is_refused_naming_the_nearest(runs):
    with pytest.raises(ConfigError, match=r"no series 'smal' to compare.*small"):
        summarise(runs, [("smal", "paragon")])
    assert "FIRST:SECOND" in run("summary", *runs, "--compare", "small", code=2).stderr.replace("\n", " ")


def test_the_difference_of_a_student_that_is_better_on_every_query_is_claimed(runs, tmp_path, made_up):
    three = [*runs, as_seed(runs[1], tmp_path / "third", 2)]
    changed = [
        rewritten(
            path, tmp_path / f"c{path.name}", lambda a, by=by: a.update({"small|r_at_1": a["paragon|r_at_1"] + by})
        )
        for path, by in zip(three, (0.2421875, 0.2578125, 0.25), strict=True)
    ]
    comparison = summarise(changed, [("small", "paragon")]).comparisons[0]
    assert comparison.claimed
    assert tuple(comparison.difference) == pytest.approx((0.25, 0.25, 0.25))


def test_runs_may_differ_in_arithmetic_and_the_summary_says_so(runs, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(runs[1], other)
    report = json.loads((other / "report.json").read_text())
    report["run"]["config"]["gallery"]["train"]["precision"] = "bfloat16"
    report["run"]["config"]["student_training"]["gallery_precision"] = "bfloat16"
    (other / "report.json").write_text(json.dumps(report))
    found = summarise([runs[0], other])
    assert found.to_json()["arithmetic"] == {
        "gallery.train.precision": {"auto": [0], "bfloat16": [1]},
        "student_training.gallery_precision": {"auto": [0], "bfloat16": [1]},
    }
    told = "`gallery.train.precision` differs: auto (seed 0), bfloat16 (seed 1)."
    assert told in summary_markdown(found)
    assert summarise([runs[0]], versus=[as_seed(other, tmp_path / "rival", 0)]).arithmetic == {
        key: {"auto": [0], "bfloat16": [0]} for key in found.arithmetic
    }
    assert not summarise(runs).arithmetic
    assert "differs" not in summary_markdown(summarise(runs))
