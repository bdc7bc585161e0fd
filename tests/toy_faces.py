"""IJB-C as the release has it, of toy patterns: twelve subjects never trained on, boxes in larger pictures, media.

Counted by hand: subject s (100 … 111) is enrolled as template s, of three images of two media, even subjects in G1 and
odd ones in G2. Each has 18 probe templates of two images. So a gallery has six templates, 6 · 18 = 108 mated and 108
non-mated probes; 1:1 compares all 216 probes with all 12 enrolled: 216 genuine and 216 · 11 = 2376 impostor pairs.
There are 12 · (3 + 36) = 468 faces in 228 templates.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from toy import write_pictures

SUBJECTS, ENROLLED_IMAGES, PROBES, PROBE_IMAGES = 12, 3, 18, 2
PER_SUBJECT = ENROLLED_IMAGES + PROBES * PROBE_IMAGES
COLUMNS = "TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
SIDE = 12  # of a pattern; pictures are 40 × 20 and hold two
CLASSES = 48  # of patterns; a run trains on the first half


def write_faces(root: Path) -> Path:
    """Write the release below ``root``; every picture holds the faces of two subjects."""
    content = np.load(write_pictures(root / "patterns.npz", num_classes=CLASSES, images_per_class=PER_SUBJECT))
    rng = np.random.default_rng(5)
    (root / "images" / "img").mkdir(parents=True)
    lists: dict[str, list[str]] = {"enroll": [], "verif": [], "G1": [], "G2": []}
    metadata = ["SUBJECT_ID,FILENAME,SIGHTING_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"]
    for couple in range(0, SUBJECTS, 2):  # two subjects are always seen together: only the box tells them apart
        for index in range(PER_SUBJECT):
            name = f"img/{couple}-{index}.png"
            canvas = rng.integers(0, 256, (20, 40), dtype=np.uint8)
            for place in (0, 1):
                subject = couple + place
                x, y = int(rng.integers(0, 8)) + 20 * place, int(rng.integers(0, 8))
                face = content["images"][np.flatnonzero(content["labels"] == CLASSES // 2 + subject)[index]]
                canvas[y : y + SIDE, x : x + SIDE] = face
                template, medium = template_of(subject, index)
                row = f"{100 + subject},{name}", f"{x},{y},{SIDE},{SIDE}"
                listed = ("enroll", "G2" if place else "G1") if index < ENROLLED_IMAGES else ("verif",)
                for role in listed:
                    lists[role].append(f"{template},{row[0]},{row[1]}")
                metadata.append(f"{row[0]},{medium},{row[1]}")
            Image.fromarray(canvas).save(root / "images" / name)
    probes = sorted({int(line.split(",")[0]) for line in lists["verif"]})
    matches = [f"{100 + enrolled},{probe}" for probe in probes for enrolled in range(SUBJECTS)]
    for path, lines in {
        "test1/enroll_templates.csv": [COLUMNS, *lists["enroll"]],
        "test1/verif_templates.csv": [COLUMNS, *lists["verif"]],
        "test1/match.csv": matches,
        "test4/gallery_G1.csv": [COLUMNS, *lists["G1"]],
        "test4/gallery_G2.csv": [COLUMNS, *lists["G2"]],
        "test4/probes.csv": [COLUMNS, *lists["verif"]],
        "ijbc_metadata_with_age.csv": metadata,
    }.items():
        file = root / "protocols" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
    return root


def template_of(subject: int, index: int) -> tuple[int, int]:
    """Template and medium of a subject's image: the first two of three enrolled images are frames of one video."""
    if index < ENROLLED_IMAGES:
        return 100 + subject, 10_000 * (subject + 1) + max(index, 1)
    return 1000 * (subject + 1) + (index - ENROLLED_IMAGES) // PROBE_IMAGES, 10_000 * (subject + 1) + 10 + index
