"""The small parts of training: schedule, augmentation, journal, states, devices."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
from toy import toy_config

from hetero.errors import CheckpointError, ConfigError, DataError
from hetero.journal import Journal, read_journal
from hetero.logs import SilentProgress
from hetero.training.augment import POSES, augment, stranger_views, turned_classes
from hetero.training.config import AugmentConfig
from hetero.training.device import autocast_dtype, resolve_device
from hetero.training.resume import State, commit_state, latest_state
from hetero.training.schedule import learning_rate
from hetero.workflows.train import train_run


def test_learning_rate_warms_up_linearly_and_falls_as_half_a_cosine():
    rates = [learning_rate(s, peak=2.0, warmup_steps=10, total_steps=110) for s in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    for step in (10, 35, 60, 109):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 10) / 100))
    assert rates[10] == max(rates) == 2.0


def test_warm_up_is_at_most_a_tenth_of_a_short_run():
    assert learning_rate(2, peak=1.0, warmup_steps=200, total_steps=20) == pytest.approx(1.0)


PICTURE = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))
EVERYTHING = AugmentConfig(
    rotate_deg=20, log_scale=0.2, shear=0.2, translate=0.1, flip=0.5, brightness=0.2, contrast=0.2, noise=0.1
)


def test_augment_is_a_function_of_seed_and_step():
    first = augment(PICTURE, EVERYTHING, seed=3, step=9)
    assert torch.equal(first, augment(PICTURE, EVERYTHING, seed=3, step=9))
    assert not torch.equal(first, augment(PICTURE, EVERYTHING, seed=3, step=10))
    assert not torch.equal(first, augment(PICTURE, EVERYTHING, seed=4, step=9))


def test_no_augmentation_leaves_the_picture_alone():
    assert torch.equal(augment(PICTURE, AugmentConfig(), seed=0, step=0), PICTURE)


def test_a_certain_flip_mirrors():
    flipped = augment(PICTURE, AugmentConfig(flip=1.0), seed=0, step=0)
    assert torch.allclose(flipped, PICTURE.flip(3), atol=1e-5)


def test_rotation_turns_by_the_drawn_angle_within_the_bound():
    dot = torch.zeros(64, 1, 33, 33)
    dot[:, :, 16, 28] = 1  # twelve pixels right of the centre
    turned = augment(dot, AugmentConfig(rotate_deg=30), seed=1, step=0)
    angles = []
    for picture in turned[:, 0]:
        rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
        x, y = (picture * columns).sum() / picture.sum() - 16, (picture * rows).sum() / picture.sum() - 16
        angles.append(math.degrees(math.atan2(y, x)))
        assert math.hypot(x, y) == pytest.approx(12, abs=0.5)
    assert max(map(abs, angles)) < 31
    assert max(angles) > 20
    assert min(angles) < -20


def test_translation_scale_brightness_contrast_and_noise_do_what_they_say():
    flat = torch.full((200, 1, 8, 8), 0.25)
    lit = augment(flat, AugmentConfig(brightness=0.5), seed=0, step=0) - flat
    assert lit.abs().max() <= 0.5
    assert lit.std() > 0.2
    noisy = augment(flat, AugmentConfig(noise=0.3), seed=0, step=0) - flat
    assert float(noisy.std()) == pytest.approx(0.3, rel=0.05)
    contrasted = augment(PICTURE, AugmentConfig(contrast=0.5), seed=0, step=0)
    ratio = contrasted.std((1, 2, 3)) / PICTURE.std((1, 2, 3))
    assert torch.allclose(contrasted.mean((1, 2, 3)), PICTURE.mean((1, 2, 3)), atol=1e-5)
    assert ((ratio > 0.5) & (ratio < 1.5)).all()
    assert ratio.std() > 0.05


EACH_ITS_OWN = torch.arange(400)  # no two pictures of one class


def test_stranger_views_are_other_poses_and_cuts_of_two_and_depend_on_the_step():
    picture = torch.arange(64.0).reshape(1, 1, 8, 8).expand(400, 1, 8, 8)
    turned = [torch.rot90(picture[0], k, (1, 2)) for k in range(4)]
    poses = torch.stack([pose for t in turned for pose in (t, t.flip(2))])  # pose 0 is the picture as it was
    views = stranger_views(picture, EACH_ITS_OWN, seed=1, step=5)
    whole = torch.tensor([any(torch.equal(view, pose) for pose in poses[1:]) for view in views])
    assert not any(torch.equal(view, poses[0]) for view in views)
    assert {next(i for i, pose in enumerate(poses) if torch.equal(v, pose)) for v in views[whole]} == set(range(1, 8))
    # A cut is two poses on both sides of a straight line, neither side under a quarter (two pixels) wide.
    assert 0.35 < (~whole).float().mean() < 0.6
    for view in views[~whole][:50]:
        upright = [(view[..., :n], poses[..., :n], view[..., n:], poses[..., n:]) for n in range(2, 7)]
        level = [(view[:, :n], poses[:, :, :n], view[:, n:], poses[:, :, n:]) for n in range(2, 7)]
        assert any(
            any(torch.equal(a, p) for p in firsts) and any(torch.equal(b, p) for p in seconds)
            for a, firsts, b, seconds in upright + level
        )
    assert torch.equal(views, stranger_views(picture, EACH_ITS_OWN, seed=1, step=5))
    assert not torch.equal(views, stranger_views(picture, EACH_ITS_OWN, seed=1, step=6))


def test_turned_classes_are_each_pose_under_a_label_of_its_own():
    picture = torch.arange(64.0).reshape(1, 1, 8, 8).expand(2000, 1, 8, 8)
    labels = torch.arange(2000) % 5
    views, found = turned_classes(picture, labels, share=0.6, num_classes=5, seed=1, step=3)
    assert torch.equal(found % 5, labels)
    pose = found // 5
    assert 0.55 < (pose > 0).float().mean() < 0.65
    for kind in range(POSES):
        turned = torch.rot90(picture[0], kind % 4, (1, 2))
        expected = turned.flip(2) if kind >= 4 else turned
        own = views[pose == kind]
        assert len(own) > 100
        assert torch.equal(own, expected.expand_as(own))
    again = turned_classes(picture, labels, share=0.6, num_classes=5, seed=1, step=3)
    assert torch.equal(views, again[0])
    assert torch.equal(found, again[1])
    assert not torch.equal(found, turned_classes(picture, labels, share=0.6, num_classes=5, seed=1, step=4)[1])


def test_stranger_views_turn_and_cut_all_pictures_of_a_class_alike():
    labels = torch.arange(40).repeat_interleave(3)[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    # Each picture holds its class in every pixel and a gradient in place of a drawing.
    picture = labels[:, None, None, None] * 100 + torch.arange(64.0).reshape(1, 1, 8, 8).expand(120, 1, 8, 8)
    views = stranger_views(picture, labels, seed=1, step=5)
    partners = set()
    for label in range(40):
        own = views[labels == label]
        assert torch.equal(own, own[:1].expand_as(own))
        classes = set((own[0] // 100).unique().tolist())
        assert label in classes
        assert len(classes) <= 2
        partners |= classes - {label}
    assert len(partners) > 10


def test_cuts_take_different_pictures_of_the_other_class():
    labels = torch.tensor([0, 0, 0, 1, 1])
    picture = torch.arange(5.0)[:, None, None, None].expand(5, 1, 8, 8)
    found = {}
    for step in range(40):
        views = stranger_views(picture, labels, seed=2, step=step)
        for own, view in enumerate(views):
            found.setdefault(own, set()).update(view.unique().int().tolist())
    assert found == {0: {0, 3}, 1: {1, 4}, 2: {2, 3}, 3: {3, 0}, 4: {4, 1}}


@pytest.mark.parametrize("axis", [2, 3])
def test_elastic_bends_smoothly_by_the_stated_amount_and_differently_for_each_picture(axis):
    line = torch.linspace(0, 31, 32)  # a pixel's value is its row or column
    ramp = (line if axis == 3 else line[:, None]).expand(300, 1, 32, 32).contiguous()
    bent = augment(ramp, AugmentConfig(elastic=0.03), seed=0, step=0)
    shift = (bent - ramp)[:, 0, 6:26, 6:26]
    assert 0.7 * 0.03 * 32 < shift.std() < 0.9 * 0.03 * 32  # between control points the bending is weaker
    assert shift.diff(dim=1).abs().mean() < 0.25
    assert shift.mean((1, 2)).std() > 0.1


LINE = {"epoch": 0, "lr": 0.1, "images_per_s": 1.0, "loss": {}}


def test_journal_rewinds_to_the_committed_step_and_ignores_a_torn_line(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    for phase, step in (("gallery", 10), ("gallery", 20), ("students", 10), ("students", 20)):
        journal.append(LINE | {"phase": phase, "step": step})
    with open(journal.path, "a") as stream:
        stream.write('{"phase": "students", "st')
    assert len(read_journal(journal.path)) == 4
    journal.rewind("students", 10)
    assert [(line["phase"], line["step"]) for line in read_journal(journal.path)] == [
        ("gallery", 10),
        ("gallery", 20),
        ("students", 10),
    ]
    assert journal.path.read_text().endswith("}\n")


@pytest.mark.parametrize("bad", [b"{", b"5", b"{}", b'{"phase": "gallery"}', b"\xff"])
def test_a_damaged_line_before_the_last_is_an_error_and_nothing_is_rewritten(tmp_path, bad):
    journal = Journal(tmp_path / "metrics.jsonl")
    good = json.dumps(LINE | {"phase": "gallery", "step": 1}).encode()
    content = b"\n".join([good, bad, good, b""])
    journal.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"line 2 of .*metrics.jsonl is damaged"):
        journal.rewind("gallery", 1)
    assert journal.path.read_bytes() == content


def state(step):
    return State(step=step, tensors={"a/w": torch.full((3,), float(step))}, meter={"steps": 1, "sums": {}})


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path):
    assert latest_state(tmp_path / "none") is None
    for step in (1, 2, 10):
        commit_state(tmp_path, state(step))
    found = latest_state(tmp_path)
    assert found is not None
    assert found.step == 10
    assert torch.equal(found.tensors["a/w"], torch.full((3,), 10.0))
    assert found.meter == {"steps": 1, "sums": {}}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000010"]


def test_a_damaged_newest_state_gives_the_one_before_with_a_warning(tmp_path, caplog):
    commit_state(tmp_path, state(1))
    commit_state(tmp_path, state(2))
    file = tmp_path / "step-000000002" / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        found = latest_state(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "step-000000002" in caplog.text


def test_no_intact_state_is_an_error_not_a_fresh_start(tmp_path):
    commit_state(tmp_path, state(1))
    record = tmp_path / "step-000000001" / "state.json"
    record.write_text(json.dumps({"step": 1}))
    with pytest.raises(CheckpointError, match=r"no training state .* is intact"):
        latest_state(tmp_path)


def test_devices(monkeypatch):
    assert resolve_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="'cuda' is not available"):
        resolve_device("cuda")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert autocast_dtype(cpu, "auto") is None
    assert autocast_dtype(cpu, "bfloat16") is torch.bfloat16
    for supported, expected in ((True, torch.bfloat16), (False, None)):  # emulated is not enough
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, yes=supported: including_emulation or yes
        )
        assert autocast_dtype(cuda, "auto") is expected
    assert autocast_dtype(cuda, "float32") is None


@pytest.mark.parametrize(
    ("found", "asked", "warned"),
    [
        ({"architecture": "x86_64", "avx2": True}, "bfloat16", True),
        ({"architecture": "x86_64", "avx2": True}, "float32", False),
        ({"architecture": "x86_64", "avx512_bf16": True}, "bfloat16", False),
        ({"architecture": "x86_64", "amx_bf16": True}, "bfloat16", False),
        ({"architecture": "aarch64"}, "bfloat16", False),  # torch does not say
    ],
)
def test_emulated_bfloat16_is_warned_of_before_a_run_crawls(found, asked, warned, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    for key in ("gallery.train.precision", "student_training.precision", "student_training.gallery_precision"):
        caplog.clear()
        config = toy_config(Path("unread.npz"), ("device=cpu", f"{key}={asked}"))
        with pytest.raises(DataError):
            train_run(config, Path("unwritten"), progress=SilentProgress())
        assert (f"--set {key}=float32" in caplog.text) == warned
        assert caplog.text.count("--set") == warned
