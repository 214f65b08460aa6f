"""salmon-state: the command, its options for all, and what it exits with."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from itertools import chain

import click

from salmon_state.errors import StorageError, StorageUnavailable
from salmon_state.operate import (
    bench,
    confirmations,
    copying,
    doctor,
    look,
    mend,
    migrating,
    outbox,
    undeliverable,
)
from salmon_state.operate.given import Given

__all__ = ["cli", "main"]

FOUND, UNAVAILABLE = 1, 3


_SECTIONS = {
    "Look": look.COMMANDS,
    "Mend": mend.COMMANDS,
    "Mail": (*outbox.COMMANDS, *undeliverable.COMMANDS, *confirmations.COMMANDS),
    "The store": (*doctor.COMMANDS, *copying.COMMANDS, *migrating.COMMANDS, *bench.COMMANDS),
}
"""The commands as they are listed: by what somebody wants."""


class _InSections(click.Group):
    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands under the headlines of `_SECTIONS`."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        for headline, commands in _SECTIONS.items():
            with formatter.section(headline):
                formatter.write_dl(
                    [(each.name or "", each.get_short_help_str(limit)) for each in commands]
                )


@click.group(
    cls=_InSections,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="salmon-state")
@click.option(
    "--store",
    "url",
    envvar="SALMON_STATE_URL",
    metavar="URL",
    help="Where the states are, such as sqlite:///run/states.db. In it ${NAME} stands for a "
    "variable of the environment, so that the list of processes shows no password.",
)
@click.option("--json", "to_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def cli(context: click.Context, url: str | None, to_json: bool) -> None:
    """Look into a store of conversations and mend it, while the mail server runs.

    The store is that of --store URL, or of SALMON_STATE_URL, or of state_url in the
    config/settings.py of this directory.

    Exit status: 0 all is well; 1 something is wrong or cannot be done; 2 wrong usage; 3 not now,
    because the store cannot be reached or a mail of the sender is in hand: try again.
    """
    context.obj = Given(url, to_json=to_json)
    context.call_on_close(context.obj.close)


for command in chain.from_iterable(_SECTIONS.values()):
    cli.add_command(command)


def main() -> None:
    """Runs the command line and exits."""
    if isinstance(sys.stdout, TextIOWrapper):  # a sender may have letters that a terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(cli.main(prog_name="salmon-state", standalone_mode=False) or 0)
    except click.Abort:  # Ctrl-C, or the answer was no
        click.echo("stopped", err=True)
        sys.exit(FOUND)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StorageUnavailable as error:
        click.echo(f"not now: {error.detail}", err=True)
        sys.exit(UNAVAILABLE)
    except (StorageError, NotImplementedError) as error:
        click.echo(f"{error}", err=True)
        sys.exit(FOUND)
    except OSError as error:  # somebody else's files, or a full disk
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(FOUND)
