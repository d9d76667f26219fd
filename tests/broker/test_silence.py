"""Who hears nothing: that is an end only while the servers are there."""

from __future__ import annotations

from seawall.broker.silence import ASK_S, SILENCE_S, Silence


class Servers:
    """Answers after `away_s`, by a clock that it moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.away_s = 0.0
        self.asked = 0

    def ends(self, topic: str, partition: int) -> None:
        self.asked += 1
        self.now_s, self.away_s = self.now_s + self.away_s, 0.0

    def silence(self) -> Silence:
        return Silence(self, lambda: self.now_s)  # type: ignore[arg-type]


def waited_s(silence: Silence, servers: Servers, *, at_most_s: float = 1000) -> float:
    begun_s = servers.now_s
    while not silence.is_too_long("orders", 0) and servers.now_s - begun_s < at_most_s:
        servers.now_s += 0.5
    return servers.now_s - begun_s


def test_silence_of_servers_that_are_there_is_too_long_some_day() -> None:
    servers = Servers()
    silence = servers.silence()
    assert SILENCE_S < waited_s(silence, servers) < SILENCE_S + 2
    assert servers.asked <= SILENCE_S / ASK_S
    silence.heard()
    assert waited_s(silence, servers) > SILENCE_S


def test_an_outage_does_not_count() -> None:
    servers = Servers()
    silence = servers.silence()
    assert waited_s(silence, servers, at_most_s=SILENCE_S - 10) < SILENCE_S
    servers.away_s = 3600.0
    assert 3600 < waited_s(silence, servers, at_most_s=10_000) < 3600 + 12
