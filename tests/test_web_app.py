"""A web application with four workers that embed one directory loses nothing it accepted."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import read_all
from clients.endpoints import free_port
from commands import TIMEOUT_S
from storage import memory_folder

from seawall.broker import Broker

APPS = Path(__file__).with_name("apps")
CLIENTS = 6


@pytest.fixture
def folder() -> Iterator[str]:
    with memory_folder() as path, Broker.open(path) as broker:
        broker.create_topic("orders", 3)
        yield path


def spawned(port: int) -> list[str]:
    options = ["--workers", "4", "--port", str(port), "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", "--app-dir", str(APPS), *options, "embedding:app"]


def preloaded(port: int) -> list[str]:
    return [sys.executable, str(APPS / "embedding.py"), str(port)]


def post(connection: http.client.HTTPConnection, body: bytes) -> bytes:
    connection.request("POST", "/", body)
    response = connection.getresponse()
    text = response.read()
    assert response.status == 200, text
    return text


@pytest.mark.parametrize("how", [spawned, preloaded])
def test_nothing_that_was_accepted_is_lost(folder: str, how: object) -> None:
    assert callable(how)
    port = free_port()
    environment = {**os.environ, "SEAWALL_TEST_FOLDER": folder}
    if how is preloaded:
        environment["SEAWALL_TEST_PRELOAD"] = "1"
    accepted: list[bytes] = []
    workers: set[bytes] = set()
    stopping = threading.Event()

    def client(name: int) -> None:
        number = 0
        while not stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            try:
                for _ in range(20):  # then another connection, and perhaps another worker
                    body = b"%d %d" % (name, number)
                    number += 1
                    workers.add(post(connection, body).split()[0])
                    accepted.append(body)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)  # not up yet, or going down
            finally:
                connection.close()

    server = subprocess.Popen(how(port), env=environment, stderr=subprocess.PIPE)
    clients = [threading.Thread(target=client, args=(name,)) for name in range(CLIENTS)]
    try:
        for thread in clients:
            thread.start()
        deadline_s = time.monotonic() + 2 * TIMEOUT_S
        while len(accepted) < 300 or len(workers) < 2:
            assert time.monotonic() < deadline_s, (len(accepted), workers)
            assert server.poll() is None
            time.sleep(0.05)
        server.send_signal(signal.SIGTERM)  # in the middle of it
        _, errors = server.communicate(timeout=TIMEOUT_S)
    finally:
        stopping.set()
        server.kill()
        for thread in clients:
            thread.join()
        server.communicate()
    assert b"Traceback" not in errors
    with Broker.open(folder) as broker:
        stored = [record.value for record in read_all(broker)]
        assert len(stored) == len(set(stored))
        assert set(accepted) <= set(stored)
        assert list(broker.verify()) == []
