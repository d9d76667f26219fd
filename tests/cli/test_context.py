"""`seawall context`, and which location is in force."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SEAWALL, TIMEOUT_S, Cli, environment, seawall

from seawall.cli import contexts
from seawall.cli.contexts import contexts_path, without_secrets


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of contexts, and nothing else that names a location."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SEAWALL_BROKER", raising=False)
    monkeypatch.delenv("SEAWALL_CONTEXT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config" / "seawall" / "contexts.toml"


@pytest.fixture
def bare(cli: Cli, config: Path) -> Cli:
    """Commands without the default of the other tests, $SEAWALL_BROKER."""
    return cli


def in_force(cli: Cli, *arguments: str) -> tuple[str, str | None, str]:
    ended = cli(*arguments, "context", "show", "--json")
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    return facts["location"], facts["context"], facts["origin"]


def test_a_context_is_added_used_shown_and_removed(bare: Cli, config: Path, tmp_path: Path) -> None:
    assert bare("context", "list").out == b"CURRENT  NAME  LOCATION\n"
    assert bare("context", "add", "dev", "here", "-q").code == 0
    added = bare("context", "add", "prod", "kafka://one:9092,two:9092")
    assert (added.code, added.err) == (0, f"seawall: context 'prod' is in {config}\n")
    assert bare("context", "use", "prod") == (0, b"", "")
    lines = bare("context", "list").lines
    assert [line.split() for line in lines[1:]] == [
        [b"dev", os.fsencode(tmp_path / "here")],  # absolute: it holds wherever one is
        [b"*", b"prod", b"kafka://one:9092,two:9092"],
    ]
    listed = [json.loads(line) for line in bare("context", "list", "--json").lines]
    assert [(each["name"], each["current"]) for each in listed] == [("dev", False), ("prod", True)]
    removed = bare("context", "remove", "prod")
    assert (removed.code, removed.err) == (
        0,
        "seawall: 'prod' was the current context; there is none now\n",
    )
    assert in_force(bare) == ("data", None, "default")
    assert config.read_text().strip() == f'[contexts.dev]\nlocation = "{tmp_path / "here"}"'


def test_commands_go_where_the_context_is(bare: Cli, tmp_path: Path) -> None:
    """-c before the verb is a context, behind `topic create` it is a setting."""
    assert bare("context", "add", "dev", "dev", "--use", "-q").code == 0
    assert bare("context", "add", "other", "other", "-q").code == 0
    made = bare("-c", "other", "topic", "create", "orders", "-c", "segment.bytes=1048576", "-q")
    assert made == (0, b"", "")
    assert bare("topic", "create", "mine", "-q").code == 0
    assert bare("topic", "list", "-q").out == b"mine\n"
    described = bare("--context", "other", "topic", "describe", "orders", "--json")
    assert json.loads(described.out)["config"] == {"segment.bytes": "1048576"}
    assert bare("-c", "dev", "topic", "list", "-q", "-b", str(tmp_path / "other")).out == (
        b"orders\n"
    )
    assert not (tmp_path / "data").exists()


def test_precedence(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flag", "variable", "current"):
        bare("context", "add", name, f"/{name}", "-q")
    assert in_force(bare) == ("data", None, "default")
    bare("context", "use", "current")
    assert in_force(bare) == ("/current", "current", "current context")
    monkeypatch.setenv("SEAWALL_CONTEXT", "variable")
    assert in_force(bare) == ("/variable", "variable", "$SEAWALL_CONTEXT")
    monkeypatch.setenv("SEAWALL_BROKER", "/environment")
    assert in_force(bare) == ("/environment", None, "$SEAWALL_BROKER")
    assert in_force(bare, "-c", "flag") == ("/flag", "flag", "-c")
    assert in_force(bare, "-c", "flag", "-b", "/b") == ("/b", None, "-b")
    shown = bare("context", "use", "current")
    assert "$SEAWALL_BROKER is set, and goes before the current context" in shown.err


def test_what_names_a_location_needs_no_contexts(bare: Cli, config: Path, tmp_path: Path) -> None:
    """A broken file stands in nobody's way who does not want it."""
    config.parent.mkdir(parents=True)
    config.write_text("= nonsense")
    assert bare("topic", "create", "orders", "-q", "-b", str(tmp_path / "d")).code == 0
    assert bare("-b", str(tmp_path / "d"), "topic", "list", "-q").out == b"orders\n"
    assert bare("--version").code == 0
    assert bare("topic", "list").code == 1


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("a = 1\n= nonsense\n", "line 2", "is not TOML"),
        ("[contexts.a]\nlocation = 'x'\n\n[contexts.b]\nplace = 'x'\n", "line 4", "'b' has no loc"),
        ("# current\ncurrent = 3\n", "line 2", "current is not a text"),
        ("contexts = []\n", "line 1", "contexts is no table"),
        ("[contexts.a]\nlocation = ''\n", "line 1", "'a' has no location"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    bare: Cli, config: Path, text: str, line: str, complaint: str
) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(text)
    for arguments in (("topic", "list"), ("context", "add", "z", "z"), ("context", "list")):
        ended = bare(*arguments)
        assert (ended.code, ended.err.count("\n")) == (1, 1)
        assert str(config) in ended.err
        assert line in ended.err
        assert complaint in ended.err
    assert config.read_text() == text


def test_bytes_that_are_no_text_and_a_file_that_cannot_be_read(bare: Cli, config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_bytes(b"# one\n# \xff\n")
    assert f"{config}: line 2: not UTF-8" in bare("topic", "list").err
    config.unlink()
    config.mkdir()
    assert f"{config}: Is a directory" in bare("topic", "list").err


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("-c", "pord", "topic", "list"), 2, "-c: no context is called 'pord'; there are prod"),
        (("context", "use", "x"), 2, "no context is called 'x'"),
        (("context", "remove", "x"), 2, "no context is called 'x'"),
        (("context", "show", "x"), 2, "no context is called 'x'"),
        (("context", "use"), 2, "give the name of a context, or --none"),
        (("context", "use", "prod", "--none"), 2, "give the name of a context, or --none"),
        (("context", "add", "prod", "x"), 1, "'prod' already, /prod; --force replaces it"),
        (("context", "add", "a b", "x"), 2, "'a b': a context's name has"),
        (("context", "add", "a", ""), 2, "the location is empty"),
        (("context", "add", "a", "x\ny"), 2, "cannot be printed"),
        (("context", "add", "a", "http://x"), 2, "a location is a directory, or kafka://"),
        (("context", "add", "a", "kafka:/x"), 2, "a location is a directory, or kafka://"),
        (("context", "add", "a", "kafka://x:99999"), 2, "99999 is no port"),
        (("context", "add", "a", "kafka://x?acks=1"), 2, "acks is not for the location"),
    ],
)
def test_wrong_usage(bare: Cli, arguments: tuple[str, ...], code: int, complaint: str) -> None:
    bare("context", "add", "prod", "/prod", "-q")
    ended = bare(*arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, b"", 1)
    assert complaint in ended.err


def test_without_any_context_the_message_says_how_to_make_one(
    bare: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_CONTEXT", "prod")
    assert bare("topic", "list").err == (
        "seawall: $SEAWALL_CONTEXT: no context is called 'prod'; "
        "there is none; make one: seawall context add\n"
    )


def test_a_context_that_went_away_while_current(bare: Cli, config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text('current = "gone"\n[contexts.here]\nlocation = "/here"\n')
    assert "current context: no context is called 'gone'; there are here" in (
        bare("topic", "list").err
    )
    assert bare("context", "use", "--none").code == 0
    assert in_force(bare) == ("data", None, "default")


def test_the_file_is_private_and_what_was_written_by_hand_stays(bare: Cli, config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text('# ours\n[contexts.a]  # the first\nlocation = "/a"\ncolour = "red"\n')
    config.chmod(0o644)
    bare("context", "add", "b", 'quote"\\', "-q")
    bare("context", "add", "a", "/new", "--force", "-q")
    text = config.read_text()
    assert text.startswith("# ours\n")
    assert '[contexts.a]  # the first\nlocation = "/new"\ncolour = "red"\n' in text
    assert in_force(bare, "-c", "b")[0].endswith('quote"\\')
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert [path.name for path in config.parent.iterdir()] == ["contexts.toml"]


def test_a_link_stays_one(bare: Cli, config: Path, tmp_path: Path) -> None:
    config.parent.mkdir(parents=True)
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "contexts.toml"
    config.symlink_to(real)
    bare("context", "add", "a", "/a", "-q")
    assert config.is_symlink()
    assert "/a" in real.read_text()


def test_a_folder_that_cannot_be_written_to(bare: Cli, config: Path) -> None:
    config.parent.parent.write_text("in the way")
    ended = bare("context", "add", "a", "/a")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert str(config.parent) in ended.err


def test_two_changes_at_once_are_both_there(config: Path) -> None:
    env = environment({"XDG_CONFIG_HOME": str(config.parent.parent)})
    adding = [
        subprocess.Popen([SEAWALL, "context", "add", f"c{n}", f"/{n}", "-q"], env=env)
        for n in range(4)
    ]
    assert [process.wait(TIMEOUT_S) for process in adding] == [0] * 4
    listed = seawall("context", "list", "--json", env=env).lines
    assert [json.loads(line)["name"] for line in listed] == ["c0", "c1", "c2", "c3"]


def test_passwords_are_not_shown(bare: Cli) -> None:
    location = "kafka://h:1?sasl.username=me&sasl.password=pw&client.id=x"
    bare("context", "add", "p", location, "--use", "-q")
    hidden = "kafka://h:1?sasl.username=me&sasl.password=***&client.id=x"
    assert in_force(bare)[0] == hidden
    assert hidden.encode() in bare("context", "list").out
    for verb in ("list", "show"):
        assert location.encode() in bare("context", verb, "--show-secrets").out
    assert without_secrets("kafka://me:pw@h:1") == "kafka://me:***@h:1"
    for name in ("ssl.key.pem", "ssl.key.password", "sasl%2Epassword", "sasl.oauthbearer.config"):
        assert without_secrets(f"kafka://h:1?{name}=pw&a=b") == f"kafka://h:1?{name}=***&a=b"
    for shown in ("kafka://h:1", "kafka://h:1?ssl.ca.location=/ca.pem", "/data?password", "data"):
        assert without_secrets(shown) == shown


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # to be ignored, says the specification
    assert contexts_path() == Path("/home/me/.config/seawall/contexts.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert contexts_path() == Path("/home/me/.config/seawall/contexts.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/x")
    assert contexts_path() == Path("/etc/x/seawall/contexts.toml")


def test_names_are_completed(config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text('[contexts.prod]\nlocation = "/p"\n[contexts.dev]\nlocation = "/d"\n')

    def complete(words: str) -> list[str]:
        env = {
            "XDG_CONFIG_HOME": str(config.parent.parent),
            "_SEAWALL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        return seawall(env=env).out.decode().split()

    assert complete("seawall -c ") == ["dev", "prod"]
    assert complete("seawall context use p") == ["prod"]
    config.write_text("= broken")
    assert complete("seawall -c ") == []


def test_reading_one_loads_no_writer(config: Path) -> None:
    config.parent.mkdir(parents=True)
    config.write_text('current = "a"\n[contexts.a]\nlocation = "/a"\n')
    program = (
        "import sys\nfrom seawall.cli.main import main\nmain(['context', 'show'])\n"
        "assert not {'tomlkit', 'seawall.broker'} & set(sys.modules)\n"
    )
    env = environment({"XDG_CONFIG_HOME": str(config.parent.parent)})
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"/a" in done.stdout


def test_a_file_that_somebody_else_keeps_is_given_up(
    bare: Cli, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "LOCK_TIMEOUT_S", 0.05)
    config.parent.mkdir(parents=True)
    folder = os.open(config.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        ended = bare("context", "add", "a", "/a")
    finally:
        os.close(folder)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "somebody else has been changing it" in ended.err
    assert bare("context", "add", "a", "/a").code == 0
