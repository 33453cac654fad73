"""Files and folders that are whole or not there, whatever happens meanwhile."""

import errno
import os
import pathlib
import shutil
import threading

import pytest
import tensorflow as tf

import tfebm
from tfebm import files


def fill_up(path):
    """Half a file, and then the words of a full disk."""
    path.write_text("half")
    with open("/dev/full", "w") as full:
        full.write("the other half")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestFile:
    def test_it_is_replaced_in_one_piece(self, tmp_path):
        path = tmp_path / "a.txt"
        for text in ("old", "new"):
            files.replace_file(path, lambda beside, text=text: beside.write_text(text))
            assert path.read_text() == text
        assert names(tmp_path) == ["a.txt"]

    def test_a_full_disk_leaves_the_old_one_and_no_half(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(tfebm.WriteFailed, match=r"a\.txt cannot be written: No space left"):
            files.replace_file(path, fill_up)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]

    def test_an_interrupt_leaves_the_old_one_and_no_half(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")

        def interrupted(beside):
            beside.write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            files.replace_file(path, interrupted)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]

    def test_nothing_is_put_there_behind_an_interrupt(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        path.write_text("old")
        interrupted = threading.Event()
        interrupted.set()
        monkeypatch.setattr(files, "interrupted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            files.replace_file(path, lambda beside: beside.write_text("new"))
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]

    def test_places_where_nothing_can_be(self, tmp_path):
        # Permissions do not bind an administrator, but these do.
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        for path, reason in (
            (tmp_path / "file" / "a.json", "Not a directory"),
            (tmp_path / "folder", "Is a directory"),
            (tmp_path / "gone" / "a.json", "No such file or directory"),
            (pathlib.Path("/proc/a.json"), "No such file or directory"),
        ):
            with pytest.raises(tfebm.WriteFailed, match=f"cannot be written: {reason}"):
                files.write_json(path, {"a": 1})
        assert names(tmp_path) == ["file", "folder"]


class TestFolder:
    def fill(self, folder):
        (folder / "a").write_text("new")
        (folder / "b").mkdir()
        (folder / "b" / "c").write_text("new")

    def test_it_is_replaced(self, tmp_path):
        path = tmp_path / "parent" / "x"
        for _ in range(2):
            files.replace_folder(path, self.fill)
            assert names(path) == ["a", "b"]
            (path / "old").write_text("old")
        assert names(path.parent) == ["x"]

    def test_a_full_disk_leaves_the_old_one_and_no_half(self, tmp_path):
        path = tmp_path / "x"
        files.replace_folder(path, self.fill)
        (path / "a").write_text("old")
        with pytest.raises(tfebm.WriteFailed, match="x cannot be written: No space left"):
            files.replace_folder(path, lambda folder: fill_up(folder / "a"))
        assert (path / "a").read_text() == "old"
        assert names(tmp_path) == ["x"]

    def test_the_old_one_is_put_back_when_the_new_one_cannot_take_its_place(
        self, tmp_path, monkeypatch
    ):
        path, replace = tmp_path / "x", os.replace
        files.replace_folder(path, self.fill)
        (path / "a").write_text("old")

        def refuse(source, target):
            if source.name == ".tmp-x":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(tfebm.WriteFailed, match="No space left"):
            files.replace_folder(path, self.fill)
        assert (path / "a").read_text() == "old"
        assert names(tmp_path) == ["x"]

    def test_a_removal_that_is_cut_short_leaves_no_half(self, tmp_path, monkeypatch):
        path = tmp_path / "x"
        files.replace_folder(path, self.fill)

        def die(path, **_):
            (path / "a").unlink()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda p, **k: die(p) if p.exists() else None)
            with pytest.raises(KeyboardInterrupt):
                files.discard(path)
        assert names(tmp_path) == [".tmp-old-x"]
        files.sweep(tmp_path)
        assert names(tmp_path) == []
        files.discard(path)  # nothing to do


def test_what_tensorflow_says_of_a_full_disk(tmp_path):
    with (
        pytest.raises(tfebm.WriteFailed, match="here cannot be written: No space left on device"),
        files.writing("here"),
    ):
        tf.io.write_file("/dev/full", "text")
    with pytest.raises(tf.errors.InvalidArgumentError), files.writing("here"):
        tf.reshape(tf.zeros(3), [2])
    # As when a GPU is full; TensorFlow's code for both is the same.
    with pytest.raises(tf.errors.ResourceExhaustedError), files.writing("here"):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


class TestLocalPath:
    @pytest.mark.parametrize("text", ["runs/a", "/a/b", "C:/a", "a:b", "run[1]", "~/x", "b//c"])
    def test_paths_stay_what_they_are(self, text):
        assert files.local_path(text, "It") == pathlib.Path(text)
        assert files.local_path(pathlib.Path(text), "It") == pathlib.Path(text)

    @pytest.mark.parametrize(
        "text", ["gs://b/c", "s3://b", "hdfs://h/x", "http://h:1/x", "file:///a", "x-y+z.1://a"]
    )
    def test_addresses_are_refused(self, text):
        scheme = text.partition(":")[0]
        for path in (text, pathlib.Path(text), text.encode()):
            with pytest.raises(tfebm.InvalidInputError, match=r"^It must be a path.*") as caught:
                files.local_path(path, "It")
            assert f" {scheme}://" in str(caught.value)

    @pytest.mark.parametrize("value", [None, 3, ["a"], object(), "a\0b"])
    def test_what_is_not_a_path(self, value):
        with pytest.raises(tfebm.InvalidInputError, match=r"^It must be") as caught:
            files.local_path(value, "It")
        assert "0x" not in str(caught.value)


def test_names_are_printed_on_one_line_and_steer_no_terminal():
    assert files.printable("caf\u00e9 \u732b.png") == "caf\u00e9 \u732b.png"
    assert files.printable("\udce9") == r"\udce9"
    assert files.storable("a\n\udce9") == "a\n\\udce9"  # in tables and keys a name is itself
    shown = files.printable("a\nb\r\t\x1b[2Jc\x7f\x9b\u2028\u202egnp.exe")
    assert shown == r"a\nb\r\t\x1b[2Jc\x7f\x9b\u2028\u202egnp.exe"
