"""Named locations, in a small TOML file of the user's.

::

    current = "prod"            # the one that is in force without -c; may be missing

    [contexts.prod]
    location = "kafka://broker-1:9092,broker-2:9092"

It lies in ``$XDG_CONFIG_HOME/seawall/contexts.toml``, by default below ``~/.config``, on
macOS, too, where other command-line tools keep theirs. It may be edited by hand: a command
that changes it leaves comments and order as they are. It is written aside and renamed, so a
reader sees the old one or the new one, and is readable by its owner only (mode 0600),
because a location may hold a password.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from seawall.cli.errors import CommandFailed, WrongUsage

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

# Also what TOML takes as a key without quotes.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
LONGEST_FILE_BYTES = 1 << 20
LOCK_TIMEOUT_S = 5.0
# Settings of librdkafka that are secrets, or may have some in them: sasl.password,
# ssl.key.pem, sasl.oauthbearer.config, …
SECRET_PATTERN = re.compile(
    r"password|passphrase|secret|token|\.pem$|jaas|oauthbearer\.config", re.IGNORECASE
)
USER_PATTERN = re.compile(r"(kafka://[^/@:]*:)[^/@]*@")


class Contexts(NamedTuple):
    """What the file says: locations by name, and the name of the current one, if any."""

    locations: Mapping[str, str]
    current: str | None


def contexts_path() -> Path:
    """Where the file is, or would be."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification has relative ones ignored.
    folder = base if os.path.isabs(base) else os.path.expanduser("~/.config")
    return Path(folder, "seawall", "contexts.toml")


def read_contexts() -> Contexts:
    """The file's contents; nothing if there is none. Raises CommandFailed, naming the line."""
    text = _read(contexts_path())
    return Contexts({}, None) if text is None else _parsed(text)


def location_of(name: str, origin: str) -> str:
    """The location of a context. Raises WrongUsage with the names that there are.

    ``origin`` is where the name comes from, such as ``-c``.
    """
    return _named(read_contexts(), name, origin)


def current_context() -> str | None:
    """The name of the current context, None without one."""
    return read_contexts().current


def _named(found: Contexts, name: str, origin: str) -> str:
    if name in found.locations:
        return found.locations[name]
    known = ", ".join(sorted(found.locations))
    hint = f"there are {known}" if known else "there is none; make one: seawall context add"
    raise WrongUsage(f"{origin}: no context is called {name!r}; {hint}")


def without_secrets(location: str) -> str:
    """The location to be shown: stars in the place of passwords."""
    where, mark, query = location.partition("?")
    shown = []
    for pair in query.split("&"):
        name, equals, _ = pair.partition("=")
        is_secret = equals and SECRET_PATTERN.search(unquote(name))
        shown.append(f"{name}=***" if is_secret else pair)
    return USER_PATTERN.sub(r"\1***@", where) + mark + "&".join(shown)


# -- reading -----------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from error
    if len(data) > LONGEST_FILE_BYTES:
        raise CommandFailed(f"{path}: longer than {LONGEST_FILE_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CommandFailed(f"{path}: line {line}: not UTF-8") from error


def _parsed(text: str) -> Contexts:
    import tomllib

    path = contexts_path()
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandFailed(f"{path} is not TOML: {error}") from error
    current = document.get("current")
    if current is not None and not isinstance(current, str):
        raise CommandFailed(f"{path}: line {_line_of(text, 'current')}: current is not a text")
    contexts = document.get("contexts", {})
    if not isinstance(contexts, dict):
        raise CommandFailed(f"{path}: line {_line_of(text, 'contexts')}: contexts is no table")
    locations = {}
    for name, entry in contexts.items():
        location = entry.get("location") if isinstance(entry, dict) else None
        if not isinstance(location, str) or not location:
            raise CommandFailed(
                f"{path}: line {_line_of(text, name)}: context {name!r} has no location; "
                f'write: [contexts.{name}] and below it location = "…"'
            )
        locations[name] = location
    return Contexts(locations, current or None)


def _line_of(text: str, key: str) -> int:
    """Where a key first stands, as an editor counts; the first line if that is unclear."""
    found = re.search(rf"^[^#\n]*(?<![\w-]){re.escape(key)}(?![\w-])", text, re.MULTILINE)
    return 1 if found is None else text.count("\n", 0, found.end()) + 1


# -- writing -----------------------------------------------------------------------------


def add_context(name: str, location: str, *, replace: bool, use: bool) -> None:
    """Store a location under a name. Raises WrongUsage, CommandFailed."""
    if not NAME_PATTERN.fullmatch(name):
        raise WrongUsage(
            f"{name!r}: a context's name has letters, digits, - and _, at most 63, "
            "and begins with a letter or a digit"
        )
    location = _absolute(location)
    with _changing() as (document, found):
        if name in found.locations and not replace:
            raise CommandFailed(
                f"there is a context {name!r} already, "
                f"{without_secrets(found.locations[name])}; --force replaces it"
            )
        contexts = document.setdefault("contexts", _new_table())
        contexts.setdefault(name, {})["location"] = location
        if use:
            document["current"] = name


def use_context(name: str | None) -> None:
    """Make a context the current one; None: have no current one."""
    with _changing() as (document, found):
        if name is None:
            document.pop("current", None)
        else:
            _named(found, name, "context use")
            document["current"] = name


def remove_context(name: str) -> bool:
    """Forget a context. True if it was the current one; then there is none any more."""
    with _changing() as (document, found):
        _named(found, name, "context remove")
        document["contexts"].pop(name)
        is_current = found.current == name
        if is_current:
            document.pop("current")
    return is_current


def _absolute(location: str) -> str:
    """A directory by its absolute path: a context holds wherever one is."""
    if not location:
        raise WrongUsage("the location is empty")
    if not location.isprintable():
        raise WrongUsage(f"{location!r}: the location has characters that cannot be printed")
    from seawall.broker.errors_remote import InvalidLocation
    from seawall.broker.location import SCHEME, is_cluster, parse_cluster

    if not is_cluster(location):
        return os.path.abspath(location)
    if not location.startswith(SCHEME):
        raise WrongUsage(
            f"{location!r}: a location is a directory, or kafka://HOST:PORT[,HOST:PORT…]"
        )
    try:
        parse_cluster(location)
    except InvalidLocation as error:
        raise WrongUsage(str(error)) from error
    return location


def _new_table() -> Any:
    import tomlkit

    return tomlkit.table(is_super_table=True)


@contextlib.contextmanager
def _changing() -> Iterator[tuple[TOMLDocument, Contexts]]:
    """The file as a document that may be changed, and is written afterwards."""
    import tomlkit

    path = contexts_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise CommandFailed(f"{path.parent}: {error.strerror}") from error
    try:
        _lock(folder)
        text = _read(path) or ""
        found = _parsed(text)
        document = tomlkit.parse(text)
        yield document, found
        changed = tomlkit.dumps(document)
        if changed != text or not path.exists():
            try:
                # The file itself, where its name is a link, as those keep it who manage theirs so.
                _write(Path(os.path.realpath(path)), changed.encode())
                os.fsync(folder)
            except OSError as error:
                raise CommandFailed(f"cannot write {path}: {error.strerror}") from error
    finally:
        os.close(folder)


def _lock(folder: int) -> None:
    """Have changes of several processes one after the other, so that all of them are there."""
    from seawall.wal.files import Files

    files, deadline_s = Files(), time.monotonic() + LOCK_TIMEOUT_S
    while not files.try_lock(folder):
        if time.monotonic() > deadline_s:
            raise CommandFailed(
                f"{contexts_path()}: somebody else has been changing it for {LOCK_TIMEOUT_S:.0f} s"
            )
        time.sleep(0.01)


def _write(path: Path, data: bytes) -> None:
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
