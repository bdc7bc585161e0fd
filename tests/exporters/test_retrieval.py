"""The upper rungs: recomputed slowly from the vectors, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from exporters.calibration import read_calibration
from exporters.retrieval import HISTOGRAM_BINS, Judge, RetrievalTest
from hetero.errors import ConfigError, RetrievalError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.protocol import Protocol, leave_one_out
from hetero.retrieval.verification import Rate, Threshold

sys.path.insert(0, str(Path(__file__).parent))
from pictures import smooth

CLASSES, EACH, DIM = 9, 5, 6
SPEC = PreprocessSpec(height=8, width=6, channels=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def threshold(similarity: float) -> Threshold:
    rate = Rate(value=0.5, low=0.4, high=0.6)
    return Threshold(
        far=0.01,
        similarity=similarity,
        impostor_pairs=5000,
        calibration_far=0.009,
        calibration_queries=50,
        true_accept_rate=rate,
        false_accept_rate=rate,
        genuine_pairs=100,
        test_impostor_pairs=900,
    )


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(CLASSES * EACH) % CLASSES
    gallery = unit(random.normal(size=(CLASSES, DIM))[labels] + random.normal(0, 0.7, (len(labels), DIM)))
    torch = unit(gallery + random.normal(0, 0.4, gallery.shape))
    file = unit(torch + random.normal(0, 0.5, torch.shape))
    return {"labels": labels, "gallery": gallery, "torch": torch, "file": file}


def judge_of(vectors: dict[str, np.ndarray], thresholds: tuple[Threshold, ...]) -> tuple[Judge, list[int]]:
    """Pictures are query numbers, so that what is read can be told from what is embedded."""
    blocks: list[int] = []

    def read(queries: np.ndarray) -> np.ndarray:
        blocks.append(len(queries))
        return queries.astype(np.uint8)[:, None, None, None]

    test = RetrievalTest("numbers", read, vectors["gallery"], leave_one_out(vectors["labels"]))
    return Judge(test, lambda pixels: vectors["torch"][pixels[:, 0, 0, 0]], thresholds), blocks


def test_the_rungs_are_what_a_slow_search_finds(vectors: dict[str, np.ndarray]) -> None:
    judge, _ = judge_of(vectors, (threshold(0.3), threshold(0.8)))
    rungs, similarities = judge.judge(lambda pixels: vectors["file"][pixels[:, 0, 0, 0]])
    labels = vectors["labels"]
    right, accepted = {}, {}
    for name in ("torch", "file"):
        near = vectors[name] @ vectors["gallery"].T
        np.fill_diagonal(near, -np.inf)
        right[name] = labels[near.argmax(1)] == labels
        same = labels[:, None] == labels
        np.fill_diagonal(same, False)
        other = labels[:, None] != labels
        accepted[name] = [((near >= at) & same).sum() / same.sum() for at in (0.3, 0.8)]
        accepted[name] += [((near >= at) & other).sum() / other.sum() for at in (0.3, 0.8)]
    retrieval, flips, thresholds = (rungs[name] for name in ("retrieval", "flips", "thresholds"))
    assert retrieval["r_at_1"] == pytest.approx(right["file"].mean())
    assert retrieval["r_at_1_delta"] == pytest.approx(right["file"].mean() - right["torch"].mean())
    assert retrieval["r_at_1_low"] <= retrieval["r_at_1_delta"] <= retrieval["r_at_1_high"]
    assert retrieval["r_at_1_low"] < retrieval["r_at_1_high"]
    assert flips["lost"] == pytest.approx((right["torch"] & ~right["file"]).mean())
    assert flips["won"] == pytest.approx((right["file"] & ~right["torch"]).mean())
    assert flips["lost"] > flips["won"] > 0
    shifts = [accepted["file"][place] - accepted["torch"][place] for place in (0, 1)]
    assert thresholds["true_accept_delta"] == pytest.approx(min(shifts), abs=1e-6)
    floor = 10 / (CLASSES * EACH * (CLASSES - 1) * EACH)
    ratios = [max(accepted["file"][place], floor) / max(accepted["torch"][place], floor) for place in (2, 3)]
    assert thresholds["false_accept_ratio"] == pytest.approx(max(ratios), abs=1e-6)
    assert len(similarities.matching) == HISTOGRAM_BINS
    assert sum(similarities.matching) == CLASSES * EACH * (EACH - 1)
    assert sum(similarities.non_matching) == CLASSES * EACH * (CLASSES - 1) * EACH


def test_the_torch_model_itself_loses_nothing_and_without_thresholds_there_is_no_such_rung(
    vectors: dict[str, np.ndarray],
) -> None:
    judge, _ = judge_of(vectors, ())
    rungs, similarities = judge.judge(lambda pixels: vectors["torch"][pixels[:, 0, 0, 0]])
    assert rungs.keys() == {"retrieval", "flips"}
    assert rungs["flips"] == {"lost": 0.0, "won": 0.0}
    assert rungs["retrieval"]["r_at_1_delta"] == rungs["retrieval"]["map_at_r_delta"] == 0.0
    assert rungs["retrieval"]["r_at_1_low"] == pytest.approx(-3 / len(vectors["labels"]))  # by the rule of three
    assert similarities == judge.torch.similarities
    exact, _ = judge.judge(lambda pixels: vectors["torch"][pixels[:, 0, 0, 0]], exact=True)
    assert exact["retrieval"]["r_at_1_low"] == exact["retrieval"]["r_at_1_high"] == 0.0


def accepting(matching: list[float], other: list[float]) -> np.ndarray:
    """Four queries of two classes, whose gallery has the two axes: similarities to the own axis and to the other."""
    found = np.stack([matching, other], axis=1)
    third = np.sqrt(np.maximum(1 - (found**2).sum(1), 0))
    rows = np.column_stack([found, third])
    rows[2:, :2] = rows[2:, 1::-1]
    return rows.astype(np.float32)


def thresholds_rung(torch: np.ndarray, file: np.ndarray, *at: float) -> dict[str, float]:
    gallery = np.eye(3, dtype=np.float32)[:2]
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None]
    test = RetrievalTest.of_arrays("axes", pixels, np.array([0, 0, 1, 1]), gallery, np.array([0, 1]))
    judge = Judge(test, lambda pictures: torch[pictures[:, 0, 0, 0]], tuple(map(threshold, at)))
    return judge.judge(lambda pictures: file[pictures[:, 0, 0, 0]])[0]["thresholds"]


def test_true_accepts_lost_at_one_threshold_are_not_hidden_by_more_won_at_another() -> None:
    torch, file = accepting([0.9, 0.9, 0.2, 0.2], [0.1] * 4), accepting([0.9, 0.4, 0.4, 0.4], [0.1] * 4)
    found = thresholds_rung(torch, file, 0.3, 0.8)  # half more at the first, a quarter less at the second
    assert found["true_accept_delta"] == pytest.approx(-0.25)


def test_false_accepts_where_the_torch_model_has_none_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.retrieval.FEWEST_ACCEPTED", 1)
    torch, file = accepting([0.9] * 4, [0.1] * 4), accepting([0.8] * 4, [0.5] * 4)
    assert thresholds_rung(torch, file, 0.4)["false_accept_ratio"] == pytest.approx(4.0)
    assert thresholds_rung(torch, torch, 0.4)["false_accept_ratio"] == 1.0


def test_a_gallery_of_one_class_judges_nothing() -> None:
    pixels = np.zeros((2, 1, 1, 1), np.uint8)
    one = np.zeros(2, int)
    test = RetrievalTest.of_arrays("one", pixels, one, np.eye(2, dtype=np.float32), one)
    with pytest.raises(RetrievalError, match="no query could find a picture of another class"):
        Judge(test, lambda pictures: np.eye(2, dtype=np.float32), ())


def test_queries_are_read_in_blocks(vectors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.retrieval.BLOCK", 20)
    _, blocks = judge_of(vectors, ())
    assert blocks == [20, 20, 5]


def test_a_gallery_that_does_not_fit_the_protocol_is_refused(vectors: dict[str, np.ndarray]) -> None:
    protocol: Protocol = leave_one_out(vectors["labels"])
    with pytest.raises(RetrievalError, match="does not fit the protocol; got 44 embeddings; expected 45"):
        RetrievalTest("x", lambda queries: queries, vectors["gallery"][:-1], protocol)


def test_every_eighth_calibration_picture_is_held_back() -> None:
    pixels = smooth(64, SPEC)
    found = read_calibration(pixels, SPEC)
    np.testing.assert_array_equal(found.held_back, pixels[7::8])
    assert len(found.pixels) == 56
    assert not (found.pixels[:, None] == found.held_back[None]).all((2, 3, 4)).any()
    assert found.record.pictures == 56
    assert found.record.sha256 != read_calibration(pixels[::-1].copy(), SPEC).record.sha256


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (smooth(31, SPEC), "wrong number of calibration pictures; got 31; expected 32 to 4096"),
        (np.zeros((64, 8, 6), np.uint8), r"not preprocessed; got uint8 \[64, 8, 6\]"),
        (np.zeros((64, 8, 6, 1), np.float32), "not preprocessed; got float32"),
        (np.full((64, 8, 6, 1), 7, np.uint8), "all the same"),
        (np.random.default_rng(0).integers(0, 256, (64, 8, 6, 1), dtype=np.uint8), "look like noise"),
    ],
)
def test_calibration_pictures_that_scale_nothing_are_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_calibration(pixels, SPEC)


def test_calibration_pictures_may_be_files(tmp_path: Path) -> None:
    from PIL import Image

    pixels = smooth(32, SPEC)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture[..., 0]).save(tmp_path / f"{number:02d}.png")
    found = read_calibration(sorted(tmp_path.iterdir()), SPEC)
    np.testing.assert_array_equal(found.held_back, pixels[7::8])
