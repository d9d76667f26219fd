"""Asking: what was not answered is asked again, what was refused is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException

from seawall.broker.errors import BrokerClosed, ConnectionLost, UnknownTopic
from seawall.broker.remote import asking
from seawall.broker.remote.asking import (
    REQUEST_TIMEOUT_S,
    Asking,
    one,
    request_timeout_s,
    some,
)
from seawall.broker.remote.probe_socket import NoAnswer
from seawall.broker.remote.supervisor import ReconnectSettings, Supervisor

CUT = KafkaException(KafkaError(KafkaError._TRANSPORT))
UNKNOWN = KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))


class Client:
    """Stands for librdkafka's: it has nothing to report."""

    def poll(self, timeout: float) -> int:
        return 0

    def list_topics(self, topic: str, timeout: float) -> None:
        return None


class World:
    """A supervisor whose servers answer probes until they are `away`."""

    def __init__(self) -> None:
        self.is_away = False
        self.made = 0
        self.supervisor = Supervisor(
            "kafka://a:1",
            lambda: [("a", 1)],
            ReconnectSettings(reconnect_attempts=2, reconnect_backoff_ms=1),
            look=self.look,
        )
        self.asking = Asking(self.supervisor, self.make, "kafka://a:1")

    def make(self) -> Client:
        self.made += 1
        return Client()

    def look(self, host: str, port: int) -> None:
        if self.is_away:
            raise NoAnswer("refused")

    def ask(self, question: Callable[[], object], **options: object) -> object:
        facts = self.asking.facts(topic="orders")
        return self.asking.ask(lambda client: question(), facts, **options)  # type: ignore[arg-type]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.supervisor.end(BrokerClosed(what="broker"))


def outcomes(*given: object) -> Callable[[], object]:
    """A question with these answers, one after the other; exceptions are raised."""
    left = list(given)

    def question() -> object:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return question


def test_what_is_cut_off_is_asked_again_of_a_new_client(world: World) -> None:
    unsure: list[bool] = []
    answer = world.ask(outcomes(CUT, CUT, 7), on_unsure=lambda: unsure.append(True))
    assert (answer, len(unsure), world.made) == (7, 2, 3)


def test_what_is_refused_is_not_asked_again(world: World) -> None:
    with pytest.raises(UnknownTopic):
        world.ask(outcomes(UNKNOWN))


def test_who_asks_while_it_is_given_up_hears_of_that(world: World) -> None:
    """And does not wait for as many attempts once more."""

    def question() -> object:
        world.is_away = True
        world.supervisor.suspect()
        deadline_s = time.monotonic() + 60
        while not world.supervisor.failures:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        raise CUT

    with pytest.raises(ConnectionLost) as caught:
        world.ask(question)
    assert caught.value.attempts == 2
    assert world.supervisor.failures == 1


def test_a_deadline_holds_also_while_servers_answer_probes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE_S", 2.0)

    def question() -> object:
        raise CUT

    with pytest.raises(ConnectionLost):
        world.ask(question, deadline_s=time.monotonic() + 0.05)


def test_a_deadline_bounds_each_request() -> None:
    assert request_timeout_s(None) == REQUEST_TIMEOUT_S
    now_s = time.monotonic()
    assert request_timeout_s(now_s + 10_000) == REQUEST_TIMEOUT_S
    left_s = request_timeout_s(now_s + 2)
    gone_s = time.monotonic() - now_s
    assert 2 - gone_s <= left_s <= 2
    assert 0 < request_timeout_s(now_s - 1) < 1


def settled(outcome: object) -> Future[object]:
    future: Future[object] = Future()
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def test_what_was_not_answered_is_not_left_out_like_what_was_refused() -> None:
    assert some({"a": settled(1), "b": settled(UNKNOWN)}) == {"a": 1}
    with pytest.raises(KafkaException) as caught:
        some({"a": settled(1), "b": settled(CUT)})
    assert caught.value is CUT
    assert one({"a": settled(1)}) == 1
