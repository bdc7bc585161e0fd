"""Writes that happen wholly or not at all, a full disk included."""

from __future__ import annotations

import errno
import os

import pytest

from hetero import atomic
from hetero.errors import StorageError


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_write_bytes_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "deep" / "file"
    atomic.write_bytes(path, b"one")
    atomic.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert leftovers(path.parent) == []


def test_a_reader_with_the_old_file_open_keeps_reading_the_old_file(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"one")
    with open(path, "rb") as reader:
        atomic.write_bytes(path, b"two")
        assert reader.read() == b"one"


def test_write_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    atomic.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        atomic.write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_directory_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    with atomic.directory(path, marker="a") as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"

    def fails_halfway():
        with atomic.directory(path, marker="a") as folder:
            (folder / "a").write_text("2")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fails_halfway()
    assert (path / "a").read_text() == "1"
    with atomic.directory(path, marker="a") as folder:
        (folder / "b").write_text("3")
    assert [p.name for p in path.iterdir()] == ["b"]
    assert leftovers(tmp_path) == []


def test_a_replacement_cut_between_its_renames_is_recovered(tmp_path):
    path = tmp_path / "model"
    with atomic.directory(path, marker="a") as folder:
        (folder / "a").write_text("1")
    os.rename(path, tmp_path / ".previous-model")  # where a kill between the two renames leaves things
    atomic.recover(path)
    assert (path / "a").read_text() == "1"
    with atomic.directory(tmp_path / ".previous-model", marker="a") as folder:  # a kill after the second rename
        (folder / "a").write_text("old")
    atomic.recover(path)
    assert (path / "a").read_text() == "1"
    assert leftovers(tmp_path) == []


def test_stale_temporaries_of_a_killed_write_are_removed(tmp_path):
    stale = tmp_path / ".tmp-model.0badcafe"
    stale.mkdir()
    with atomic.directory(tmp_path / "model", marker="a"):
        pass
    assert not stale.exists()


def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"disk is full while saving .*file.*bytes free.*fix:"):
        atomic.write_bytes(path, b"new")
    with pytest.raises(StorageError, match="disk is full"), atomic.directory(tmp_path / "model", marker="a") as folder:
        (folder / "a").write_text("1")
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "model").exists()
    assert leftovers(tmp_path) == []


def test_a_path_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        atomic.write_bytes(tmp_path / "file" / "below", b"x")
    with pytest.raises(StorageError, match="cannot write"), atomic.directory(tmp_path / "file" / "below", marker="a"):
        pass


def test_other_errors_pass_through(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        atomic.write_bytes(tmp_path / "file", b"x")


def test_somebody_elses_directory_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match=r"not ours to replace: it holds no gallery.json"):  # noqa: SIM117
        with atomic.directory(tmp_path / "photos", marker="gallery.json"):
            pytest.fail("the body must not run")
    assert (tmp_path / "photos" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    with atomic.directory(tmp_path / "empty", marker="a") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "empty" / "a").exists()


def test_two_writers_of_one_name_leave_each_other_alone_and_the_last_wins(tmp_path):
    path = tmp_path / "model"
    with atomic.directory(path, marker="a") as one:
        (one / "a").write_text("1")
        with atomic.directory(path, marker="a") as two:
            (two / "a").write_text("2")
        assert (path / "a").read_text() == "2"
        assert (one / "a").read_text() == "1"
    assert (path / "a").read_text() == "1"
    assert leftovers(tmp_path) == []


def test_a_temporary_of_a_longer_name_is_not_taken_for_stale(tmp_path):
    other = tmp_path / ".tmp-model.hetero.0badcafe"
    other.mkdir()
    with atomic.directory(tmp_path / "model", marker="a") as folder:
        (folder / "a").write_text("1")
    assert other.exists()


def test_a_reader_that_recovers_between_a_writers_renames_waits_for_it(tmp_path, monkeypatch):
    """The reader runs in a thread of its own, started when the older directory has just been set aside."""
    import threading

    path = tmp_path / "model"
    with atomic.directory(path, marker="a") as folder:
        (folder / "a").write_text("old")
    real, readers = os.rename, []

    def slow(source, target):
        real(source, target)
        if ".previous-" in str(target):
            readers.append(threading.Thread(target=atomic.recover, args=(path,)))
            readers[0].start()
            readers[0].join(timeout=0.3)

    monkeypatch.setattr(os, "rename", slow)
    with atomic.directory(path, marker="a") as folder:
        (folder / "a").write_text("new")
    readers[0].join()
    assert (path / "a").read_text() == "new"
    assert leftovers(tmp_path) == []


def test_a_replacement_that_the_disk_refuses_puts_the_older_back_at_once(tmp_path, monkeypatch):
    path = tmp_path / "model"
    with atomic.directory(path, marker="a") as folder:
        (folder / "a").write_text("old")
    real = os.rename

    def refuses(source, target):
        if ".tmp-" in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", refuses)
    with pytest.raises(StorageError, match="disk is full"), atomic.directory(path, marker="a") as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    assert leftovers(tmp_path) == []
