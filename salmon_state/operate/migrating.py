"""migrate: the tables of a store, made or brought to the version that this code knows."""

from __future__ import annotations

import click

from salmon_state.errors import ConfigurationError, MigrationPending
from salmon_state.operate.given import Given, open_existing
from salmon_state.registry import open_storage

__all__ = ["COMMANDS"]


@click.command(short_help="Bring the tables to this version.")
@click.option("--dry-run", is_flag=True, help="Run nothing; print what would be run.")
@click.pass_obj
def migrate(given: Given, dry_run: bool) -> None:
    """Create the tables of the store, or bring an earlier version's to this one.

    It prints the statements, and runs them as the user in the URL, who need not be the server's:
    that one needs SELECT, INSERT, UPDATE and DELETE on the tables, and SELECT on the version.
    Servers of the earlier version may go on meanwhile.
    """
    statements: list[str] = []
    try:
        open_existing(given.which).close()
    except MigrationPending as error:
        statements = [*error.statements]
    except ConfigurationError:
        if dry_run:
            raise
    if not dry_run:
        open_storage(given.which).close()
    if given.to_json:
        given.say("", statements=statements, done=not dry_run)
    elif statements:
        click.echo("".join(f"{each};\n" for each in statements), nl=False)
    else:
        click.echo("the store is as it should be")


COMMANDS = (migrate,)
