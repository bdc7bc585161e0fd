"""From the files of IJB-C to both of its protocols, with two models and a template whose image is gone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hetero.data.ijbc import IjbcConfig, read_ijbc
from hetero.retrieval.identification import Enrolled, identify
from hetero.retrieval.pairs import verify
from hetero.retrieval.templates import embed_templates
from hetero.retrieval.verification_matrix import verification_matrix

SUBJECTS = 24  # templates 0..23 are enrolled, the even in G1, the odd in G2; 24.. are three probes of each


@pytest.fixture
def benchmark(tmp_path):
    meta, crops = tmp_path / "meta", tmp_path / "loose_crop"
    meta.mkdir()
    crops.mkdir()
    templates = 4 * SUBJECTS
    lines, number = [], 0
    for template in range(templates):
        for frame in range(1 + template % 3):
            number += 1
            lines.append(f"{number}.jpg {template} {100 * template + frame // 2}\n")  # two frames a medium
            Image.new("L", (2, 2)).save(crops / f"{number}.jpg")
    (meta / "ijbc_face_tid_mid.txt").write_text("".join(lines))
    (meta / "ijbc_template_pair_label.txt").write_text(
        "".join(f"{e} {p} {int(e == p % SUBJECTS)}\n" for p in range(SUBJECTS, templates) for e in range(SUBJECTS))
    )
    for name, listed in (
        ("gallery_G1", range(0, SUBJECTS, 2)),
        ("gallery_G2", range(1, SUBJECTS, 2)),
        ("probe_mixed", range(SUBJECTS, templates)),
    ):
        rows = "".join(f"{template},{template % SUBJECTS},img/{template}.jpg\n" for template in listed)
        (meta / f"ijbc_1N_{name}.csv").write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\n" + rows)
    (crops / "49.jpg").unlink()  # the only image of template 24
    return read_ijbc(IjbcConfig(path=tmp_path, skip_bad=True))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_two_models_on_both_protocols(benchmark):
    rng = np.random.default_rng(0)
    assert len(benchmark.dataset.skipped) == 1
    subject_of = np.array([int(name) for name in benchmark.dataset.class_names])[benchmark.dataset.labels]
    base = rng.standard_normal((SUBJECTS, 16))[subject_of]
    models = {
        name: unit(base + scale * rng.standard_normal(base.shape)) for name, scale in (("large", 1), ("small", 2))
    }
    made = {name: embed_templates(rows, benchmark.templates, skip_empty=True) for name, rows in models.items()}
    assert made["large"].left_out.tolist() == made["small"].left_out.tolist() == [24]
    positions = made["small"].positions
    pairs = benchmark.pairs.at(positions)
    assert len(benchmark.pairs) - len(pairs) == SUBJECTS
    matrix = verification_matrix({name: one.vectors for name, one in made.items()}, pairs, (0.01,))
    assert matrix.tar("large", "large", 0.01) > matrix.tar("small", "large", 0.01) > matrix.tar("small", "small", 0.01)
    roc = verify(made["small"].vectors, made["large"].vectors, pairs, (0.01,))
    similarities = made["small"].vectors.astype(float) @ made["large"].vectors.astype(float).T
    by_hand = [
        similarities[positions[SUBJECTS + i], positions[i % SUBJECTS]] >= roc.points[0].similarity
        for i in range(1, 3 * SUBJECTS)
    ]
    assert roc.points[0].true_accept_rate.value == pytest.approx(np.mean(by_hand))

    subjects = benchmark.templates.subjects
    probes = benchmark.probes[positions[benchmark.probes] >= 0]
    galleries = {
        name: Enrolled(made["large"].vectors[positions[rows]], subjects[rows])
        for name, rows in benchmark.galleries.items()
    }
    found = identify(made["small"].vectors[positions[probes]], subjects[probes], galleries, ranks=(1,), fpirs=(0.3,))
    assert (dict(found.mated), dict(found.non_mated)) == ({"G1": 35, "G2": 36}, {"G1": 36, "G2": 35})
    hits = {0: [], 1: []}
    for probe in probes:
        side = subjects[probe] % 2
        rows = positions[np.arange(side, SUBJECTS, 2)]
        winner = benchmark.templates.ids[np.arange(side, SUBJECTS, 2)][similarities[positions[probe], rows].argmax()]
        hits[side].append(winner == subjects[probe])
    assert found.rank_rates[1].value == pytest.approx(np.mean([np.mean(hits[0]), np.mean(hits[1])]))
