"""The search "histories": random clients in several processes, whose history is checked.

Each round has a new directory, two or three processes with some threads each, and nothing
goes wrong but that now and then one of the processes is killed and another one started.
Afterwards everything is read once more.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.torture.client_rounds import ClientRound, ClientRounds, run_clients
from seawall.broker.torture.clients import Client, Surroundings
from seawall.broker.torture.consuming import ConsumingClient, GroupClient, OperatingClient
from seawall.broker.torture.events import Event
from seawall.broker.torture.producing import ProducingClient, SharingClient
from seawall.wal.torture.search import Broken, Setting

CLIENTS: Mapping[str, type[Client]] = {
    "producer": ProducingClient,
    "sharer": SharingClient,
    "consumer": ConsumingClient,
    "member": GroupClient,
    "operator": OperatingClient,
}
QUICK_ROUNDS, QUICK_ROUND_S = 3, 2.0
FULL_ROUNDS, FULL_ROUND_S = 30, 10.0
GROUPS = ("g0", "g1", "g2")


class Histories(ClientRounds):
    """Random clients, and what they were told held against what the log has."""

    name = "histories"
    title = "random clients, history checked"

    def __init__(self, setting: Setting) -> None:
        super().__init__(
            setting,
            FULL_ROUNDS if setting.full else QUICK_ROUNDS,
            FULL_ROUND_S if setting.full else QUICK_ROUND_S,
        )

    def new_round(self, folder: str, seed: int, seconds: float) -> ClientRound:
        """A round, to be played in an empty folder."""
        return Round(folder, seed, seconds)


class Round(ClientRound):
    """One directory and the processes that use it, of which some are killed."""

    groups = GROUPS
    segment_bytes = (4_096, 20_000, 1 << 20)

    def __init__(self, folder: str, seed: int, seconds: float) -> None:
        super().__init__(folder, seed, seconds)
        self.counts["processes killed"] = 0

    def play(self) -> None:
        """Let everybody do what they do, then read everything. Raises `Broken`."""
        self.create_topics()
        stays_open = self.random.random() < 0.5  # else processes are often alone
        other = Broker.open(self.path) if stays_open else None
        try:
            for _ in range(self.random.randrange(2, 4)):
                self._start()
            self.wait_until_all_are_ready()
            self._conduct(time.monotonic() + self.seconds)
            self.finish()
            self.read_everything()
        finally:
            if other is not None:
                other.close()

    def _conduct(self, until_s: float) -> None:
        """Kill somebody now and then, and start somebody else."""
        kills = self.random.random() < 0.7
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, self.random.uniform(0.1, 1.0)))
            self.look()
            at_work = self.at_work()
            if kills and at_work and time.monotonic() < until_s:
                self.kill(self.random.choice(at_work))
                self.counts["processes killed"] += 1
                self._start()

    def _start(self) -> None:
        clients = ["producer", "consumer", "member"]
        clients += self.random.choices(list(CLIENTS), k=self.random.randrange(1, 4))
        self.begin(f"p{self.started}", __name__, clients, path=self.path)

    def check_event(self, event: Event) -> None:
        """Nothing goes wrong with the disk, so every record can be sent."""
        if (
            event.op == "send"
            and event.kind not in ("invoke", "ok")
            and (event.kind == "info" or not event.error.startswith("BrokerClosed"))
        ):
            raise Broken(f"a record was not sent, for no reason: {event}")


# -- a process of clients ------------------------------------------------------------


def main(description: dict[str, Any]) -> int:
    """Run the clients of one process, each in its thread, until the standard input ends.

    Returns the exit status, 1 if one of them failed.
    """
    over = threading.Event()
    surroundings = Surroundings(
        connect=partial(Broker.open, description["path"]),
        topics=description["topics"],
        groups=GROUPS,
        is_over=over.is_set,
        histories=description["histories"],
    )
    return run_clients(CLIENTS, surroundings, description["clients"], over)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
