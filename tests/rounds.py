"""Rounds of clients that are played, and whose history is changed afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from seawall.broker.torture.client_rounds import ClientRound
from seawall.broker.torture.events import encode, read_events


def play_and_lose(
    make: Callable[[str, int, float], ClientRound], folder: str, lengths_s: Sequence[float]
) -> ClientRound:
    """A round that was played: as short a one as had something to read in the end. The last
    record that each final poll had is taken out of its history."""
    for number, length_s in enumerate(lengths_s):  # how busy the machine is
        root = os.path.join(folder, f"{number}")
        os.mkdir(root)
        with make(root, 1, length_s) as each:
            each.play()
        path = os.path.join(root, "histories", "final")
        events = list(read_events(path))
        if any(found for event in events for found in event.records.values()):
            break
    with open(path, "wb") as file:
        for event in events:
            records = {name: found[:-1] for name, found in event.records.items()}
            file.write(encode(event._replace(records=records)))
    return each
