"""A misspelt scheme or option is an error that says what was meant, or what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from salmon_state import ConfigurationError, open_storage
from tests.services import free_port


def refused(url: str, **options: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        open_storage(url.format(port=free_port()), **options)
    return str(caught.value)


SERVERS = {
    "postgresql": "postgresql://127.0.0.1:{port}/states",
    "mysql": "mysql://127.0.0.1:{port}/states",
    "mariadb": "mariadb+pymysql://127.0.0.1:{port}/states",
    "redis": "redis://127.0.0.1:{port}/0",
}


@pytest.mark.parametrize(
    ("scheme", "meant"),
    [
        ("postgres", "postgresql"),
        ("postgres+psycopg", "postgresql+psycopg"),
        ("postgresq", "postgresql"),
        ("sqllite", "sqlite"),
        ("sqlite3", "sqlite"),
        ("maria", "mariadb"),
        ("mysqldb", "mysql"),
        ("redis+sentinal", "redis+sentinel"),
        ("shelf", "shelve"),
        ("memmory", "memory"),
    ],
)
def test_a_misspelt_scheme(scheme: str, meant: str) -> None:
    assert f"did you mean {meant}://?" in refused(f"{scheme}://host/states")


def test_a_scheme_like_no_other() -> None:
    assert "did you mean" not in refused("mongodb://host/states")


@pytest.mark.parametrize("name", SERVERS)
def test_a_misspelt_option_of_a_server(name: str, tmp_path: Path) -> None:
    text = refused(f"{SERVERS[name]}?timeot=3")
    assert f"a {name}:// URL has no option 'timeot': did you mean 'timeout'?" in text
    assert "open_storage(url, timeout=...)" in text


def test_a_misspelt_option_of_a_file(tmp_path: Path) -> None:
    assert "'timeot': did you mean 'timeout'?" in refused(f"sqlite:///{tmp_path}/s.db?timeot=3")
    assert "'timeot': did you mean 'timeout'?" in refused(f"shelve:///{tmp_path}/s?timeot=3")
    assert "an argument: open_storage(url, timeout=...)" in refused(
        f"shelve:///{tmp_path}/s?timeout=3"
    )
    assert "'protct': did you mean 'protect'?" in refused("memory://?protct=yes")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["memory://", "shelve:///x", "sqlite:///x", *SERVERS.values()])
def test_a_misspelt_argument(url: str) -> None:
    assert "'protct': did you mean 'protect'?" in refused(url, protct=True)


@pytest.mark.parametrize(
    ("url", "option", "value", "expected"),
    [
        ("sqlite:////nowhere/s.db", "timeout", "abc", "a number"),
        ("sqlite:////nowhere/s.db", "cached_statements", "1.5", "a whole number"),
        ("sqlite:////nowhere/s.db", "check_same_thread", "maybe", "true or false"),
        (SERVERS["postgresql"], "connect_timeout", "abc", "a whole number"),
        (SERVERS["postgresql"], "keepalives_idle", "abc", "a whole number"),
        (SERVERS["mysql"], "read_timeout", "abc", "a whole number"),
        (SERVERS["mariadb"], "compress", "maybe", "true or false"),
        (SERVERS["redis"], "socket_timeout", "abc", "a number"),
        (SERVERS["redis"], "db", "abc", "a whole number"),
    ],
)
def test_a_value_that_cannot_be(url: str, option: str, value: str, expected: str) -> None:
    text = refused(f"{url}?{option}={value}")
    assert text.startswith(f"{option} in a ")
    assert text.endswith(f":// URL: expected {expected}, got {value!r}")


def test_an_argument_that_cannot_be(tmp_path: Path) -> None:
    text = refused(f"sqlite:///{tmp_path}/s.db", timeout="abc")
    assert "timeout" in text
    assert "'abc'" in text


def test_what_may_be_the_end_of_a_password_is_not_shown() -> None:
    text = refused(f"{SERVERS['postgresql']}?password=zx&qjz=3")
    assert "qjz" not in text
    assert "percent-encode" in text


def test_the_options_that_there_are(tmp_path: Path) -> None:
    open_storage(f"sqlite:///{tmp_path}/s.db?timeout=3&cached_statements=8").close()
