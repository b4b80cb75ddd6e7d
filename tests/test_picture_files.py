"""Files below a root: a folder and a URL give the same, no path leads out, and whatever cannot be read says why."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from umair.errors import ConfigError
from umair.picture import PictureError, PictureLimits
from umair.picture_files import picture_hash, picture_state, read_picture, require_root

LIMITS = PictureLimits()
FORMS = ("{}", "file://{}")  # a folder, and the same through fsspec


def rule_of(root: str, path: str, limits: PictureLimits = LIMITS) -> str:
    with pytest.raises(PictureError) as caught:
        read_picture(root, path, limits)
    assert caught.value.value
    return caught.value.rule


@pytest.mark.parametrize("form", FORMS)
def test_reading_gives_the_bytes(tmp_path: Path, form: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "画 #1%20.png").write_bytes(b"content")
    assert read_picture(form.format(tmp_path), "deep/画 #1%20.png", LIMITS) == b"content"


def test_a_store_without_folders_is_read_and_its_state_follows_the_content() -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/shop/a/1.png", b"first")
    assert require_root("memory://shop") == "memory://shop"
    assert read_picture("memory://shop", "a/1.png", LIMITS) == b"first"
    before = picture_state("memory://shop", "a/1.png")
    assert picture_state("memory://shop", "a/1.png") == before
    store.pipe_file("/shop/a/1.png", b"other")
    assert picture_state("memory://shop", "a/1.png") != before
    assert picture_state("memory://shop", "a/2.png") == "a/2.png|unreadable"
    assert rule_of("memory://shop", "a/2.png") == "missing_file"
    assert rule_of("memory://shop", "a") == "not_a_file"


def test_a_store_s_own_errors_are_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class StoreError(Exception):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("slow down")

    store = fsspec.filesystem("memory")
    store.pipe_file("/shop/b/1.png", b"first")
    monkeypatch.setattr(type(store), "cat_file", refuse)
    with pytest.raises(PictureError, match=r"unreadable_file: b/1\.png: StoreError: slow down"):
        read_picture("memory://shop", "b/1.png", LIMITS)
    monkeypatch.setattr(type(store), "info", refuse)
    assert picture_state("memory://shop", "b/1.png") == "b/1.png|unreadable"


@pytest.mark.parametrize("form", FORMS)
def test_the_state_is_size_and_time_of_change(tmp_path: Path, form: str) -> None:
    file, root = tmp_path / "a.png", form.format(tmp_path)
    file.write_bytes(b"content")
    states = [picture_state(root, "a.png")]
    os.utime(file, ns=(0, 1_000_000_000))
    states += [picture_state(root, "a.png"), picture_state(root, "a.png")]
    file.write_bytes(b"content, longer")
    states.append(picture_state(root, "a.png"))
    assert states[1] == states[2]
    assert len(set(states)) == 3
    assert states[1].startswith("a.png|7|1")
    assert picture_state(root, "../a.png") == "../a.png|unreadable"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "nul\0byte"])
def test_no_path_leaves_the_root(tmp_path: Path, path: str, form: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    assert rule_of(form.format(tmp_path / "root"), path) == "path_leaves_root"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["link.png", "folder/secret.png"])
def test_no_link_leads_out_of_a_folder(tmp_path: Path, path: str, form: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-beside"  # the same beginning is not the same folder
    root.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    assert rule_of(form.format(root), path) == "path_leaves_root"


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert read_picture(str(tmp_path), "b.png", LIMITS) == b"content"


@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_read_says_why(tmp_path: Path, form: str) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "large.png").write_bytes(bytes(2_000))
    rules = {"empty.png": "empty_file", "folder.png": "not_a_file", "pipe.png": "not_a_file", "none.png": "missing_file",
             "large.png": "too_many_bytes"}
    for path, rule in rules.items():
        assert rule_of(form.format(tmp_path), path, PictureLimits(max_bytes=1_000)) == rule, path


def test_a_root_is_checked_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    assert require_root("images") == str(tmp_path / "images")
    assert require_root(f"file://{tmp_path}/images") == f"{tmp_path}/images"
    for root, found in (("nowhere", "no such folder"), ("memory://nowhere", "nothing there"),
                        ("nosuch://bucket/images", "cannot be opened .*nosuch"),
                        ("abfs://bucket/images", "cannot be opened .*adlfs")):
        with pytest.raises(ConfigError, match=f"raw.image_root = {root}: .*{found}"):
            require_root(root)


@pytest.mark.parametrize("form", FORMS)
def test_the_hash_is_of_the_content_alone_and_the_state_where_there_is_none(tmp_path: Path, form: str) -> None:
    root = form.format(tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"abc")
    sha256 = "sha256|ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180
    assert picture_hash(root, "a.png", LIMITS) == picture_hash(root, "b.png", LIMITS) == sha256
    assert picture_hash(root, "c.png", LIMITS) == "c.png|unreadable"
    assert picture_hash(root, "a.png", PictureLimits(max_bytes=2)) == picture_state(root, "a.png")
