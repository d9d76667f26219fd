"""What the client programs in Python have in common: commands in, answers out.

A program is started with the bootstrap address, and takes commands from its standard input, a
JSON object on each line::

    {"do": "produce", "topic": "orders", "records": […], …}

and answers each with a line of JSON on its standard output: what came of it, or
``{"error": "…"}``, or ``{"unsupported": "why"}``. Lines with ``"event"`` may come before the
answer. It ends with its standard input. Programs in other languages do the same; the commands
are in `clients/scenarios.py`.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import traceback
from typing import Any


class Unsupported(Exception):
    """The client has no such thing."""


class Agent:
    """Answers commands by the methods of the same names."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()

    def say(self, **event: Any) -> None:
        with self._lock:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()

    def is_called_away(self) -> bool:
        """Whether a command waits: what runs until then, ends."""
        return not self._commands.empty()

    def main(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        while (command := self._commands.get()) is not None:
            self.say(**self.answer(command))

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, command.pop("do"), None)
        if method is None:
            return {"unsupported": "not in this client"}
        try:
            result: dict[str, Any] = method(**command)
            return result
        except Unsupported as error:
            return {"unsupported": str(error)}
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            traceback.print_exc()
            return {"error": self.name_of(error)}

    def name_of(self, error: Exception) -> str:
        """An error's name, Kafka's if it has one."""
        return f"{type(error).__name__}: {error}"

    def leave(self) -> dict[str, Any]:
        return {}

    def _listen(self) -> None:
        for line in sys.stdin:
            self._commands.put(json.loads(line))
        self._commands.put(None)


def to_bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def to_text(data: bytes | None) -> str | None:
    return None if data is None else bytes(data).decode()
