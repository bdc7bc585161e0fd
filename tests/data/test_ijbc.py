"""IJB-C in each layout that is in use, small and complete, and what each wrong file says."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hetero.data.ijbc import Ijbc, IjbcConfig, read_ijbc
from hetero.errors import DataError

LIST = "TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT\n"
OLD_LIST = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT\n"
METADATA = (
    "SUBJECT_ID,FILENAME,SIGHTING_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,FRAME_NUM,FACIAL_HAIR,AGE,INDOOR_OUTDOOR,"
    "SKINTONE,GENDER,YAW,ROLL," + ",".join(f"OCC{i}" for i in range(1, 19)) + "\n"
)
# template, subject, file, sighting, x, y, width, height: subject 20 is seen twice in img/7.png, beside subject 30
FACES = {
    "G1": [(1, 10, "img/1.png", 501, 0, 0, 4, 5), (1, 10, "img/2.png", 502, 1, 1, 3, 3)],
    "G2": [(2, 20, "img/3.png", 503, 2, 0, 5, 5)],
    "probe": [
        (13, 30, "img/7.png", 504, 0, 0, 2, 2),
        (11, 10, "frames/5.png", 77, 0, 2, 6, 6),
        (11, 10, "frames/6.png", 77, 0, 3, 6, 6),
        (11, 10, "img/4.png", 505, -1, 0, 4, 4),
        (12, 20, "img/7.png", 506, 3, 3, 2, 4),
        (12, 20, "img/7.png", 507, 5, 3, 2, 4),
        (12, 20, "img/3.png", 503, 2, 0, 5, 5),
    ],
}
MATCHES = [(1, 11), (1, 12), (2, 12), (2, 13), (2, 11)]


VERIF, MATCH = "protocols/test1/verif_templates.csv", "protocols/test1/match.csv"
META = "protocols/ijbc_metadata_with_age.csv"
MEMBERS, PAIRS = "meta/ijbc_face_tid_mid.txt", "meta/ijbc_template_pair_label.txt"


def lines(roles: str, *, sighting: bool) -> str:
    rows = [face for role in roles.split() for face in FACES[role]]
    return "".join(",".join(str(value) for i, value in enumerate(face) if sighting or i != 3) + "\n" for face in rows)


def pictures(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(folder / name)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """As NIST ships it: a folder a test, and the media in the metadata alone."""
    protocols = tmp_path / "protocols"
    for name, text in {
        "test1/enroll_templates.csv": LIST + lines("G1 G2", sighting=False),
        "test1/verif_templates.csv": LIST + lines("probe", sighting=False),
        "test1/match.csv": "ENROLL_TEMPLATE_ID,VERIF_TEMPLATE_ID\n" + "".join(f"{a},{b}\n" for a, b in MATCHES),
        "test4/gallery_G1.csv": LIST + lines("G1", sighting=False),
        "test4/gallery_G2.csv": LIST + lines("G2", sighting=False),
        "test4/probes.csv": LIST + lines("probe", sighting=False),
        "ijbc_metadata_with_age.csv": METADATA + "NaN,img/1.png,9,5,5,2,2" + ",nan" * 26 + "\n" + "".join(
            f"{subject}.0,{name},{sighting},{x}.0,{y}.0,{w}.0,{h}.0" + ",nan" * 26 + "\n"
            for faces in FACES.values()
            for _, subject, name, sighting, x, y, w, h in faces
        ),
    }.items():  # fmt: skip
        (protocols / name).parent.mkdir(parents=True, exist_ok=True)
        (protocols / name).write_text(text)
    pictures(tmp_path / "images", {face[2] for faces in FACES.values() for face in faces})
    return tmp_path


@pytest.fixture(params=["protocols", "protocols/archive"])
def archive(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The names of the releases before, which the current one keeps in ``archive/``; no header on the matches."""
    folder = tmp_path / request.param
    folder.mkdir(parents=True)
    for role, name in (("G1", "gallery_G1"), ("G2", "gallery_G2"), ("probe", "probe_mixed")):
        (folder / f"ijbc_1N_{name}.csv").write_text(OLD_LIST + lines(role, sighting=True))
    (folder / "ijbc_11_G1_G2_matches.csv").write_text("".join(f"{a},{b}\n" for a, b in MATCHES))
    pictures(tmp_path / "images", {face[2] for faces in FACES.values() for face in faces})
    return tmp_path


@pytest.fixture
def derived(tmp_path: Path) -> Path:
    """The lists in common use: one crop for each image of each template."""
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "ijbc_face_tid_mid.txt").write_text(
        "1.jpg 1 501\n2.jpg 1 502\n3.jpg 2 503\n4.jpg 11 77\n5.jpg 11 77\n6.jpg 11 505\n7.jpg 12 506\n8.jpg 13 504\n"
    )
    (meta / "ijbc_template_pair_label.txt").write_text("1 11 1\n1 12 0\n2 12 1\n2 13 0\n2 11 0\n")
    pictures(tmp_path / "loose_crop", {f"{i}.jpg" for i in range(1, 9)})
    return tmp_path


def add_search_lists(root: Path) -> None:
    for role, name in (("G1", "gallery_G1"), ("G2", "gallery_G2"), ("probe", "probe_mixed")):
        (root / "meta" / f"ijbc_1N_{name}.csv").write_text(OLD_LIST + lines(role, sighting=True))


def content(found: Ijbc) -> dict[int, tuple[str, list[tuple[str, int]]]]:
    """By template id: its subject, and (file, medium) of each image."""
    table: dict[int, tuple[str, list[tuple[str, int]]]] = {
        int(name): (found.dataset.class_names[subject], [])
        for name, subject in zip(found.templates.ids, found.templates.subjects, strict=True)
    }
    for image, row, medium in zip(found.templates.images, found.templates.rows, found.templates.media, strict=True):
        path = found.dataset.images[image]
        assert isinstance(path, Path)
        assert found.dataset.labels[image] == found.templates.subjects[row]
        table[int(found.templates.ids[row])][1].append((path.name, int(medium)))
    return table


EXPECTED = {
    1: ("10", [("1.png", 501), ("2.png", 502)]),
    2: ("20", [("3.png", 503)]),
    11: ("10", [("5.png", 77), ("6.png", 77), ("4.png", 505)]),
    12: ("20", [("7.png", 506), ("7.png", 507), ("3.png", 503)]),
    13: ("30", [("7.png", 504)]),
}


def check(found: Ijbc, root: Path) -> None:
    assert content(found) == EXPECTED
    # img/3.png is in two templates and once in the dataset; img/7.png holds three faces
    assert len(found.dataset) == 9
    assert found.dataset.images.count(root / "images/img/7.png") == 3
    assert found.dataset.boxes is not None
    boxes = {(str(path), *box) for path, box in zip(found.dataset.images, found.dataset.boxes.tolist(), strict=True)}
    assert (str(root / "images/img/4.png"), -1, 0, 3, 4) in boxes
    assert (str(root / "images/img/7.png"), 5, 3, 7, 7) in boxes
    assert len(boxes) == 9
    assert found.dataset.split("test").tolist() == list(range(9))
    assert found.pairs is not None
    ids = found.templates.ids
    assert list(zip(ids[found.pairs.enroll].tolist(), ids[found.pairs.probe].tolist(), strict=True)) == MATCHES
    assert found.pairs.same.tolist() == [True, False, True, False, False]


def check_search(found: Ijbc) -> None:
    ids = found.templates.ids
    assert {name: ids[rows].tolist() for name, rows in found.galleries.items()} == {"G1": [1], "G2": [2]}
    assert found.probes is not None
    assert ids[found.probes].tolist() == [11, 12, 13]


def test_the_release_is_read_with_media_from_its_metadata(release: Path) -> None:
    found = read_ijbc(IjbcConfig(path=release))
    check(found, release)
    check_search(found)


def test_the_older_names_are_read(archive: Path) -> None:
    found = read_ijbc(IjbcConfig(path=archive))
    check(found, archive)
    check_search(found)


def test_one_protocol_needs_only_its_own_files(release: Path) -> None:
    verification = read_ijbc(IjbcConfig(path=release, protocol="1:1"))
    check(verification, release)
    assert (dict(verification.galleries), verification.probes) == ({}, None)
    for path in (release / "protocols/test1").iterdir():
        path.unlink()
    (release / "protocols/test1").rmdir()
    search = read_ijbc(IjbcConfig(path=release))
    assert search.pairs is None
    check_search(search)
    with pytest.raises(
        DataError, match=r"no such file: .*enroll_templates\.csv; expected a CSV file with .*TEMPLATE_ID"
    ):
        read_ijbc(IjbcConfig(path=release, protocol="1:1"))


def test_older_names_without_pairs_serve_the_search_alone(archive: Path) -> None:
    (next(archive.rglob("ijbc_11_G1_G2_matches.csv"))).unlink()
    found = read_ijbc(IjbcConfig(path=archive))
    assert found.pairs is None
    check_search(found)
    with pytest.raises(DataError, match=r"no such file: .*ijbc_11_G1_G2_matches\.csv"):
        read_ijbc(IjbcConfig(path=archive, protocol="1:1"))


def test_derived_pairs_alone_tell_the_subjects(derived: Path) -> None:
    found = read_ijbc(IjbcConfig(path=derived))
    assert content(found) == {
        1: ("1", [("1.jpg", 501), ("2.jpg", 502)]),
        2: ("2", [("3.jpg", 503)]),
        11: ("1", [("4.jpg", 77), ("5.jpg", 77), ("6.jpg", 505)]),
        12: ("2", [("7.jpg", 506)]),
        13: ("13", [("8.jpg", 504)]),
    }
    assert found.dataset.boxes is None
    assert (dict(found.galleries), found.probes) == ({}, None)
    assert found.pairs is not None
    assert found.templates.ids[found.pairs.enroll].tolist() == [1, 1, 2, 2, 2]
    assert found.pairs.same.tolist() == [True, False, True, False, False]


def test_derived_search_lists_name_the_subjects(derived: Path) -> None:
    add_search_lists(derived)
    found = read_ijbc(IjbcConfig(path=derived))
    assert [name for name, _ in content(found).values()] == ["10", "20", "10", "20", "30"]
    check_search(found)
    assert found.pairs is not None
    (derived / PAIRS).unlink()
    found = read_ijbc(IjbcConfig(path=derived))
    assert found.pairs is None
    check_search(found)


def test_genuine_pairs_join_templates_over_several_steps(derived: Path) -> None:
    rng = np.random.default_rng(0)
    subject = rng.integers(0, 12, 80)
    chain = [(np.flatnonzero(subject == s)) for s in range(12)]
    pairs = [(a, b, 1) for rows in chain for a, b in pairwise(rows)]
    pairs += [(a, b, 0) for a in range(80) for b in range(80) if subject[a] != subject[b]]
    (derived / MEMBERS).write_text("".join(f"1.jpg {t} {t}\n" for t in range(80)))
    order = rng.permutation(len(pairs))
    (derived / PAIRS).write_text("".join("{} {} {}\n".format(*pairs[i]) for i in order))
    found = read_ijbc(IjbcConfig(path=derived))
    names = [int(found.dataset.class_names[label]) for label in found.templates.subjects]
    assert names == [int(np.flatnonzero(subject == s)[0]) for s in subject]


def test_missing_images_are_refused_or_listed(release: Path) -> None:
    (release / "images/img/1.png").unlink()
    (release / "images/img/7.png").write_text("no picture")
    with pytest.raises(DataError, match=r"no such image file: .*1\.png; got 1 missing of 9; fix"):
        read_ijbc(IjbcConfig(path=release))
    found = read_ijbc(IjbcConfig(path=release, skip_bad=True))
    assert len(found.dataset) == 5
    assert len(found.dataset.skipped) == 4
    assert "1.png: no such file" in found.dataset.skipped[0]
    assert content(found) == {
        1: ("10", [("2.png", 502)]),
        2: EXPECTED[2],
        11: EXPECTED[11],
        12: ("20", [("3.png", 503)]),
        13: ("30", []),  # kept, so that whoever makes templates has to say what becomes of it
    }


def test_a_box_outside_its_picture_is_left_out_like_an_unreadable_one(release: Path) -> None:
    for path in (VERIF, "protocols/test4/probes.csv"):
        change(path, "11,10,img/4.png,-1,0,4,4", "11,10,img/4.png,90,0,4,4")(release)
    assert len(read_ijbc(IjbcConfig(path=release)).dataset) == 9
    found = read_ijbc(IjbcConfig(path=release, skip_bad=True))
    assert len(found.dataset) == 8
    assert found.dataset.boxes is not None
    assert len(found.dataset.boxes) == 8
    [line] = found.dataset.skipped
    assert "4.png" in line
    assert content(found)[11] == ("10", [("5.png", 77), ("6.png", 77)])


def change(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(VERIF, "30,img/7", "thirty,img/7"), r"verif_templates\.csv line 2: "
         r"SUBJECT_ID is not a whole number; got 'thirty'"),
        (change(VERIF, "0,2,6,6", "0,2,6,0"), r"line 3: no such face box .*got 6×0 at 0, 2"),
        (change(VERIF, "0,2,6,6", "0,2,6,x"), r"line 3: FACE_HEIGHT is not a number; got 'x'"),
        (change(VERIF, "0,2,6,6", "0,2,6"), r"line 3: wrong number of values; got 6; expected 7"),
        (change(VERIF, "img/4.png", ""), r"line 5: the FILENAME is blank"),
        (change(VERIF, "11,10,frames/6.png", "11,30,frames/6.png"), r"does not say which"),
        (change(VERIF, "12,20,img/3", "11,20,img/3"), r"verif_templates\.csv line 8: "
         r"template 11 has two subjects; got 10 and 20"),
        (change(VERIF, "FACE_WIDTH", "FACE_W"), r"no column 'FACE_WIDTH'; got columns TEMP"),
        (change("protocols/test4/gallery_G2.csv", LIST, ""), r"gallery_G2\.csv has no column 'TEMPLATE_ID'"),
        (change("protocols/test4/gallery_G2.csv", lines("G2", sighting=False), ""), r"gallery_G2\.csv lists no image"),
        (change("protocols/test4/probes.csv", "13,30", "2,20"), r"probes\.csv line 2: .*does not say which medium"),
        (change("protocols/test4/probes.csv", "11,10,frames/6.png,0,3,6,6\n", ""),
         r"probes\.csv: template 11 has other "
         r"images than in another list; .*protocol: '1:1' or '1:N'"),
        (change(MATCH, "2,13\n", "2,99\n"), r"match\.csv line 5: unknown template 99; got 1 of 5"),
        (change(MATCH, "2,13\n", "\n2,13\n99,11\n"), r"match\.csv line 7: unknown template 99"),
        (change(MATCH, "2,13\n", "2;13\n"), r"match\.csv line 5: not 2 whole numbers; got '2;13'"),
        (change(MATCH, "".join(f"{a},{b}\n" for a, b in MATCHES), ""), r"match\.csv holds no pair"),
        (change(META, ",506,3.0", ",506,4.0"), r"verif_templates\.csv line 6: "
         r"ijbc_metadata_with_age\.csv does not say which medium img/7\.png is from; got 0 lines for subject 20"),
        (change(META, "SIGHTING_ID", "SIGHTING"), r"no column 'SIGHTING_ID'"),
        (change(META, "img/1.png,501", "img/1.png,nan"), r"SIGHTING_ID is not a whole"),
    ],
)  # fmt: skip
def test_wrong_files_of_the_release_are_named_with_the_line(
    release: Path, edit: Callable[[Path], None], message: str
) -> None:
    edit(release)
    with pytest.raises(DataError, match=message):
        read_ijbc(IjbcConfig(path=release))


def test_a_sighting_that_nobody_drew_a_box_for_is_no_face_of_a_list(release: Path) -> None:
    with open(release / META, "a") as table:
        table.write("20.0,img/7.png,508" + ",NaN" * 30 + "\n")
    assert content(read_ijbc(IjbcConfig(path=release)))[12][1].count(("7.png", 506)) == 1


def test_a_sighting_whose_box_cannot_be_is_no_face_of_a_list(release: Path) -> None:
    with open(release / META, "a") as table:
        table.write("20.0,img/7.png,508,0,0,0,0" + ",NaN" * 26 + "\n")
    assert content(read_ijbc(IjbcConfig(path=release)))[12][1].count(("7.png", 506)) == 1


@pytest.mark.parametrize(("again", "medium"), [("600", 506), ("506.0", 506), ("90", 90)])
def test_of_two_sightings_with_one_box_the_least_is_taken(release: Path, again: str, medium: int) -> None:
    with open(release / META, "a") as table:
        table.write(f"20.0,img/7.png,{again},3.0,3.0,2.0,4.0" + ",NaN" * 26 + "\n")
    assert content(read_ijbc(IjbcConfig(path=release)))[12][1].count(("7.png", medium)) == 1


def test_lists_without_media_need_the_metadata(release: Path) -> None:
    (release / META).unlink()
    with pytest.raises(DataError, match=r"no such file: .*with_age\.csv; expected .*frames of one video .*SIGHTING_ID"):
        read_ijbc(IjbcConfig(path=release))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(MEMBERS, "5.jpg 11 77", "5.jpg 11"), r"tid_mid\.txt line 5: not an image name.*'5.jpg 11'"),
        (change(MEMBERS, "5.jpg 11 77", "5.jpg 11 x"), r"tid_mid\.txt line 5: not an image name"),
        (change(MEMBERS, "8.jpg 13 504\n", ""), r"pair_label\.txt line 4: unknown template 13"),
        (change(MEMBERS, "8.jpg", "9.jpg"), r"no such image file: .*loose_crop.9\.jpg"),
        (change(PAIRS, "2 12 1", "2 12 yes"), r"line 3: not 3 whole numbers; got '2 12 yes'"),
        (change(PAIRS, "2 12 1", "2 12"), r"line 3: not 3 whole numbers; got '2 12'"),
        (change(PAIRS, "2 12 1", "2 12 3"), r"line 3: the label is neither 0 nor 1; got 3"),
        (change(PAIRS, "1 12 0", "1 12 1"), r"line 5: the label contradicts the subjects; got label 0"),
    ],
)  # fmt: skip
def test_wrong_derived_files_are_named_with_the_line(derived: Path, edit: Callable[[Path], None], message: str) -> None:
    edit(derived)
    with pytest.raises(DataError, match=message):
        read_ijbc(IjbcConfig(path=derived))


def test_derived_lists_that_disagree_are_refused(derived: Path) -> None:
    add_search_lists(derived)
    change(PAIRS, "2 12 1", "2 12 0")(derived)
    with pytest.raises(DataError, match=r"pair_label\.txt line 3: the label contradicts the subjects; got label 0"):
        read_ijbc(IjbcConfig(path=derived))
    change("meta/ijbc_1N_gallery_G2.csv", "2,20", "22,20")(derived)
    with pytest.raises(DataError, match=r"gallery_G2\.csv line 2: unknown template 22"):
        read_ijbc(IjbcConfig(path=derived))
    change("meta/ijbc_1N_gallery_G2.csv", "22,20", "1,20")(derived)
    with pytest.raises(DataError, match=r"gallery_G2\.csv line 2: template 1 has two subjects; got 10 and 20"):
        read_ijbc(IjbcConfig(path=derived))
    (derived / "meta/ijbc_1N_gallery_G2.csv").write_text(OLD_LIST + lines("G1", sighting=True))
    with pytest.raises(DataError, match=r"template 2 of ijbc_face_tid_mid\.txt is in none of ijbc_1N_gallery_G1\.csv"):
        read_ijbc(IjbcConfig(path=derived))


def test_a_folder_with_neither_or_both_layouts_is_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no IJB-C; got folders neither protocols nor meta.*fix: correct path"):
        read_ijbc(IjbcConfig(path=release / "images"))
    (release / "meta").mkdir()
    with pytest.raises(DataError, match=r"in another way or in two; got folders protocols, meta.*layout: meta"):
        read_ijbc(IjbcConfig(path=release))
    check(read_ijbc(IjbcConfig(path=release, layout="protocols")), release)
    with pytest.raises(DataError, match=r"no such file: .*ijbc_face_tid_mid\.txt"):
        read_ijbc(IjbcConfig(path=release, layout="meta"))
