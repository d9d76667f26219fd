"""The command line as a whole: help, versions, usage errors, completion, start-up."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from commands import SEAWALL, Cli, environment, seawall

from seawall.cli.app import COMMANDS, build

VERBS = [
    *("produce", "consume", "info", "verify"),
    *(
        f"topic {verb}"
        for verb in ("list", "create", "describe", "alter", "delete-records", "delete")
    ),
    *(f"group {verb}" for verb in ("list", "describe", "reset", "delete")),
    *(f"dlq {verb}" for verb in ("list", "show", "redrive", "purge")),
]


def test_help_names_every_command() -> None:
    ended = seawall("--help")
    assert (ended.code, ended.err) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} ".encode() in ended.out


def test_the_summaries_are_those_of_the_commands() -> None:
    context = typer.Context(build())
    for name, entry in COMMANDS.items():
        command = context.command.get_command(context, name)  # type: ignore[attr-defined]
        assert command.help.splitlines()[0] == entry.summary
        assert command.name == name
        assert hasattr(import_module(entry.module), "app")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_takes_a_broker(cli: Cli, verb: str) -> None:
    ended = cli(*verb.split(), "-h")
    assert (ended.code, ended.err) == (0, "")
    assert b"-b, --broker LOCATION" in ended.out
    assert b"<int range>" not in ended.out, "a metavar is missing"


def test_version() -> None:
    assert seawall("--version").out.decode() == f"seawall {version('seawall')}\n"


@pytest.mark.parametrize("arguments", ["", "topic", "group", "dlq"])
def test_without_a_verb_the_help_is_what_it_says(cli: Cli, arguments: str) -> None:
    ended = cli(*arguments.split())
    assert (ended.code, ended.out) == (2, b"")
    assert "Commands:" in ended.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["prodce"], "Did you mean 'produce'?"),
        (["--nosuch"], "No such option: --nosuch"),
        (["topic", "lst"], "Did you mean 'list'?"),
        (["produce"], "Missing argument 'TOPIC'"),
        (["-b"], "Option '-b' requires an argument"),
        (["consume", "t", "-n", "0"], "0 is less than 1"),
        (["consume", "t", "-n", "x"], "'x' is not an integer"),
        (["consume", "t", "-p", "-1"], "-1 is less than 0"),
        (["consume", "t", "u"], "unexpected extra argument"),
        (["consume", "t", "-o", "5:x"], "'5:x' is not an offset"),
        (["consume", "t", "-f", "%j"], "'%j' is no field"),
        (["consume", "t", "-g", "g", "-o", "5"], "-g: the group knows its offsets"),
        (["consume", "t", "-g", "g", "-p", "0"], "-g: the group knows its offsets"),
        (["consume", "t", "--json", "-f", "%s"], "--json: without -f and -Z"),
        (["consume", "t", "--auto-offset-reset", "x"], "'x' is not one of earliest"),
        (["produce", "t", "-k", "a", "-K", "b"], "a record has one key"),
        (["produce", "t", "-K", ""], "the delimiter is empty"),
        (["produce", "t", "-z", "bz2"], "'bz2' is not one of none, gzip"),
        (["produce", "t", "-H", "=x"], "a header needs a name"),
        (["produce", "t", "--json", "-k", "x"], "bring their own keys"),
        (["produce", "t", "--keep-partition"], "--keep-partition goes with --json"),
        (["produce", "t", "-p", "2147483648"], "2147483648 is more than 2147483647"),
        (["topic", "create", "t", "-c", "x"], "write NAME=VALUE"),
        (["topic", "create", "t", "-p", "0"], "0 is less than 1"),
        (["group", "reset", "g", "-t", "t"], "either -o OFFSET or --shift-by N"),
        (["group", "reset", "g", "-t", "t", "-o", "1:2"], "a range, where one position is wanted"),
        (["topic", "list", "-b", ""], "the location is empty"),
        (["-b", "", "topic", "list"], "the location is empty"),
    ],
)
def test_wrong_usage_is_one_line(cli: Cli, arguments: list[str], complaint: str) -> None:
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, b"")
    assert complaint in ended.err
    assert ended.err.startswith("seawall: ")
    assert ended.err.count("\n") == 1


def test_the_completion_script_is_shown() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{SEAWALL} --show-completion; exit $?"],
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert b"_SEAWALL_COMPLETE=complete_bash" in done.stdout


def test_the_completion_script_is_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{SEAWALL} --install-completion; exit $?"],
        capture_output=True,
        env=environment({"HOME": str(tmp_path)}),
        check=True,
    )
    assert b"bash completion installed in" in done.stdout
    assert b"bash_completions" in (tmp_path / ".bashrc").read_bytes()


def complete(words: str) -> list[str]:
    """What bash is offered for the last word."""
    env = {
        "_SEAWALL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return seawall(env=env).out.decode().split()


def test_completion() -> None:
    assert complete("seawall ") == list(COMMANDS)
    assert complete("seawall cons") == ["consume"]
    assert complete("seawall topic d") == ["describe", "delete-records", "delete"]
    assert complete("seawall produce t -z l") == ["lz4"]
    assert "--format" in complete("seawall consume --")


def modules_of(*arguments: str) -> set[str]:
    """The modules that a command imports."""
    program = (
        "import json, sys\n"
        "from seawall.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        env=environment(),
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", ["--help", "topic create --help", "consume t -f %j -n 1"])
def test_start_up_imports_only_what_it_needs(arguments: str) -> None:
    modules = modules_of(*arguments.split())
    assert (
        modules & {"pydantic", "rich", "lmdb", "sqlalchemy", "asyncio", "seawall.broker"} == set()
    )


@pytest.mark.parametrize("arguments", ["topic list", "produce orders -q", "consume orders -e -q"])
def test_what_changes_no_topic_imports_no_sqlalchemy(
    cli: Cli, orders: str, data: Path, arguments: str
) -> None:
    modules = modules_of("-b", str(data), *arguments.split())
    assert "seawall.broker.catalog" in modules, "the command did not get that far"
    assert modules & {"sqlalchemy", "asyncio", "pydantic", "rich"} == set()


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys\n"
        "from seawall.cli import app, main\n"
        "def build(): raise KeyError('x')\n"
        "app.build = build\n"
        "sys.exit(main.main([]))\n"
    )
    for debug, trace in (("", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            env=environment({"SEAWALL_DEBUG": debug}),
            check=False,
        )
        last = done.stderr.decode().splitlines()[-1]
        assert last == "seawall: unexpected KeyError: 'x' (SEAWALL_DEBUG=1 shows where)"
        assert (done.returncode, b"Traceback" in done.stderr) == (1, trace)


def test_what_is_meant_for_a_closed_stdout_goes_nowhere(cli: Cli, orders: str, data: Path) -> None:
    """Not into the file that happened to get its number."""

    def shell(command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", f"exec {SEAWALL} -b {data} {command}"],
            capture_output=True,
            env=environment(),
            check=False,
        )

    assert seawall("produce", orders, "-b", data, stdin=b"a\n").code == 0
    done = shell(f"consume {orders} -e >&-")
    assert (done.returncode, done.stderr) == (
        1,
        b"seawall: cannot write to stdout: Bad file descriptor; 0 records printed\n",
    )
    done = shell(f"produce {orders} <&-")
    assert done.returncode == 1
    assert b"cannot read stdin: Bad file descriptor; 0 lines acknowledged" in done.stderr
    assert cli("verify").code == 0
    assert cli("consume", orders, "-e", "-q").out == b"a\n"
