"""The supervisor under a clock of the test's: when it tries, what it tells, when it gives up."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.errors import AuthenticationFailed, BrokerClosed, ConnectionLost, TlsFailed
from seawall.broker.remote.probe import Security, WrongProtocol
from seawall.broker.remote.probe_socket import NoAnswer
from seawall.broker.remote.supervisor import REFUSED_S, Link, ReconnectSettings, Supervisor


class World:
    """A clock, a number of rounds that fail before a server answers, and what was told."""

    def __init__(self, failures: float, **settings: float | None) -> None:
        self.now_s = 1000.0
        self.failures = failures
        self.looked_s: list[float] = []
        self.told: list[tuple[int, float, Exception]] = []
        self.connected: list[float] = []
        self.supervisor = Supervisor(
            "kafka://a:1,b:2",
            lambda: [("a", 1), ("b", 2)],
            ReconnectSettings(
                on_reconnect=lambda *facts: self.told.append(facts),
                on_connected=self.connected.append,
                **settings,  # type: ignore[arg-type]
            ),
            look=self.look,
            random=lambda: 0.5,
            clock_s=lambda: self.now_s,
            sleep=self.sleep,
        )

    def look(self, host: str, port: int) -> None:
        if host == "a":
            self.looked_s.append(self.now_s - 1000)
        if len(self.looked_s) <= self.failures:
            raise NoAnswer(f"{host}:{port}: refused")

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_nothing_is_told_while_a_server_answers() -> None:
    world = World(0)
    assert world.supervisor.link is Link.UNKNOWN
    assert world.supervisor.require()
    world.supervisor.suspect()
    assert world.supervisor.require()
    assert (world.told, world.connected, world.supervisor.epoch) == ([], [], 0)


def test_waits_double_up_to_the_maximum(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "seawall.broker")
    world = World(6, reconnect_backoff_ms=200, reconnect_backoff_max_ms=2_000)
    world.supervisor.watch()
    delays = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]  # half of 0.2, 0.4, …, 2
    assert [told[:2] for told in world.told] == list(enumerate(delays, 1))
    assert world.looked_s == pytest.approx([0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5])
    assert world.connected == pytest.approx([3.5])
    assert world.supervisor.link is Link.UP
    assert all(isinstance(told[2], ConnectionLost) for told in world.told)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[3] == "connection lost; retry 4 in 0.8 s (b:2: refused)"
    assert messages[-1] == "connected again after 3.5 s"


@given(
    failures=st.integers(0, 40),
    base_ms=st.integers(1, 1_000),
    most_ms=st.integers(1_000, 60_000),
)
def test_no_wait_is_longer_than_its_ceiling(failures: int, base_ms: int, most_ms: int) -> None:
    world = World(failures, reconnect_backoff_ms=base_ms, reconnect_backoff_max_ms=most_ms)
    world.supervisor.watch()
    assert [told[0] for told in world.told] == list(range(1, failures + 1))
    for attempt, delay_s, _ in world.told:
        assert delay_s * 1000 == pytest.approx(min(most_ms, base_ms * 2 ** (attempt - 1)) / 2)
    assert len(world.looked_s) == failures + 1


def test_each_outage_begins_anew() -> None:
    world = World(2)
    world.supervisor.watch()
    world.failures = len(world.looked_s) + 1
    world.supervisor.watch()
    assert [told[:2] for told in world.told] == [(1, 0.05), (2, 0.1), (1, 0.05)]
    assert world.supervisor.epoch == 2


def test_it_gives_up_when_it_may() -> None:
    world = World(float("inf"), reconnect_attempts=3)
    let_go: list[ConnectionLost] = []
    world.supervisor.on_given_up.append(let_go.append)
    with pytest.raises(ConnectionLost) as caught:
        world.supervisor.require()
    assert (caught.value.attempts, caught.value.location) == (3, "kafka://a:1,b:2")
    assert caught.value.reason == "b:2: refused"
    assert len(world.looked_s) == 4
    assert [(str(each), each.attempts) for each in let_go] == [(str(caught.value), 3)]
    # The next use is tried as often again, and works once a server is there.
    world.failures = 5
    assert world.supervisor.require()
    assert world.supervisor.link is Link.UP


def test_no_attempt_at_all() -> None:
    world = World(float("inf"), reconnect_attempts=0)
    with pytest.raises(ConnectionLost, match="tried once"):
        world.supervisor.require()
    assert world.told == []


def test_what_librdkafka_reports_does_not_revive_what_was_given_up() -> None:
    world = World(float("inf"), reconnect_attempts=1)
    with pytest.raises(ConnectionLost):
        world.supervisor.require()
    looked = len(world.looked_s)
    world.supervisor.suspect(is_use=False)
    assert world.supervisor.link is Link.GIVEN_UP
    assert len(world.looked_s) == looked
    world.failures = looked
    world.supervisor.suspect()
    until(lambda: world.supervisor.link is Link.UP)


def test_the_verdict_is_told_as_it_was() -> None:
    world = World(float("inf"), reconnect_attempts=3)
    with pytest.raises(ConnectionLost):
        world.supervisor.require()
    told: list[int] = []

    def look(host: str, port: int) -> None:
        lost = world.supervisor.given_up(0)
        assert lost is not None
        told.append(lost.attempts)
        world.look(host, port)

    world.supervisor._look = look
    with pytest.raises(ConnectionLost):
        world.supervisor.require()
    assert told == [3] * 8  # not what the attempts that are under way have come to
    world.failures = 0
    assert world.supervisor.require()
    assert world.supervisor.given_up(0) is None


def test_no_verdict_is_older_than_who_gets_it() -> None:
    """Who comes during the last look may know of a server that came after it had begun."""
    begun, may_end = threading.Event(), threading.Event()
    looks = 0

    def look(host: str, port: int) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            begun.set()
            may_end.wait()
        if looks <= 2:
            raise NoAnswer("refused")

    settings = ReconnectSettings(reconnect_attempts=1, reconnect_backoff_ms=1)
    supervisor = Supervisor("kafka://a:1", lambda: [("a", 1)], settings, look=look)
    outcomes: dict[str, object] = {}

    def require(name: str) -> None:
        try:
            outcomes[name] = supervisor.require()
        except ConnectionLost as error:
            outcomes[name] = error.attempts

    first = threading.Thread(target=require, args=("first",))
    second = threading.Thread(target=require, args=("second",))
    first.start()
    begun.wait()
    second.start()
    until(lambda: len(supervisor._changed._waiters) == 2)  # type: ignore[attr-defined]
    may_end.set()
    first.join()
    second.join()
    # The first may wake up after the server was found to be back.
    assert outcomes["second"] is True
    assert outcomes["first"] in (1, True)
    supervisor.end(BrokerClosed(what="broker"))


def test_what_is_suspected_while_it_is_told_of_is_looked_at() -> None:
    world = World(1)
    away = 2

    def connected(away_s: float) -> None:
        nonlocal away
        world.connected.append(away_s)
        if away := away - 1:
            world.failures = len(world.looked_s) + 1
            world.supervisor.suspect()

    world.supervisor.settings = ReconnectSettings(on_connected=connected)
    assert world.supervisor.require()
    until(lambda: len(world.connected) == 2)
    assert world.supervisor.require()
    assert world.supervisor.epoch == 2


def test_what_is_suspected_during_a_look_is_looked_at_once_more() -> None:
    """The answer may be older than the loss."""
    world = World(0)
    looks = 0

    def look(host: str, port: int) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            world.supervisor.suspect()
        if looks in (2, 3):
            raise NoAnswer("refused")

    world.supervisor._look = look
    world.supervisor._begin = lambda: None  # type: ignore[method-assign]
    world.supervisor.watch()
    assert [told[0] for told in world.told] == [1]
    assert (looks, world.supervisor.link) == (4, Link.UP)


def test_what_is_suspected_all_the_time_is_used_nevertheless() -> None:
    world = World(0)
    world.supervisor._begin = lambda: None  # type: ignore[method-assign]
    world.supervisor._look = lambda host, port: world.supervisor.suspect()
    world.supervisor.watch()
    assert world.supervisor.link is Link.UP


def test_nothing_is_told_once_it_is_closed() -> None:
    begun, may_end = threading.Event(), threading.Event()
    told: list[object] = []

    def look(host: str, port: int) -> None:
        begun.set()
        may_end.wait()
        raise NoAnswer("refused")

    settings = ReconnectSettings(on_reconnect=lambda *facts: told.append(facts))
    supervisor = Supervisor("kafka://a:1", lambda: [("a", 1)], settings, look=look)
    supervisor.suspect()
    begun.wait()
    thread = supervisor._thread
    assert thread is not None
    ending = threading.Thread(target=supervisor.end, args=(BrokerClosed(what="broker"),))
    ending.start()
    supervisor._ended.wait()
    may_end.set()
    ending.join()
    thread.join()
    assert told == []


@contextmanager
def hanging(backlog: int) -> Iterator[int]:
    """A listener that never accepts; with a backlog of 0 one connection fills it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield port


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("backlog", [0, 100], ids=["connecting", "connected"])
def test_closing_interrupts_a_probe_that_hangs(backlog: int, is_tls: bool) -> None:
    with hanging(backlog) as port:
        supervisor = Supervisor(
            f"kafka://127.0.0.1:{port}",
            lambda: [("127.0.0.1", port)],
            ReconnectSettings(probe_timeout_ms=600_000),
            security=Security(is_tls=is_tls),
        )
        supervisor.suspect()
        thread = supervisor._thread
        assert thread is not None
        time.sleep(0.1)
        supervisor.end(BrokerClosed(what="broker"))
        thread.join(60)
        assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.01)


def test_waiting_has_an_end() -> None:
    stuck = threading.Event()

    def look(host: str, port: int) -> None:
        stuck.wait()

    supervisor = Supervisor("kafka://a:1", lambda: [("a", 1)], ReconnectSettings(), look=look)
    assert supervisor.require(0.05) is False
    stuck.set()
    assert supervisor.require(60)
    supervisor.end(BrokerClosed(what="broker"))
    with pytest.raises(BrokerClosed):
        supervisor.require()


def test_closing_ends_every_wait() -> None:
    def refuse(host: str, port: int) -> None:
        raise NoAnswer("refused")

    supervisor = Supervisor("kafka://a:1", lambda: [("a", 1)], ReconnectSettings(), look=refuse)
    raised: list[Exception] = []

    def wait() -> None:
        try:
            supervisor.require()
        except BrokerClosed as error:
            raised.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    supervisor.end(BrokerClosed(what="broker"))
    for thread in threads:
        thread.join()
    assert len(raised) == 3


def test_a_callback_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World(2)
    world.connected = None  # type: ignore[assignment]
    settings = ReconnectSettings(on_reconnect=lambda *_: 1 / 0, on_connected=lambda _: 1 / 0)
    world.supervisor.settings = settings
    world.supervisor.watch()
    assert world.supervisor.link is Link.UP
    assert sum("callback failed" in each.getMessage() for each in caplog.records) == 3


# -- servers that let nobody in ----------------------------------------------------------


class Refusing(World):
    """Servers that speak TLS, to a location without."""

    def look(self, host: str, port: int) -> None:
        super().look(host, port)
        if host == "a":
            raise NoAnswer("a:1: refused")
        raise WrongProtocol("b:2 speaks TLS", "add security.protocol=ssl", is_about_tls=True)


def refused(reason: str = "wrong password") -> AuthenticationFailed:
    return AuthenticationFailed(location="kafka://a:1,b:2", reason=reason)


def test_the_wrong_protocol_is_given_up_at_once() -> None:
    world = Refusing(0)
    let_go: list[Exception] = []
    world.supervisor.on_given_up.append(let_go.append)
    for count in (1, 2):  # the next use looks again
        with pytest.raises(TlsFailed, match="b:2 speaks TLS; add security") as caught:
            world.supervisor.require()
        assert caught.value.location == "kafka://a:1,b:2"
        assert (len(world.looked_s), len(let_go)) == (count, count)
    assert world.told == []
    assert str(world.supervisor.given_up(1)) == str(let_go[-1])
    assert world.supervisor.given_up(2) is None


def test_one_server_that_answers_is_enough() -> None:
    world = Refusing(0)
    world.look = lambda host, port: World.look(world, host, port)  # type: ignore[method-assign]
    world.supervisor._look = lambda host, port: (
        Refusing.look(world, host, port) if host == "b" else None
    )
    assert world.supervisor.require()


def test_a_refusal_from_the_beginning_is_final() -> None:
    supervisor = World(0).supervisor
    assert supervisor.refused() is None
    error = refused()
    supervisor.refuse(error)
    assert supervisor.refused() is error
    assert str(supervisor.given_up(0)) == str(error)
    assert supervisor.link is Link.GIVEN_UP
    assert supervisor.refused() is None  # told once; the next one has to be said again
    assert supervisor.require()


def test_what_worked_is_given_up_when_it_is_refused_for_a_while() -> None:
    world = World(0)
    supervisor = world.supervisor
    supervisor.worked()
    supervisor.refuse(refused("first"))
    assert supervisor.refused() is None
    world.now_s += REFUSED_S - 0.1
    supervisor.worked()  # it was one server of several
    supervisor.refuse(refused("second"))
    world.now_s += REFUSED_S - 0.1
    last = refused("third")
    supervisor.refuse(last)
    assert supervisor.refused() is None
    world.now_s += 0.2
    assert supervisor.refused() is last
    # From then on it is as in the beginning.
    supervisor.refuse(last)
    assert supervisor.refused() is last


def test_a_protocol_that_was_right_before_is_an_outage_first() -> None:
    world = Refusing(0)
    world.supervisor.worked()
    with pytest.raises(TlsFailed):
        world.supervisor.require()
    assert world.now_s - 1000 >= REFUSED_S
    assert world.told


def test_a_probe_that_fails_in_its_own_way_is_no_answer() -> None:
    world = World(0, reconnect_attempts=1)

    def look(host: str, port: int) -> None:
        raise ValueError("odd")

    world.supervisor._look = look
    with pytest.raises(ConnectionLost, match=r"ValueError\('odd'\); tried twice"):
        world.supervisor.require()
