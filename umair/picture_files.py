"""Where pictures are kept: below one root, a folder that all nodes see or a URL that fsspec opens (s3://, hdfs://, gs://).

A path of the catalogue is relative to the root and never leads out of it. fsspec brings the protocol; its package (s3fs
for s3://, adlfs for abfs:// ...) is the user's to install on every node.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from umair.errors import ConfigError
from umair.picture import PictureError, PictureLimits, check_bytes

NOT_THERE = "unreadable"  # the state of what cannot even be looked at
# what stores call the tag or time that changes with a file
CHANGES_WITH_CONTENT = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")


def require_root(root: str) -> str:
    """`root` as every process should name it: a folder made absolute, a URL as it is.

    Raises ConfigError when there is no such folder or the URL cannot be opened here.
    """
    root = _as_folder(root)
    if not _is_url(root):
        if not Path(root).is_dir():
            raise ConfigError(f"raw.image_root = {root}", "no such folder", "the folder of the pictures",
                              "correct raw.image_root")
        return str(Path(root).absolute())
    try:
        files, base = _open_root(root)
        found = files.exists(base)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"raw.image_root = {root}", f"a URL that cannot be opened ({error})",
                          "a protocol that fsspec knows, with its package and access to the store",
                          "install the package on every node, or correct raw.image_root") from error
    if not found:
        raise ConfigError(f"raw.image_root = {root}", "nothing there", "the folder of the pictures",
                          "correct raw.image_root")
    return root


def read_picture(root: str, path: str, limits: PictureLimits) -> bytes:
    """The bytes of the file `path` below `root`.

    Raises PictureError: path_leaves_root (absolute, `..`, a link that leads out), missing_file, not_a_file, unreadable_file,
    empty_file, too_many_bytes (found before reading).
    """
    root = _as_folder(root)
    try:
        content = _read_url(root, path, limits) if _is_url(root) else _read_local(root, path, limits)
    except FileNotFoundError as error:
        raise PictureError("missing_file", path) from error
    except OSError as error:
        raise PictureError("unreadable_file", f"{path}: {error.strerror or error}") from error
    check_bytes(len(content), limits)  # it may have grown since
    return content


def picture_state(root: str, path: str) -> str:
    """What changes when the file does: path|size|modification time in ns, or the store's own tag; the file is not read."""
    root = _as_folder(root)
    try:
        if not _is_url(root):
            found = os.stat(_resolve(root, path))
            return f"{path}|{found.st_size}|{found.st_mtime_ns}"
        files, full = _at(root, path)
        said = _asked(files.info, path, full)
    except (PictureError, OSError):
        return f"{path}|{NOT_THERE}"
    tag = next((said[key] for key in CHANGES_WITH_CONTENT if key in said), None)
    return f"{path}|{said.get('size')}|{files.ukey(full) if tag is None else tag}"


def picture_hash(root: str, path: str, limits: PictureLimits) -> str:
    """sha256|hex digits of the file, which is read; `picture_state` of one that cannot be, and of one that is too large."""
    try:
        return f"sha256|{hashlib.sha256(read_picture(root, path, limits)).hexdigest()}"
    except PictureError:
        return picture_state(root, path)


def _read_local(root: str, path: str, limits: PictureLimits) -> bytes:
    resolved = _resolve(root, path)
    found = os.stat(resolved)
    if not stat.S_ISREG(found.st_mode):  # a pipe would block the task for ever
        raise PictureError("not_a_file", path)
    check_bytes(found.st_size, limits)
    with open(resolved, "rb") as file:
        return file.read(limits.max_bytes + 1)


def _read_url(root: str, path: str, limits: PictureLimits) -> bytes:
    files, full = _at(root, path)
    said = _asked(files.info, path, full)
    if said["type"] != "file":
        raise PictureError("not_a_file", path)
    if said["size"] is not None:
        check_bytes(said["size"], limits)
    content: bytes = _asked(files.cat_file, path, full)
    return content


def _asked(ask: Callable[[str], Any], path: str, full: str) -> Any:
    """What a store answers. Each has errors of its own: one that is no OSError counts as a file that cannot be read."""
    try:
        return ask(full)
    except OSError:
        raise
    except Exception as error:
        raise PictureError("unreadable_file", f"{path}: {type(error).__name__}: {error}") from error


def _resolve(root: str, path: str) -> str:
    """The real path of `path`, links followed. Raises PictureError path_leaves_root unless it stays below `root`."""
    _require_relative(path)
    real = os.path.realpath(root)
    resolved = os.path.realpath(os.path.join(real, path))
    if os.path.commonpath([real, resolved]) != real:
        raise PictureError("path_leaves_root", f"{path} leads to {resolved}")
    return resolved


def _at(root: str, path: str) -> tuple[Any, str]:
    """The root's file system and `path` in it. A store has no links to follow."""
    _require_relative(path)
    files, base = _open_root(root)
    return files, f"{base.rstrip('/')}/{path}"


def _require_relative(path: str) -> None:
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or "\0" in path:
        raise PictureError("path_leaves_root", path)


def _open_root(root: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    files, base = url_to_fs(root)  # fsspec keeps one file system for each process
    return files, base


def _as_folder(root: str) -> str:
    """file:///a/b is the folder /a/b, whose links are followed and watched; other roots stay as they are."""
    return root.removeprefix("file://") if root.startswith("file:///") else root


def _is_url(root: str) -> bool:
    return "://" in root
