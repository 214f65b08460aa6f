"""Keys of durable stores: different for different pairs, and the same on every Python."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salmon_state import StateStorage, StorageError
from salmon_state.keys import Sender, ascii_key, parse_key
from salmon_state.testing import HOSTILE_KEYS

texts = st.text(st.characters(exclude_categories=()))


@given(module=texts, sender=st.none() | texts)
@example(module="', '", sender="', '")
@example(module="']", sender="['")
@example(module="\\", sender="\\'")
@example(module='"', sender="'")
def test_keys_survive_parsing(module: str, sender: Sender) -> None:
    assert parse_key(ascii_key(module, sender)) == (module, sender)
    assert parse_key(StateStorage().key(module, sender)) == (module, sender)


@pytest.mark.parametrize(("module", "sender"), HOSTILE_KEYS, ids=range(len(HOSTILE_KEYS)))
def test_hostile_keys_survive_parsing(module: str, sender: Sender) -> None:
    assert parse_key(ascii_key(module, sender)) == (module, sender)
    assert parse_key(repr([module, sender])) == (module, sender)


@given(one=st.tuples(texts, st.none() | texts), two=st.tuples(texts, st.none() | texts))
def test_different_pairs_have_different_keys(
    one: tuple[str, Sender], two: tuple[str, Sender]
) -> None:
    assert (ascii_key(*one) == ascii_key(*two)) is (one == two)


@given(module=texts, sender=st.none() | texts)
def test_the_durable_key_is_ascii_in_one_line(module: str, sender: Sender) -> None:
    key = ascii_key(module, sender)
    assert key.isascii()
    assert key.isprintable()
    if module.isascii() and (sender or "").isascii():
        assert key == repr([module, sender])


@pytest.mark.parametrize(
    "key",
    [
        *("", "a", "'a'", "[]", "['a']", "['a', 'b', 'c']", "[1, 'a']", "['a', 1]", "[None, 'a']"),
        *("['a', b'b']", "[b'a', 'b']", "['a', 'b'", "'a', 'b']", "{'a': 'b'}", "{'a', 'b'}"),
        *("['a', open('x')]", "__import__('os')", "['a', 'b'] + []", "['a', 'b']x", "\0", "\udcff"),
        *("[" * 10_000, "('a', 'b')", "['a','b']", " ['a', 'b']", "['a', 'b'] # comment", "ab"),
        *("[f'a', 'b']", "['a' 'x', 'b']", "['\\x61', 'b']", "['a', (\n'b')]"),
    ],
    ids=lambda key: ascii(key)[:30],
)
def test_a_damaged_key_is_an_error(key: str) -> None:
    with pytest.raises(StorageError, match="damaged key") as caught:
        parse_key(key)
    assert len(str(caught.value)) < 1000
