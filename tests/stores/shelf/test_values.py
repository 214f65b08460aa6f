"""Entries that are no states: what is damaged in their table."""

from __future__ import annotations

from pathlib import Path

import pytest

from salmon_state import ShelveStorage, StorageError
from salmon_state.entries import Kind, Write
from tests.stores.shelf.shelves import SENDER, execute

PLACE = (Kind.HANDLED, SENDER, "id")


@pytest.mark.parametrize(
    "change", ["value = 5", "value = 'text'", "key = '?'", "key = 5", "key = CAST(X'FF' AS TEXT)"]
)
def test_a_damaged_row_is_an_error(path: Path, store: ShelveStorage, change: str) -> None:
    store._commit([Write(*PLACE, b"value", 5)])
    execute(path, f"UPDATE Entries SET {change}")
    assert any("damaged" in finding for finding in store.check())
    with pytest.raises(Exception, match=r"damaged|decode") as caught:
        store._find(*PLACE)
    assert isinstance(store._explain(caught.value), StorageError)


@pytest.mark.parametrize("column", ["sender", "name"])
def test_a_damaged_digest_is_found(path: Path, store: ShelveStorage, column: str) -> None:
    store._commit([Write(*PLACE, b"value", 5)])
    execute(path, f"UPDATE Entries SET {column} = X'00'")
    assert any("digests" in finding for finding in store.check())
