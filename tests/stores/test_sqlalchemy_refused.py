"""What cannot work says so at once, in one line, and gives no password away."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from salmon_state import (
    ConfigurationError,
    SQLAlchemyStorage,
    StorageError,
    StorageUnavailable,
)
from tests.services import PASSWORD, free_port
from tests.stores.sqlalchemy_places import RIGHTS, Place

SECRET = "hunter2-&%?"


@contextmanager
def refusal(
    caplog: pytest.LogCaptureFixture, kind: type[StorageError], *secrets: str
) -> Iterator[list[str]]:
    """Gives the message of the error; neither it nor the log nor the traceback has a secret."""
    message: list[str] = []
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind) as caught:
        yield message
    error = caught.value
    message.append(error.detail)
    texts = [str(error), repr(error), error.detail, caplog.text, *getattr(error, "__notes__", [])]
    texts += [str(arguments) for _, arguments in _chain(error)]
    texts += traceback.format_exception(error)
    for secret in secrets:
        assert not any(secret in text for text in texts), "a secret got out"
    assert "\n" not in error.detail


def _chain(error: BaseException | None) -> Iterator[tuple[BaseException, tuple[Any, ...]]]:
    while error is not None:
        yield error, error.args
        error = error.__cause__


def with_query(url: str, **query: str) -> str:
    """Returns the URL with user and password in its query instead."""
    parsed = sa.make_url(url).set(username=None, password=None).update_query_dict(query)
    return parsed.render_as_string(hide_password=False)


def test_wrong_password(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = sa.make_url(served.url).set(password=SECRET)
    with refusal(caplog, ConfigurationError, SECRET) as message:
        SQLAlchemyStorage(url)
    assert "salmon" in message[0]
    with refusal(caplog, ConfigurationError, SECRET):
        SQLAlchemyStorage(url.render_as_string(hide_password=False))


def test_wrong_password_in_the_query(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = with_query(served.url, user="salmon", password=SECRET)
    with refusal(caplog, ConfigurationError, SECRET):
        SQLAlchemyStorage(url)


def test_right_password_in_the_query(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = with_query(served.url, user="salmon", password=PASSWORD)
    with SQLAlchemyStorage(url, timeout=1) as store:
        assert PASSWORD not in repr(store)
        served.server.kill()
        with refusal(caplog, StorageUnavailable, PASSWORD):
            store.get("app", "a@x")
        served.server.start()


def test_missing_database(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = sa.make_url(served.url).set(database="nowhere")
    with refusal(caplog, ConfigurationError, PASSWORD) as message:
        SQLAlchemyStorage(url)
    assert "nowhere" in message[0]


def test_unknown_user(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = sa.make_url(served.url).set(username="nobody", password=SECRET)
    with refusal(caplog, ConfigurationError, SECRET) as message:
        SQLAlchemyStorage(url)
    assert "nobody" in message[0]


def test_unknown_host(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = sa.make_url(served.url).set(host="no-such-host.invalid")
    with refusal(caplog, StorageUnavailable, PASSWORD) as message:  # the name server may be down
        SQLAlchemyStorage(url)
    assert "no-such-host.invalid" in message[0]


def test_refusing_port(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    url = sa.make_url(served.url).set(port=free_port())
    with refusal(caplog, StorageUnavailable, PASSWORD) as message:
        SQLAlchemyStorage(url, timeout=3600)  # so that waiting for it would be a hang
    assert "refused" in message[0]


def test_read_only_user(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    with SQLAlchemyStorage(served.url) as store:
        store.set("app", "a@x", "POSTING")
    place = "ALL TABLES IN SCHEMA public" if served.kind == "postgresql" else f"{served.database}.*"
    url = served.user(f"SELECT ON {place}")
    for create in (True, False):
        with refusal(caplog, ConfigurationError, PASSWORD) as message:
            SQLAlchemyStorage(url, create=create)
        assert "SELECT, INSERT, UPDATE and DELETE" in message[0]


def test_user_who_may_not_even_read(postgresql: Any, caplog: pytest.LogCaptureFixture) -> None:
    place = Place("postgresql", postgresql.fresh_database(), postgresql)
    SQLAlchemyStorage(place.url).close()
    with refusal(caplog, ConfigurationError, PASSWORD) as message:
        SQLAlchemyStorage(place.user())
    assert "SELECT, INSERT, UPDATE and DELETE" in message[0]


def test_a_right_that_is_taken_away_later(served: Place, caplog: pytest.LogCaptureFixture) -> None:
    SQLAlchemyStorage(served.url).close()
    url = served.user(*RIGHTS)
    user = sa.make_url(url).username
    suffix = "" if served.kind == "postgresql" else "@'%'"
    with SQLAlchemyStorage(url) as store:
        store.set("app", "a@x", "POSTING")
        served.run(f"REVOKE INSERT ON salmon_state FROM {user}{suffix}")
        with refusal(caplog, StorageUnavailable, PASSWORD):  # so that the mail comes again
            store.set("app", "b@x", "POSTING")
        assert store.get("app", "a@x") == "POSTING"
        served.run(f"GRANT INSERT ON salmon_state TO {user}{suffix}")
        store.set("app", "b@x", "POSTING")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{SECRET}@db:port/states",
        f"postgresql+psycopg//me:{SECRET}@db/states",
        f"oracle://me:{SECRET.replace('%', '')}@db/states",
        "postgresql+asyncpg://me:hunter2@db/states",
        "postgresql+nosuchdriver://me:hunter2@db/states",
        "sqlite+aiosqlite:////tmp/states.db?password=hunter2",
        "sqlite+pysqlcipher://:hunter2@//tmp/states.db",
        "",
    ],
)
def test_urls_that_cannot_work(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with refusal(caplog, ConfigurationError, "hunter2"):
        SQLAlchemyStorage(url)


@pytest.mark.parametrize(
    ("driver", "known"),
    [
        ("postgresql+psycopg2", "use postgresql+psycopg,"),
        ("mysql+mysqlconnector", "use mysql+pymysql or mysql+mysqldb,"),
    ],
)
def test_drivers_that_may_wait_for_ever(
    driver: str, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is found out before they connect; here they are not even installed."""
    url = f"{driver}://me:hunter2@db/states"
    with refusal(caplog, ConfigurationError, "hunter2") as message:
        SQLAlchemyStorage(url)
    assert known in message[0]


def test_options_that_the_driver_does_not_know(
    served: Place, caplog: pytest.LogCaptureFixture
) -> None:
    url = sa.make_url(served.url).update_query_dict({"no_such_option": "1"})
    with refusal(caplog, ConfigurationError, PASSWORD) as message:
        SQLAlchemyStorage(url)
    assert "no_such_option" in message[0]


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": -1}, {"timeout": "5"}, {"pool_size": 0}, {"pool_size": True},
     {"pool_size": 2.5}, {"timeout": float("nan")}, {"timeout": float("inf")}, {"table": ""},
     {"table": "t" * 300}],
)  # fmt: skip
def test_options_that_cannot_work(served: Place, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SQLAlchemyStorage(served.url, **options)


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("postgresql://me:hunter2@db/states", "psycopg", "psycopg[binary]"),
        ("mysql://me:hunter2@db/states", "pymysql", "PyMySQL"),
        ("mariadb+pymysql://me:hunter2@db/states", "pymysql", "PyMySQL"),
    ],
)
def test_missing_driver_names_the_package(
    url: str, module: str, package: str, tmp_path: Path
) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from salmon_state import ConfigurationError, SQLAlchemyStorage\n"
        f"try: SQLAlchemyStorage({url!r})\n"
        "except ConfigurationError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"pip install '{package}'" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_an_engines_password_is_masked_as_well(
    served: Place, caplog: pytest.LogCaptureFixture
) -> None:
    engine = sa.create_engine(served.url)
    store = SQLAlchemyStorage(engine)
    assert PASSWORD not in repr(store)
    assert PASSWORD not in store._describe(RuntimeError(f"login with {PASSWORD} failed"))
    engine.dispose()
