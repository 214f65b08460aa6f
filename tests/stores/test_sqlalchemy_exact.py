"""What is stored comes back exactly, with each server's own collation and settings."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salmon_state import SQLAlchemyStorage, StorageError
from salmon_state.storage import ascii_key
from salmon_state.stores.sqlalchemy import schema
from salmon_state.stores.sqlalchemy.schema import (
    decode_key,
    decode_state,
    encode_key,
    encode_state,
)
from tests.stores.sqlalchemy_places import Place

TEXT = st.text(st.characters(codec=None, categories=None)) | st.text(string.printable + "\0\\é ")
SIZE = 5_000_000


@given(TEXT.filter(bool))
@settings(max_examples=500)
def test_states_come_back(state: str) -> None:
    stored = encode_state(state)
    assert stored.isascii()
    assert stored.strip() == stored
    assert "\0" not in stored
    assert decode_state(stored) == state


@given(TEXT, TEXT | st.none())
@settings(max_examples=300)
def test_keys_come_back(module: str, sender: str | None) -> None:
    stored = encode_key(module, sender)
    assert stored == ascii_key(module, sender)
    assert decode_key(stored) == (module, sender)


@given(TEXT.filter(bool), TEXT.filter(bool))
@settings(max_examples=300)
def test_no_two_states_are_stored_alike(one: str, two: str) -> None:
    assert (encode_state(one) == encode_state(two)) == (one == two)


@pytest.mark.parametrize(
    "damaged", ["", "é", "\\", "\\x4", "\\u12", "\\q", "\\x41", "A B", "\\N{BULLET}", " A"]
)
def test_damaged_states_are_errors(damaged: str) -> None:
    with pytest.raises(StorageError, match="damaged state"):
        decode_state(damaged)


@pytest.mark.parametrize(
    "damaged", ["", "x", "zlib:", "zlib:!!!!", "zlib:AAAA", "['a']", "['a', 1]", "[1, 'a']"]
)
def test_damaged_keys_are_errors(damaged: str) -> None:
    with pytest.raises(StorageError, match="damaged key"):
        decode_key(damaged)


def test_damage_is_an_error_and_not_a_missing_entry(place: Place, store: SQLAlchemyStorage) -> None:
    store.set("app", "a@x", "POSTING")
    place.run("UPDATE salmon_state SET state = ''")
    for read in (lambda: store.get("app", "a@x"), lambda: list(store)):
        with pytest.raises(StorageError, match="damaged state"):
            read()
    place.run("UPDATE salmon_state SET state = 'POSTING'")
    assert store.get("app", "a@x") == "POSTING"
    column = "`key`" if place.kind == "mariadb" else "key"
    place.run(f"UPDATE salmon_state SET {column} = 'nonsense'")
    with pytest.raises(StorageError, match="damaged key"):
        list(store)


def test_an_operator_can_read_the_table(place: Place, store: SQLAlchemyStorage) -> None:
    store.set("app.handlers", "Anna@Example.com", "POSTING")
    store.set("app.handlers", "é\0'\n@x", "ÉTAT DEUX")
    store.set("app.handlers", None, "POSTING")
    column = "`key`" if place.kind == "mariadb" else "key"
    assert sorted(place.rows(f"SELECT {column}, state FROM salmon_state")) == sorted(
        [
            (r"['app.handlers', 'Anna@Example.com']", "POSTING"),
            (r"""['app.handlers', "\xe9\x00'\n@x"]""", r"\xc9TAT\x20DEUX"),
            (r"['app.handlers', None]", "POSTING"),
        ]
    )


def _random(alphabet: str, size: int) -> str:
    return "".join(random.Random(7).choices(alphabet, k=size))


LONG: dict[str, Callable[[], str]] = {
    "NUL": lambda: "\0" * SIZE,
    "emoji": lambda: "\U0001fae8" * SIZE,
    "quotes": lambda: "'" * (SIZE // 2) + '"' * (SIZE // 2),
    "backslashes": lambda: "\\" * SIZE,
    "letters": lambda: _random(string.ascii_letters + string.digits, SIZE),
    "surrogates": lambda: _random("".join(map(chr, range(0xDC80, 0xDD00))), SIZE),
    "many emoji": lambda: _random("".join(map(chr, range(0x1F300, 0x1F700))), SIZE // 4),
}


SLOW = ("quotes", "backslashes", "surrogates", "many emoji")
"""Seconds each; `make stress` has them."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.stress] * (name in SLOW)) for name in LONG],
)
def test_senders_of_five_megabytes(place: Place, store: SQLAlchemyStorage, name: str) -> None:
    sender = LONG[name]()
    other = sender[:-1] + "x"
    store.set("app", sender, "ONE")
    assert store.get("app", sender) == "ONE"
    assert store.get("app", other) == "START"
    assert [record.sender == sender for record in store.records(sender=sender)] == [True]
    assert place.rows("SELECT count(*) FROM salmon_state") == [(1,)]
    assert store.compare_and_set("app", sender, "ONE", "TWO")
    store.set("app", sender, "START")
    assert len(store) == 0


def test_long_states(store: SQLAlchemyStorage) -> None:
    states = ["S" * 1_000_000, "é" * 100_000, "\0" * 100_000, " ", "'; DROP TABLE x; --", "%s", "?"]
    for number, state in enumerate(states):
        store.set("app", f"{number}@x", state)
    assert [store.get("app", f"{number}@x") for number in range(len(states))] == states
    for state in states:
        assert [record.state for record in store.records(state=state)] == [state]


@given(module=TEXT, sender=TEXT | st.none(), state=TEXT.filter(bool))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_anything_comes_back(
    store: SQLAlchemyStorage, module: str, sender: str | None, state: str
) -> None:
    store.set(module, sender, state)
    assert store.get(module, sender) == state
    if sender is not None and state != "START":
        found = {record.module: record.state for record in store.records(sender=sender)}
        assert found[module] == state


def test_the_readable_key_ends_where_databases_have_limits() -> None:
    assert schema.encode_key("app", "x" * 9_000).startswith("['app'")
    assert schema.encode_key("app", "x" * 11_000).startswith("zlib:")
