"""The commands by name, each loaded when it is wanted."""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from seawall.cli.options import ContextOption, TopBrokerOption
from seawall.cli.params import lighten

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter


class Entry(NamedTuple):
    """A command before it is loaded: the module with its `app`, and its line in the help."""

    module: str
    summary: str


# In the order of the help. The summaries repeat the commands' own first lines (a test holds
# them together), so that the help needs none of the modules.
COMMANDS = {
    "produce": Entry("seawall.cli.produce", "Send each line of the input as a record."),
    "consume": Entry("seawall.cli.consume", "Print records, then wait for more."),
    "serve": Entry(
        "seawall.cli.serve", "Let Kafka clients in: answer the Kafka protocol for the directory."
    ),
    "topic": Entry("seawall.cli.topic", "List, create, describe, alter and delete topics."),
    "group": Entry("seawall.cli.group", "List, describe, reset and delete consumer groups."),
    "dlq": Entry("seawall.cli.dlq", "List, show, redrive and purge dead letters."),
    "mirror": Entry("seawall.cli.mirror", "Copy topics and groups from one broker to another."),
    "compact": Entry("seawall.cli.compact", "Remove what may go, and show what keeps the rest."),
    "config": Entry("seawall.cli.config", "Show or change the settings of the broker itself."),
    "context": Entry("seawall.cli.context", "Give locations names, and choose one of them."),
    "info": Entry("seawall.cli.info", "Show what this broker is, and the versions in use."),
    "verify": Entry("seawall.cli.verify", "Read everything, and name what is damaged."),
    "repair": Entry(
        "seawall.cli.repair", "Make holes of what `verify` finds, so that readers pass over it."
    ),
    "bench": Entry("seawall.cli.bench", "Measure how fast a location takes and gives records."),
    "torture": Entry(
        "seawall.cli.torture",
        "Break a scratch directory in every way, and see that nothing is lost.",
    ),
}

EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. "
    "SEAWALL_DEBUG=1 shows the traceback of an unexpected error."
)


class LazyGroup(TyperGroup):
    """Imports the module of a command when the command is looked up."""

    def list_commands(self, ctx: "Context") -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":
        if cmd_name not in self.commands:
            if cmd_name not in COMMANDS:
                for known in COMMANDS:  # for "did you mean"
                    self.get_command(ctx, known)
                return None
            command = get_command(import_module(COMMANDS[cmd_name].module).app)
            command.name = cmd_name
            lighten(command, ctx)
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"seawall {version('seawall')}")
        raise typer.Exit


app = typer.Typer(
    name="seawall",
    cls=LazyGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


@app.callback()
def _seawall(
    broker: TopBrokerOption = None,
    context: ContextOption = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """A durable message log: a directory is the broker.

    What goes wrong is said in one line on stderr; records and tables go to stdout.
    """


def build() -> "Command":
    """The whole command line as one command."""
    command = get_command(app)
    lighten(command)
    return command
