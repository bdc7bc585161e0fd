"""Which pictures and labels train: batches, poses, strangers, unlabelled pictures, and when they come round again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from toy import toy_tree, write_pictures

from hetero.config import RunConfig
from hetero.data.loader import Batch
from hetero.data.open import open_dataset
from hetero.losses.config import LossConfig
from hetero.models.arch import ArchSpec
from hetero.models.checkpoint import load_model
from hetero.models.embed import colour_normalise
from hetero.preprocess import PreprocessSpec
from hetero.training import students
from hetero.training.augment import POSES, _generator, _posed, augment
from hetero.training.cloud import make_loader
from hetero.training.config import AugmentConfig, TrainConfig
from hetero.training.step import joint_step
from hetero.training.trainee import Trainee
from hetero.training.views import prepare

CLASSES, SPEC, CPU = 5, PreprocessSpec(height=12, width=12, channels=1), torch.device("cpu")
CHANGES = AugmentConfig(translate=0.2, noise=0.2)
OPTIONS = {"num_classes": CLASSES, "turned_classes": 0.0, "stranger_views": False, "seed": 1,
           "view": 3, "device": CPU}  # fmt: skip


def batch(count: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(0, 0, rng.integers(0, 256, (count, 12, 12, 1), dtype=np.uint8), np.arange(count) % CLASSES)


def test_unlabelled_pictures_are_each_a_class_of_their_own_changed_by_a_seed_of_their_own():
    image, labels = prepare(batch(10, 0), batch(4, 1), SPEC, CHANGES, **OPTIONS | {"stranger_views": True})
    assert labels[:10].tolist() == [0, 1, 2, 3, 4] * 2
    assert labels[10:20].tolist() == [-1, -2, -3, -4, -5] * 2
    assert len(set(labels[20:].tolist())) == 4
    assert max(labels[20:].tolist()) < -2 * POSES * CLASSES  # beyond all strangers of all poses
    normalised = colour_normalise(torch.from_numpy(batch(4, 1).pixels), SPEC)
    assert torch.equal(image[20:], augment(normalised, CHANGES, seed=2, step=3))
    assert not torch.equal(image[20:], augment(normalised, CHANGES, seed=1, step=3))


def test_strangers_are_made_of_whole_classes_each_in_its_way():
    same = Batch(0, 0, np.repeat(batch(1, 0).pixels, 10, axis=0), np.arange(10) % CLASSES)
    image, _ = prepare(same, None, SPEC, AugmentConfig(), **OPTIONS | {"stranger_views": True})
    assert all(torch.equal(image[10 + i], image[15 + i]) for i in range(CLASSES))  # two pictures of each class
    assert not all(torch.equal(image[10], image[10 + i]) for i in range(CLASSES))


def test_how_strangers_are_cut_does_not_follow_from_how_pictures_were_changed():
    changes, alike = AugmentConfig(log_scale=0.2), []
    for view in range(40):
        generator = _generator("augment", OPTIONS["seed"], view)
        torch.rand(CLASSES, generator=generator)  # the angles
        smaller = torch.rand(CLASSES, generator=generator) < 0.5
        one = Batch(0, 0, batch(CLASSES, view).pixels, np.arange(CLASSES))
        image, _ = prepare(one, None, SPEC, changes, **OPTIONS | {"stranger_views": True, "view": view})
        plain, turned = image[:CLASSES], image[CLASSES:]
        poses = [_posed(plain, torch.full((CLASSES,), pose)) for pose in range(1, POSES)]
        whole = torch.stack([(turned == posed).flatten(1).all(1) for posed in poses]).any(0)
        alike.append((whole == ~smaller).float().mean())
    assert 0.3 < float(torch.stack(alike).mean()) < 0.8  # 1 where one number decides both


def test_the_same_view_is_the_same_batch_and_another_is_another():
    first, again, other = (
        prepare(batch(10, 0), batch(4, 1), SPEC, CHANGES, **OPTIONS | {"view": view, "turned_classes": 0.5})
        for view in (3, 3, 4)
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def trainee(name, loss, num_classes=CLASSES):
    arch = ArchSpec(size=12, channels=1, dim=8, stem_width=4, stages=({"width": 4},))
    return Trainee(name, arch, LossConfig.model_validate(loss), TrainConfig(epochs=1, lr=0.01), steps=9,
                   num_classes=num_classes, seed=0, device=CPU)  # fmt: skip


def seen_labels(students_, image, labels, **options):
    """The labels that each student's loss was given in a joint step."""
    found = {}
    for one in students_:
        real = one.loss.forward
        one.loss.forward = lambda e, y, g=None, name=one.name, real=real: (found.update({name: y}), real(e, y, g))[1]
    terms = joint_step(
        trainee("gallery", {"softmax": {}}, POSES * CLASSES), students_, image, labels, step=0, **options
    )
    return found, terms


def test_poses_are_strangers_to_students_each_its_own_and_never_those_made_of_them():
    image, labels = prepare(
        batch(40, 0), batch(3, 1), SPEC, CHANGES, **OPTIONS | {"turned_classes": 0.6, "stranger_views": True}
    )
    turned = labels[:40] >= CLASSES
    assert 10 < int(turned.sum()) < 35
    found, _ = seen_labels([trainee("a", {"alignment": {}})], image, labels, num_classes=CLASSES, pull=0.0)
    given = found["a"]
    assert torch.equal(given[:40][~turned], labels[:40][~turned])
    for first in range(len(labels)):
        for second in range(len(labels)):
            assert (given[first] == given[second]) == (labels[first] == labels[second])
    assert bool((given[:40][turned] < 0).all())


def test_controls_and_students_that_are_not_numbers_have_no_pull_on_the_gallery_model():
    image = torch.randn(10, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % CLASSES
    good, control, bad = (
        trainee("good", {"alignment": {}}),
        trainee("control", {"relational": {}}),
        trainee("bad", {"alignment": {}}),
    )
    with torch.no_grad():
        bad.network.project.weight.fill_(float("nan"))
    _, alone = seen_labels([trainee("good", {"alignment": {}})], image, labels, num_classes=CLASSES, pull=1.0)
    _, terms = seen_labels([good, control, bad], image, labels, num_classes=CLASSES, pull=1.0)
    assert float(terms["gallery"]["pull"]) == pytest.approx(float(alone["gallery"]["pull"]), rel=1e-6)
    assert bool(torch.isfinite(terms["gallery"]["total"]))


def test_a_batch_without_a_training_class_is_no_loss_and_no_divergence():
    image = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) + CLASSES  # poses alone
    mixed, control = trainee("mixed", {"softmax": {}, "alignment": {}}), trainee("control", {"softmax": {}})
    before = control.network.project.weight.clone()
    _, terms = seen_labels([mixed, control], image, labels, num_classes=CLASSES, pull=0.0)
    assert float(terms["mixed"]["softmax"]) == 0
    assert bool(torch.isfinite(terms["mixed"]["total"]))
    assert "control" not in terms
    assert torch.equal(control.network.project.weight, before)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(7):
        pixels = np.full((12, 12), 30 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    tree = toy_tree(write_pictures(tmp_path / "toy.npz"))
    tree["student_training"] = tree["student_training"] | {
        "view_epochs": 2, "epochs": 5, "unlabelled": {"path": str(tmp_path / "photos"), "per_batch": 3},
    }  # fmt: skip
    return tree


def streams(tree, steps):
    config = RunConfig.model_validate(tree)
    train = config.student_training
    loader = make_loader(open_dataset(config.data), config, train, 0, views=train.view_epochs)
    extra = students.unlabelled_loader(config, train, loader, 0)
    return [b.pixels.copy() for b in loader.batches(0, steps)], [b.pixels.copy() for b in extra.batches(0, steps)]


def test_both_streams_come_round_together_and_use_every_unlabelled_picture(tree):
    labelled, extra = streams(tree, 30)
    period = 2 * 6  # epochs × steps
    for stream in (labelled, extra):
        assert all(np.array_equal(stream[step], stream[step % period]) for step in range(30))
        assert not np.array_equal(stream[0], stream[6])
    assert all(one.shape == (3, 12, 12, 1) for one in extra)
    assert {int(picture[0, 0, 0]) for one in extra for picture in one} == {30 * number for number in range(7)}


def test_the_cache_of_views_depends_on_gallery_model_data_and_options(tree, tmp_path):
    from hetero.logs import SilentProgress
    from hetero.workflows.train import train_run

    base = toy_tree(write_pictures(tmp_path / "toy.npz")) | {"students": []}
    runs = [
        train_run(RunConfig.model_validate(base | {"seed": seed}), tmp_path / str(seed), progress=SilentProgress())
        for seed in (0, 1)
    ]
    models = [load_model(run.gallery) for run in runs]
    config = RunConfig.model_validate(tree)
    dataset, cpu = open_dataset(config.data), torch.device("cpu")
    keys = {students._views_key(config, model, dataset, cpu) for model in models}
    write_pictures(tmp_path / "other.npz", images_per_class=13)
    other = open_dataset(config.data.model_copy(update={"path": tmp_path / "other.npz"}))
    keys.add(students._views_key(config, models[0], other, cpu))
    for change in ({"batch_size": 8}, {"augment": {"noise": 0.9}}, {"view_epochs": 3}, {"stranger_views": True},
                   {"gallery_precision": "bfloat16"}):  # fmt: skip
        changed = tree | {"student_training": tree["student_training"] | change}
        keys.add(students._views_key(RunConfig.model_validate(changed), models[0], dataset, cpu))
    keys.add(students._views_key(RunConfig.model_validate(tree | {"seed": 5}), models[0], dataset, cpu))
    (tmp_path / "photos" / "7.png").write_bytes((tmp_path / "photos" / "6.png").read_bytes())
    keys.add(students._views_key(config, models[0], dataset, cpu))
    keys.add(students._views_key(config, models[0], dataset, torch.device("cuda")))  # other bits than a processor's
    assert len(keys) == 11


def test_every_seed_purpose_and_step_draws_numbers_of_its_own():
    drawn = {
        tuple(torch.rand(4, generator=_generator(purpose, seed, step)).tolist())
        for purpose in ("augment", "stranger views")
        for seed in (0, 1, 2, 3, 2**32)
        for step in range(3)
    }
    assert len(drawn) == 2 * 5 * 3
