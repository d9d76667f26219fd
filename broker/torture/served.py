"""A server for the search "network": `seawall serve`, begun without the command line."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.kafka.server import serve
from seawall.wal.torture.processes import die_with_parent


async def _serve(path: str, listen: str, advertise: str) -> None:
    with Broker.open(path) as broker:
        async with serve(broker, listen=listen, advertise=advertise):
            await asyncio.Event().wait()


def main(arguments: list[str]) -> None:
    """Serve a directory until somebody kills us. Arguments: the path, where to listen, the
    address that clients are told, and the process that has started us."""
    *arguments, parent_pid = arguments
    if not die_with_parent(int(parent_pid)):
        return
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(*arguments))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main(sys.argv[1:])
