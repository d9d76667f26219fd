"""A web application that embeds a broker: each POST is published before it is answered.

Bare ASGI, for any server. ``python embedding.py PORT`` is a server of its own that, like
others with a preload option, loads the application first (which opens the directory) and
forks its workers then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from seawall.broker import AsyncProducer, Broker
from seawall.broker.errors import BrokerError, ForkedBroker

FOLDER = os.environ["SEAWALL_TEST_FOLDER"]
WORKERS = 4

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# Opened before the fork, if there is one.
preloaded = Broker.open(FOLDER) if os.environ.get("SEAWALL_TEST_PRELOAD") else None
state: dict[str, Any] = {}


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        metadata = await state["producer"].send("orders", body)
        status, answer = 200, f"{os.getpid()} {metadata.offset}"
    except BrokerError as error:
        status, answer = 503, str(error)
    headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.encode()})


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            if preloaded is not None:
                with contextlib.suppress(ForkedBroker):
                    preloaded.topics()
                    raise SystemExit("the parent's broker can be used in a worker")
            state["broker"] = Broker.open(FOLDER)
            state["producer"] = AsyncProducer(state["broker"])
            await send({"type": "lifespan.startup.complete"})
        else:
            await state["producer"].close()
            state["broker"].close()
            await send({"type": "lifespan.shutdown.complete"})
            return


def main(port: int) -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", port))
    workers = []
    for _ in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            config = uvicorn.Config(app, log_level="warning")
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run([listening])
            os._exit(0)
        workers.append(pid)

    def stop(number: int, frame: object) -> None:
        for worker in workers:
            os.kill(worker, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for worker in workers:
        os.waitpid(worker, 0)
    if preloaded is not None:
        preloaded.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
