"""What is copied and is no store of ours: Salmon's own shelf, and librelist's table.

Both are read as they are and left so; what they hold is first put into a store in a temporary
file, so that it can be gone through and compared like every other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import STATE, Write, in_order, to_microseconds
from salmon_state.errors import ConfigurationError, StorageUnavailable
from salmon_state.masking import Mask
from salmon_state.operate.given import is_salmons_shelf, open_existing
from salmon_state.registry import open_storage, resolve_url
from salmon_state.storage import StateStorage

__all__ = ["opened_source"]

_SHELF, _LIBRELIST = "salmon+shelve:///", "librelist+"
_TABLE = "librelist_userstate"
_COLUMNS = ("state_key", "from_address", "state")
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
"""Those of our extras, where the URL names none."""
_AT_ONCE = 1_000


@contextmanager
def opened_source(url: str) -> Iterator[StateStorage]:
    """Gives the store of a URL, or one with what somebody else's holds.

    ``shelve:///run/states`` may be a shelf of Salmon's own store, of any flavour of dbm (and
    ``salmon+shelve:///run/states`` says that it is one), and
    ``librelist+postgresql+psycopg://…`` the table of librelist's, in any database of SQLAlchemy's;
    ``?table=`` names it if it is not ``librelist_userstate``.

    Raises:
        ConfigurationError: The URL cannot work.
        StorageError: It cannot be read.
    """
    if url.startswith(_SHELF) or is_salmons_shelf(url):
        with tempfile.TemporaryDirectory(prefix="salmon-state-") as directory:
            path = _copied(Path(resolve_url(url).partition(":///")[2]), Path(directory))
            with open_storage(f"shelve:///{path}") as store:
                yield store
    elif url.startswith(_LIBRELIST):
        with (
            tempfile.TemporaryDirectory(prefix="salmon-state-") as directory,
            open_storage(f"sqlite:///{directory}/librelist.db") as store,
        ):
            _read_librelist(resolve_url(url.removeprefix(_LIBRELIST)), store)
            yield store
    else:
        with open_existing(url) as store:
            yield store


def _copied(path: Path, directory: Path) -> Path:
    """Copies the files of a shelf; the flavours of dbm append to its name."""
    found = [file for file in path.parent.glob(f"{path.name}*") if file.is_file()]
    endings = ("", ".dat", ".dir", ".bak", ".pag", ".db", "-wal")
    files = [file for file in found if file.name.removeprefix(path.name) in endings]
    if not files:
        raise ConfigurationError(f"there is no shelf {str(path)!r}")
    for file in files:
        shutil.copy2(file, directory)
    return directory / path.name


def _read_librelist(url: str, store: StateStorage) -> None:
    """Puts librelist's states into a store, each with the time at which its row was made.

    Its rows have keys and addresses in lower case, whatever the mail said, and so have the
    entries: a sender with a capital in the address, or a module with one in its name, begins anew.
    A time without a zone is UTC. Of several rows for one key the newest counts.
    """
    import sqlalchemy as sa  # a third of a second, which no other command has to wait

    secrets: tuple[str, ...] = ()
    try:
        location = sa.make_url(url)
        secrets = (location.password or "",)
        if location.drivername in _DRIVERS:
            location = location.set(drivername=_DRIVERS[location.drivername])
        table = str(location.query.get("table", _TABLE))
        engine = sa.create_engine(location.difference_update_query(["table"]))
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        text = Mask(secrets)(f"{type(error).__name__}: {error}") if secrets else "no URL"
        raise ConfigurationError(
            f"after {_LIBRELIST!r} comes a URL of SQLAlchemy's, whose driver is installed: {text}"
        ) from None
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").is_file():
        raise ConfigurationError(f"there is no database {location.database!r}")
    made = sa.column("created_on", sa.DateTime(timezone=True))
    columns: list[Any] = [*(sa.column(name, sa.Text) for name in _COLUMNS), made]
    query = sa.select(*columns).select_from(sa.table(table)).order_by(made)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(table):
                raise ConfigurationError(
                    f"there is no table {table!r} in {location.database!r}: librelist's is named "
                    "in ?table="
                )
            rows = connection.execution_options(yield_per=_AT_ONCE).execute(query)
            while some := list(islice(rows, _AT_ONCE)):
                writes = {row[:2]: _write(*row) for row in some}
                store._call(store._commit, in_order(writes.values()))
    except sa.exc.SQLAlchemyError as error:
        text = Mask(secrets)(str(getattr(error, "orig", None) or error))
        raise StorageUnavailable(f"librelist's table {table!r}: {text}") from None
    finally:
        engine.dispose()


def _write(module: str, sender: str, state: str, made: datetime | None) -> Write:
    zoned = made.replace(tzinfo=timezone.utc) if made is not None and not made.tzinfo else made
    stored = None if state == ROUTE_FIRST_STATE or not state else state
    return Write(STATE, sender, module, stored, to_microseconds(zoned))
