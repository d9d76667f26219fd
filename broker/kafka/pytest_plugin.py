"""The fixture ``seawall_server``, for tests of programs that talk to Kafka.

pytest finds it by seawall's entry point as soon as seawall is installed::

    def test_my_service(seawall_server):
        producer = Producer({"bootstrap.servers": seawall_server.address})

Nothing else imports this module, and it imports the server only when the fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seawall.broker.kafka.threaded import ServerThread


@pytest.fixture
def seawall_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """A Kafka endpoint on a free port, over an empty directory of its own.

    ``address`` is its ``host:port``, ``broker`` the `Broker` behind it.
    """
    from seawall.broker.broker import Broker
    from seawall.broker.kafka.threaded import ServerThread

    with (
        Broker.open(tmp_path_factory.mktemp("seawall")) as broker,
        ServerThread(broker, listen="127.0.0.1:0") as server,
    ):
        yield server
