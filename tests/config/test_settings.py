"""What the environment makes of the settings."""

from __future__ import annotations

import os
import re
import runpy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import config.settings
from config.environment import SettingsError
from salmon_state.mail.receivers import Limits


@pytest.fixture(autouse=True)
def _no_settings_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SALMON_"):
            monkeypatch.delenv(name)


def settings(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, Any]:
    """Reads the settings anew, beside those that the tests use."""
    for name, text in environment.items():
        monkeypatch.setenv(f"SALMON_{name}", text)
    return runpy.run_path(str(Path(config.settings.__file__)))


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch)
    assert found["state_url"] == "sqlite:///run/states.db"
    assert found["state_patience"] == 60
    assert (found["receiver_kind"], found["receiver_host"]) == ("smtp", "127.0.0.1")
    assert found["receiver_port"] == 8823
    assert found["once_within"] == timedelta(days=7)
    assert found["relay_address"] is None
    assert found["list_names"] == ("news",)
    assert re.fullmatch(found["router_defaults"]["host"], "lists.example.com")


def test_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        monkeypatch,
        STATE_URL="memory://",
        STATE_PATIENCE="5",
        ONCE_WITHIN="0",
        RECEIVER="LMTP",
        HOST="::1",
        PORT="24",
        QUEUE="elsewhere",
        SIZE_LIMIT="1000",
        CONNECTIONS_OF_ADDRESS_LIMIT="7",
        SOCKET="run/lmtp",
        SOCKET_MODE="600",
        RELAY="[::1]:2525",
        RELAY_TLS="starttls",
        RELAY_USER="me",
        RELAY_PASSWORD="x",
        LISTS=" news, Book-Club ",
        LIST_DOMAIN="Lists.Example.org",
        LIST_SECRET="s" * 32,
    )
    assert (found["state_url"], found["state_patience"]) == ("memory://", 5)
    assert found["once_within"] is None
    assert (found["receiver_kind"], found["receiver_host"]) == ("lmtp", "::1")
    assert (found["receiver_port"], found["queue_directory"]) == (24, "elsewhere")
    assert (found["relay_address"], found["relay_tls"]) == (("::1", 2525), "starttls")
    assert found["limits"] == Limits(size=1000, connections_of_address=7)
    assert (found["receiver_socket"], found["socket_mode"]) == ("run/lmtp", 0o600)
    assert found["list_names"] == ("news", "book-club")
    assert found["list_domain"] == "lists.example.org"


def test_a_start_that_waits_for_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, STATE_PATIENCE="0")["state_patience"] == 0


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, PORT="", STATE_URL=" ")["receiver_port"] == 8823


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("PORT", "0", "a TCP port between 1 and 65535"),
        ("PORT", "65536", "a TCP port between 1 and 65535"),
        ("PORT", "-1", "a TCP port between 1 and 65535"),
        ("PORT", "٣", "a TCP port between 1 and 65535"),
        ("SIZE_LIMIT", "0", "a whole number, 1 or more"),
        ("SIZE_LIMIT", "10 MB", "a whole number, 1 or more"),
        ("SILENCE_LIMIT", "0", "a whole number, 1 or more"),
        ("PROCESSES", "0", "a whole number, 1 or more"),
        ("SOCKET_MODE", "rw", "permissions such as 660"),
        ("RECEIVER", "imap", "one of smtp, lmtp, queue"),
        ("RELAY_TLS", "ssl", "one of none, starttls, tls"),
        ("RELAY", "mail.example.com", "host:port, such as"),
        ("RELAY", ":25", "host:port, such as"),
        ("RELAY", "::1:25", "host:port, such as"),
        ("RELAY", "x:port", "host:port, such as"),
        ("LISTS", "news,", "names such as"),
        ("LISTS", "a@b", "names such as"),
        ("LISTS", "news-subscribe", "names such as"),
        ("LISTS", "news,news-bounce-x", "names such as"),
        ("LIST_DOMAIN", "x@y", "one domain name"),
        ("LIST_DOMAIN", "a..b", "one domain name"),
        ("LIST_DOMAIN", "a\nb", "one domain name"),
        ("LIST_DOMAIN", "a.example,b.example", "one domain name"),
    ],
)
def test_a_bad_value_is_named_with_what_is_expected(
    name: str, given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError) as failure:
        settings(monkeypatch, **{name: given})
    message = str(failure.value)
    assert message.startswith(f"SALMON_{name}: expected {expected}")
    assert message.endswith(f"got {given!r}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "environment",
    [{"RELAY_USER": "hunter2"}, {"RELAY_PASSWORD": "hunter2"}, {"LIST_SECRET": "hunter2"}],
)
def test_a_secret_is_not_shown(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="SALMON_") as failure:
        settings(monkeypatch, **environment)
    assert "hunter2" not in str(failure.value)


def test_a_list_whose_name_begins_like_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = settings(monkeypatch, LISTS="news,news-dev")["router_defaults"]["list_name"]
    assert re.fullmatch(f"({pattern})(|-subscribe)", "news-dev-subscribe")


def test_a_secret_of_whatever_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    given = os.fsdecode(b"\xff" * 32)
    assert settings(monkeypatch, LIST_SECRET=given)["list_secret_given"] == b"\xff" * 32
