"""One question to the servers: wait for a connection, ask, wait for the answer, ask again.

A question that met no server, or not the right one, is asked again once the supervisor
says that a server answers; that is as long as the outage takes. What a server refuses is
refused at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from seawall.broker.errors import BrokerClosed, BrokerError
from seawall.broker.remote.errors import AWAY, Facts, kafka_error, named
from seawall.broker.remote.supervisor import Supervisor

Answer = TypeVar("Answer")

REQUEST_TIMEOUT_S = 10.0
# How long a server that answers probes may put a question off; then its error is the answer.
PATIENCE_S = 60.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Asking:
    """Asks for one broker. Safe to use from any thread."""

    def __init__(self, supervisor: Supervisor, client: Any, location: str) -> None:
        self.supervisor = supervisor
        self.client = client
        self.location = location
        self.unusable: BrokerError | None = None
        # What the servers said about whoever connects; waiting does not change it.
        self.refusal: BrokerError | None = None

    def facts(self, **known: Any) -> Facts:
        return Facts(location=self.location, **known)

    def check_usable(self) -> None:
        if self.unusable is not None:
            raise self.unusable

    def ask(
        self,
        question: Callable[[Any], Answer],
        facts: Facts,
        *,
        deadline_s: float | None = None,
        on_unsure: Callable[[], object] | None = None,
    ) -> Answer:
        """What `question(client)` returns. `on_unsure` hears of each attempt whose outcome
        is unknown. Raises the broker's errors, and `ConnectionLost` at the deadline."""
        put_off_since_s: float | None = None
        pause_s = _PAUSE_S
        while True:
            self.check_usable()
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if not self.supervisor.require(left_s):
                raise self.supervisor.lost()
            epoch = self.supervisor.epoch
            try:
                return question(self.client)
            except KafkaException as error:
                failure = kafka_error(error)
                if failure.code() not in AWAY:
                    raise named(failure, facts) from error
                with suppress(AttributeError):
                    self.client.poll(0)  # its reports
                if self.refusal is not None:
                    refusal, self.refusal = self.refusal, None
                    raise refusal from error
                now_s = time.monotonic()
                if put_off_since_s is None or epoch != self.supervisor.epoch:
                    put_off_since_s = now_s
                if now_s - put_off_since_s > PATIENCE_S:
                    raise named(failure, facts) from error
                if on_unsure is not None:
                    on_unsure()
            except RuntimeError as error:  # the client was closed meanwhile
                self.check_usable()
                raise BrokerClosed(what="broker") from error
            self.supervisor.suspect()
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def one(futures: Mapping[Any, Future[Answer]]) -> Answer:
    """The answer to a question about one thing."""
    [future] = futures.values()
    return future.result()
