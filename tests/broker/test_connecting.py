"""`connect`: the right kind of broker, and at once an error for what can never be one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seawall.broker import Broker, connect
from seawall.broker.errors import DirectoryUnusable, InvalidLocation
from seawall.broker.remote.broker import RemoteBroker


def test_a_directory(tmp_path: Path) -> None:
    with connect(tmp_path / "data") as broker:
        assert isinstance(broker, Broker)
        assert broker.location == str(tmp_path / "data")
        assert not broker.is_remote
    with pytest.raises(DirectoryUnusable):
        connect(str(tmp_path / "nowhere"), create=False)


def test_a_cluster_need_not_be_there() -> None:
    with connect("kafka://127.0.0.1:1?client.id=me") as broker:
        assert isinstance(broker, RemoteBroker)
        assert broker.location == "kafka://127.0.0.1:1"
        assert broker.is_remote


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("no.such.setting=1", "No such configuration property"),
        ("socket.timeout.ms=soon", "socket.timeout.ms"),
        ("socket.timeout.ms=5", "outside allowed range 10..300000"),
        ("security.protocol=telnet", "security.protocol"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: str, reason: str) -> None:
    with pytest.raises(InvalidLocation) as caught:
        connect(f"kafka://127.0.0.1:1?{settings}")
    assert reason in caught.value.reason
    assert caught.value.reason.isprintable()


def test_what_is_wrong_is_named_be_it_the_location_or_an_argument() -> None:
    with connect("kafka://127.0.0.1:1") as broker:
        for wrong in ({"linger_ms": 1e9}, {"buffer_bytes": 1 << 50}):
            with pytest.raises(ValueError, match="outside allowed range"):
                broker.producer(**wrong)  # type: ignore[arg-type]
    with (
        pytest.raises(InvalidLocation, match="outside allowed range"),
        connect("kafka://127.0.0.1:1?queue.buffering.max.ms=99999999") as broker,
    ):
        broker.producer()


@pytest.mark.parametrize(
    "wrong",
    [
        {"reconnect_backoff_ms": -1},
        {"reconnect_backoff_ms": 200, "reconnect_backoff_max_ms": 100},
        {"reconnect_attempts": -1},
    ],
)
def test_wrong_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        connect("kafka://127.0.0.1:1", **wrong)  # type: ignore[arg-type]


SCRIPT = """
import sys
sys.modules["confluent_kafka"] = None
from seawall.broker import connect, errors
try:
    connect("kafka://h:1")
except errors.MissingExtra as error:
    print(error)
"""


def test_without_the_client_library_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert done.stdout.decode() == (
        "kafka://h:1 needs the package confluent-kafka; install it with: "
        "pip install 'seawall[kafka]'\n"
    )


def test_a_directory_needs_no_client_library(tmp_path: Path) -> None:
    script = (
        "import sys; from seawall.broker import connect\n"
        f"with connect({str(tmp_path / 'data')!r}) as broker: broker.create_topic('t')\n"
        "kept_out = ('confluent', 'seawall.broker.remote')\n"
        "assert not [m for m in sys.modules if m.startswith(kept_out)]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
