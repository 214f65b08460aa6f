"""What is stored comes back exactly, with each server's own collation and settings."""

from __future__ import annotations

import base64
import random
import string
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salmon_state import SQLAlchemyStorage, StorageError
from salmon_state.keys import ascii_key
from salmon_state.stores.encoding import decode_key, decode_state, encode_key, encode_state
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
    "damaged",
    [
        *("", "x", "zlib:", "zlib:!!!!", "zlib:AAAA", "['a']", "['a', 1]", "[1, 'a']"),
        *("zlib+json:", "zlib+json:!!!!", "zlib+json:AAAA"),
        *(
            "zlib+json:" + base64.b64encode(zlib.compress(text.encode())).decode()
            for text in (
                *("", "7", '"ab"', "{}", '["a"]', '["a", 1]', '[1, "a"]', '["a", "b", "c"]'),
                *('["a","b"]', r'["\u0041", "b"]', "[" * 100_000),
            )
        ),
        "zlib:" + base64.b64encode(zlib.compress(b"['a', 1]")).decode(),
    ],
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
    some = random.Random(7).choices(alphabet, k=256)
    return random.Random(7).randbytes(size).decode("latin-1").translate(dict(enumerate(some)))


LONG: dict[str, Callable[[], str]] = {
    "NUL": lambda: "\0" * SIZE,
    "emoji": lambda: "\U0001fae8" * (SIZE // 4),
    "quotes": lambda: "'" * (SIZE // 2) + '"' * (SIZE // 2),
    "backslashes": lambda: "\\" * SIZE,
    "letters": lambda: _random(string.ascii_letters + string.digits, SIZE),
    "surrogates": lambda: _random("".join(map(chr, range(0xDC80, 0xDD00))), SIZE),
    "many emoji": lambda: _random("".join(map(chr, range(0x1F300, 0x1F700))), SIZE // 4),
}


SLOW = ("quotes", "backslashes", "surrogates", "many emoji")
"""Seconds each; `make stress` has them."""


@pytest.mark.slow
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
    assert encode_key("app", "x" * 9_000).startswith("['app'")
    assert encode_key("app", "x" * 11_000).startswith("zlib+json:")


@given(TEXT, TEXT)
@settings(max_examples=100)
def test_long_keys_come_back(module: str, sender: str) -> None:
    long = sender + "x" * 10_000
    for pair in [(module, long), (long, module), (long, None)]:
        stored = encode_key(*pair)
        assert stored.startswith("zlib+json:")
        assert stored.isascii()
        assert decode_key(stored) == pair


def test_long_keys_of_earlier_versions_are_read() -> None:
    sender = "é\0'\udcff" * 10_000
    packed = zlib.compress(ascii_key("app", sender).encode())
    assert decode_key("zlib:" + base64.b64encode(packed).decode()) == ("app", sender)


def _random_unicode(size: int) -> str:
    """Returns what takes so many bytes of UTF-8, and cannot be compressed."""
    points = random.Random(7).choices(range(0x10000, 0x110000), k=size // 4)
    return "".join(map(chr, points))


INCOMPRESSIBLE: dict[str, Callable[[], str]] = {
    "latin": lambda: random.Random(7).randbytes(SIZE).decode("latin-1"),
    "bytes": lambda: random.Random(7).randbytes(SIZE).decode("ascii", "surrogateescape"),
    "utf-8 and bytes": lambda: random.Random(7).randbytes(SIZE).decode("utf-8", "surrogateescape"),
    "utf-8": lambda: _random_unicode(SIZE),
}
"""What 5 MB of a mail may become, whichever way they are decoded."""


@pytest.mark.slow
@pytest.mark.parametrize("name", INCOMPRESSIBLE)
def test_what_cannot_be_compressed_fits_into_a_statement(name: str) -> None:
    sender = INCOMPRESSIBLE[name]()
    stored = encode_key("app", sender)
    assert len(stored) < 10 * 2**20
    assert decode_key(stored) == ("app", sender)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.stress] * (name != "bytes")) for name in INCOMPRESSIBLE],
)
def test_what_cannot_be_compressed_is_stored(served: Place, name: str) -> None:
    sender = INCOMPRESSIBLE[name]()
    with SQLAlchemyStorage(served.url, timeout=60) as store:
        store.set("app", sender, "ONE")
        with store.conversation(sender):
            assert store.get("app", sender) == "ONE"
            store.set("app", sender, "TWO")
        [record] = store.records(sender=sender)
    assert (record.sender == sender, record.state) == (True, "TWO")
