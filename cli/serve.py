"""`seawall serve`: let Kafka clients in."""

import asyncio
import os
import resource
import signal
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seawall.cli.errors import DONE, CommandFailed, WrongUsage
from seawall.cli.logs import LOG_FORMATS, log_to_stderr
from seawall.cli.options import BrokerOption, open_directory
from seawall.cli.output import say, write_text
from seawall.cli.signals import IMPATIENT_AFTER_S

if TYPE_CHECKING:
    from seawall.broker import Broker
    from seawall.broker.kafka.settings import ServerSettings

app = typer.Typer(rich_markup_mode=None, add_completion=False)

# Threads that read and write hold the interpreter no longer than this while the loop waits.
SWITCH_INTERVAL_S = 0.001
MOST_GRACE_S = 1e15  # what grace.ms can hold


@app.command()
def serve(
    broker: BrokerOption = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to listen  [default: 127.0.0.1:9092]"),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where clients are told to connect to"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings as TOML; see --print-config")
    ] = None,
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="Let other machines in; nobody is authenticated"),
    ] = False,
    grace: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long stopping may take  [default: 10]"),
    ] = None,
    log_format: Annotated[
        str, typer.Option(metavar="FORMAT", help="Logs on stderr: text or json")
    ] = "text",
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the settings in force as TOML, then end")
    ] = False,
) -> int:
    """Let Kafka clients in: answer the Kafka protocol for the directory.

    Other processes may have the directory open meanwhile. A setting is taken from its option,
    else from the environment (SEAWALL_NUM_PARTITIONS=3), else from the file.
    """
    settings = _settings(config, listen, advertise, allow_remote, grace)
    if print_config:
        write_text(_as_toml(settings))
        return DONE
    if log_format not in LOG_FORMATS:
        raise WrongUsage(f"--log-format is {' or '.join(LOG_FORMATS)}, not {log_format!r}")
    _raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with (
        open_directory(broker, "serve Kafka clients; it is served already", create=True) as opened,
        log_to_stderr(log_format),
    ):
        _run(opened, settings)
    return DONE


def _settings(
    config: Path | None,
    listen: str | None,
    advertise: str | None,
    allow_remote: bool,
    grace: float | None,
) -> "ServerSettings":
    from seawall.broker.kafka.settings import SettingError, settings_from

    given: dict[str, object] = {"listen": listen, "advertise": advertise}
    given["allow_remote"] = allow_remote or None
    if grace is not None:
        if not 0 <= grace <= MOST_GRACE_S:
            raise WrongUsage(f"--grace is a number of seconds, 0 or more, not {grace}")
        given["grace_ms"] = round(grace * 1000)
    try:
        return settings_from(
            file={} if config is None else _read_toml(config),
            environment=os.environ,
            given={name: value for name, value in given.items() if value is not None},
        )
    except SettingError as error:
        raise WrongUsage(str(error)) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise WrongUsage(f"--config {path}: {error.strerror}") from error
    except RecursionError:
        raise WrongUsage(f"--config {path} is not TOML: it is nested too deep") from None
    except ValueError as error:  # of the syntax, of UTF-8, or of a number without end
        raise WrongUsage(f"--config {path} is not TOML: {error}") from error


def _as_toml(settings: "ServerSettings") -> str:
    import json

    from seawall.broker.kafka.settings import as_text, descriptions

    described = descriptions()
    # JSON's text, numbers and booleans are TOML's, too.
    return "\n".join(
        f"# {described[key]}\n{json.dumps(key)} = {json.dumps(value)}\n"
        for key, value in as_text(settings).items()
    )


def _raise_descriptor_limit() -> None:
    """As many open files as the system lets us: a connection is one, a segment is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # then there are fewer


def _run(broker: "Broker", settings: "ServerSettings") -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(broker, settings))


def _loop_factory() -> Any:
    """uvloop's loop where that is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(broker: "Broker", settings: "ServerSettings") -> None:
    from seawall.broker.kafka.server import serve as kafka_serve

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    first_s = 0.0

    def on_signal(number: int) -> None:
        nonlocal first_s
        if not stopped.is_set():
            first_s = time.monotonic()
            stopped.set()
        elif time.monotonic() - first_s > IMPATIENT_AFTER_S:
            os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            loop.add_signal_handler(number, on_signal, number)
    try:
        async with kafka_serve(broker, settings) as server:
            say(
                f"listening on {server.address}, serving {broker.path}; "
                f"try: kcat -b {server.advertised} -L"
            )
            await stopped.wait()
    except OSError as error:
        # A name that cannot be resolved has numbers of its own, below 0.
        code = error.errno or 0
        reason = os.strerror(code) if code > 0 else error.strerror
        raise CommandFailed(f"cannot listen on {settings.listen}: {reason}") from error
