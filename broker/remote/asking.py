"""One question to the servers: wait for a connection, ask, wait for the answer, ask again.

A question that met no server, or not the right one, is asked again once the supervisor
says that a server answers; that is as long as the outage takes. What a server refuses is
refused at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from seawall.broker.errors import BrokerClosed, BrokerError
from seawall.broker.remote.aside import aside
from seawall.broker.remote.errors import AWAY, Facts, kafka_error, lost_signal, named
from seawall.broker.remote.supervisor import Supervisor

Answer = TypeVar("Answer")
Key = TypeVar("Key")

REQUEST_TIMEOUT_S = 10.0
_SHORTEST_TIMEOUT_S = 0.1
# How long a server that answers probes may put a question off; then its error is the answer.
PATIENCE_S = 60.0
# The first thing that a client is asked. While it waits it does not hear of a refusal, so that
# this is for short.
MEETING_S = 1.0
_ANY_TOPIC = "__consumer_offsets"
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Asking:
    """Asks for one broker. Safe to use from any thread."""

    def __init__(self, supervisor: Supervisor, make: Callable[[], Any], location: str) -> None:
        self.supervisor = supervisor
        self._make = make
        self.client = make()
        # The outage that it was made after; and whether it has met one since.
        self._epoch = supervisor.epoch
        self.is_stale = False
        self._lock = threading.Lock()
        self.location = location
        self.unusable: BrokerError | None = None
        # Whether this client has had an answer.
        self._is_met = False

    def facts(self, **known: Any) -> Facts:
        return Facts(location=self.location, **known)

    def check_usable(self) -> None:
        if self.unusable is not None:
            raise self.unusable

    def _fresh(self) -> Any:
        """The client; a new one after an outage. librdkafka's own may then wait for ever for
        metadata that it does not ask for, having dropped all the brokers that it knew."""
        client = self.client
        if client is not None:
            _hear(client)  # which may say that it is stale
        with self._lock:
            self.check_usable()
            if self.is_stale or self._epoch != self.supervisor.epoch:
                self.is_stale, self._epoch = False, self.supervisor.epoch
                self.client, self._is_met = self._make(), False
            return self.client

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
            # It may answer probes, and this question not.
            is_over = put_off_since_s is not None and left_s is not None and left_s <= 0
            if is_over or not self.supervisor.require(left_s):
                raise self.supervisor.lost()
            epoch, failures = self.supervisor.epoch, self.supervisor.failures
            try:
                client = self._fresh()
                was_met = self._is_met
                if not was_met:
                    client.list_topics(_ANY_TOPIC, timeout=MEETING_S)
                    self._is_met = was_met = True
                answer = aside(question, client)
                self.supervisor.worked()
                return answer
            except KafkaException as error:
                failure = kafka_error(error)
                if failure.code() not in AWAY:
                    if failure.code() > 0:  # that is a server's answer
                        self.supervisor.worked()
                    raise named(failure, facts) from error
                _hear(client)  # which may say that it is not let in
                refused = self.supervisor.refused()
                if refused is not None:
                    self.is_stale = True
                    raise refused from error
                now_s = time.monotonic()
                if put_off_since_s is None or epoch != self.supervisor.epoch:
                    put_off_since_s = now_s
                if now_s - put_off_since_s > PATIENCE_S:
                    raise named(failure, facts) from error
                # One that is still connecting is not replaced: connecting may take its time.
                if was_met or now_s - put_off_since_s > REQUEST_TIMEOUT_S:
                    self.is_stale = True
                if was_met and on_unsure is not None:
                    on_unsure()
                lost = self.supervisor.given_up(failures)
                if lost is not None:
                    raise lost from error
            except RuntimeError as error:  # the client was closed meanwhile
                self.check_usable()
                raise BrokerClosed(what="broker") from error
            self.supervisor.suspect()
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def _hear(client: Any) -> None:
    """Have a client make its reports."""
    try:
        client.poll(0)
    except SystemError as error:
        raise lost_signal(error) from None


def request_timeout_s(deadline_s: float | None) -> float:
    """How long the servers may take for an answer that is of no use after the deadline."""
    left_s = REQUEST_TIMEOUT_S if deadline_s is None else deadline_s - time.monotonic()
    return min(REQUEST_TIMEOUT_S, max(_SHORTEST_TIMEOUT_S, left_s))


def some(futures: Mapping[Key, Future[Answer]]) -> dict[Key, Answer]:
    """The answers to a question about several things, without those that were refused. Raises
    if one got none, so that it is asked again: what was not answered is not refused."""
    found = {}
    for key, future in futures.items():
        error = future.exception()
        if error is None:
            found[key] = future.result()
        elif isinstance(error, KafkaException) and kafka_error(error).code() in AWAY:
            raise error
    return found


def one(futures: Mapping[Any, Future[Answer]]) -> Answer:
    """The answer to a question about one thing."""
    [future] = futures.values()
    return future.result()
