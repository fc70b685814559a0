"""Files and folders get their names when they are whole, by one rename on their own filesystem."""

import errno
import os
import sys

import pytest

from pyro_omics.serialization import atomic_write as module
from pyro_omics.serialization.atomic_write import atomic_write, remove, write_together


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def folder_with(text):
    def write(path):
        path.mkdir()
        (path / "a.txt").write_text(text)

    return write


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("has_exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, old, has_exchange):
    if not has_exchange:
        monkeypatch.setattr(module, "_exchange", lambda one, other: False)
    if old:
        atomic_write(tmp_path / "model", folder_with("old"))
        (tmp_path / "model/more.txt").write_text("old")
    atomic_write(tmp_path / "model", folder_with("new"))
    assert content(tmp_path) == {"model/a.txt": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need two renames for a folder")
def test_a_folder_is_there_at_every_moment(tmp_path, monkeypatch):
    atomic_write(tmp_path / "model", folder_with("old"))

    def no_second_rename(*args):
        raise AssertionError("two renames leave a moment without the folder")

    monkeypatch.setattr("pathlib.Path.rename", no_second_rename)
    atomic_write(tmp_path / "model", folder_with("new"))
    assert content(tmp_path) == {"model/a.txt": "new"}


def test_writes_are_on_the_filesystem_of_the_path(tmp_path, monkeypatch):
    """Whatever the system's temporary folder is."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    seen = []
    atomic_write(tmp_path / "a.txt", lambda path: (seen.append(path), path.write_text("new")))
    assert seen[0].parent.parent == tmp_path and seen[0].name == "a.txt"
    monkeypatch.setattr("shutil.copyfile", None)
    monkeypatch.setattr("shutil.move", None)
    atomic_write(tmp_path / "a.txt", lambda path: path.write_text("newer"))
    assert content(tmp_path) == {"a.txt": "newer"}


def test_files_that_belong_together_are_written_together(tmp_path):
    for name in ("kept.txt", "stale.txt", "a.txt"):
        (tmp_path / name).write_text("old")
    before = content(tmp_path)

    def fail(fresh):
        (fresh / "a.txt").write_text("new")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_together(tmp_path, fail, ["stale.txt"])
    assert content(tmp_path) == before and len(os.listdir(tmp_path)) == 3

    def write(fresh):
        (fresh / "a.txt").write_text("new")
        folder_with("new")(fresh / "model")

    paths = write_together(tmp_path, write, ["stale.txt", "a.txt", "absent.txt"])
    assert paths == [tmp_path / "a.txt", tmp_path / "model"]
    assert content(tmp_path) == {"kept.txt": "old", "a.txt": "new", "model/a.txt": "new"}
    assert len(os.listdir(tmp_path)) == 3


def test_only_names_in_the_folder_are_removed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    inside = tmp_path / "out"
    inside.mkdir()
    folder_with("old")(inside / "model")
    (inside / "link").symlink_to(tmp_path)
    remove(inside, ["../mine.txt", str(tmp_path / "mine.txt"), "..", ".", "", "model", "link", "absent"])
    assert os.listdir(inside) == []
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file must be open for writing to be flushed")
def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Or a power cut between the two would leave an empty file in place of the old one."""
    flushed = {}
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.update({os.fstat(handle).st_ino: os.fstat(handle).st_size}))
    written = [
        atomic_write(tmp_path / "a.txt", lambda path: path.write_text("four")),
        atomic_write(tmp_path / "model", folder_with("five!")) / "a.txt",
        *write_together(tmp_path, lambda fresh: (fresh / "b.txt").write_text("eleven chars")),
    ]
    for path in written:
        assert flushed[path.stat().st_ino] == path.stat().st_size > 0
    assert (tmp_path / "model").stat().st_ino in flushed

    def fail(handle):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fail)
    before = content(tmp_path)
    with pytest.raises(OSError, match="broken"):
        atomic_write(tmp_path / "a.txt", lambda path: path.write_text("new"))
    with pytest.raises(OSError, match="broken"):
        write_together(tmp_path, lambda fresh: (fresh / "b.txt").write_text("new"), ["a.txt"])
    assert content(tmp_path) == before

    def refuse(handle):
        raise OSError(errno.EINVAL, "this filesystem does not flush")

    monkeypatch.setattr(os, "fsync", refuse)
    assert atomic_write(tmp_path / "a.txt", lambda path: path.write_text("new")).read_text() == "new"
