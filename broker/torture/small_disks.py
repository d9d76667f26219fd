"""Small file systems that only one server of processes sees, and that vanish with it.

Each is mounted in a mount namespace of its own (mount_namespaces(7)), so that nothing has
to be unmounted, however a search ends. Without the right to do that, a user namespace may
give it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
from collections.abc import Callable

from seawall.broker.torture.children import ChildFailed, Children, Line

MEBIBYTE = 1 << 20
TMPFS_BYTES = 6 * MEBIBYTE
INODES = 120
IMAGE_BYTES = 16 * MEBIBYTE
COMMAND_TIMEOUT_S = 30
BLOCK_BYTES = 4096

# linux/sched.h and linux/mount.h
_NEW_MOUNTS = 0x00020000
_NEW_USER = 0x10000000
_RECURSIVE = 0x4000
_PRIVATE = 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, folder: str, image: str) -> None:
    """Mount a small file system on `folder`, for this process and its children alone.

    `kind` is ``tmpfs``, ``inodes`` (a tmpfs with few of them) or ``ext4`` (in the file
    `image`). Raises `OSError` if that may not be done here.
    """
    _unshare()
    if kind == "ext4":
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        _command("mkfs.ext4", "-q", "-F", "-m", "0", image)
        _command("mount", "-o", "loop", image, folder)
        return
    options = f"size={TMPFS_BYTES}" + (f",nr_inodes={INODES}" if kind == "inodes" else "")
    _mount("tmpfs", folder, "tmpfs", 0, options)


def is_possible(kind: str, folder: str, image: str) -> bool:
    """Whether `mount` works on this machine."""
    try:
        Children(functools.partial(mount, kind, folder, image)).close()
    except ChildFailed:
        return False
    return True


def _unshare() -> None:
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_NEW_MOUNTS):
        _check(_libc.unshare(_NEW_USER | _NEW_MOUNTS), "unshare")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {user} 1"),
            ("gid_map", f"0 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _mount(None, "/", None, _RECURSIVE | _PRIVATE, None)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None
) -> None:
    words = [None if each is None else each.encode() for each in (source, target, kind, options)]
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), target)


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def _command(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
    except subprocess.SubprocessError as error:
        raise OSError(f"{words[0]} failed: {error}") from error


# -- in a child ----------------------------------------------------------------------------


def fill(line: Line, folder: str) -> None:
    """Fill the file system of `folder` up and make room again, as the line says.

    ``{"keep_bytes": n, "keep_files": m}`` leaves so much; ``{"free": 1}`` frees all.
    """
    fillers: list[str] = []
    while (told := line.hear()) is not None:
        if "free" in told:
            while fillers:
                os.unlink(fillers.pop())
        else:
            _fill_bytes(folder, told["keep_bytes"], fillers)
            _fill_files(folder, told.get("keep_files", -1), fillers)
        line.say({"done": 1})


def _fill_bytes(folder: str, keep_bytes: int, fillers: list[str]) -> None:
    path = os.path.join(folder, "filler")
    fillers.append(path)
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while _free(folder, lambda found: found.f_bavail * found.f_frsize) > keep_bytes:
            file.write(bytes(BLOCK_BYTES))
        os.fsync(file.fileno())


def _fill_files(folder: str, keep_files: int, fillers: list[str]) -> None:
    while keep_files >= 0 and _free(folder, lambda found: found.f_favail) > keep_files:
        path = os.path.join(folder, f"filler-{len(fillers)}")
        with open(path, "wb"):
            fillers.append(path)


def _free(folder: str, what: Callable[[os.statvfs_result], int]) -> int:
    return what(os.statvfs(folder))
