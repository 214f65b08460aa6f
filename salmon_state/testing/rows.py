"""RowSuite: handlers write rows of their own in the transaction of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from salmon.server import SMTPError

from salmon_state.conversation import current_conversation
from salmon_state.errors import ConversationBusy
from salmon_state.storage import StateStorage
from salmon_state.testing.endings import left_with
from salmon_state.testing.keys import MODULE, OTHER, SENDER
from salmon_state.testing.suite import StoreSuite, contents

__all__ = ["RowSuite", "Rows"]


class Rows(NamedTuple):
    """A table of a handler's own, in the same database."""

    add: Callable[[Any, str], object]
    """Writes a row with a text through a conversation's `connection`."""
    committed: Callable[[], set[str]]
    """Returns the texts that everybody else sees."""


class RowSuite(StoreSuite):
    """A store in a database, whose conversations handlers take part in by their `connection`."""

    @pytest.fixture
    def rows(self, open_store: Callable[..., StateStorage]) -> Rows:
        """Returns what writes and reads a table that is empty, where `open_store` opens."""
        raise NotImplementedError(f"{type(self).__name__} must override the fixture rows")

    def test_rows_are_declared(self, store: StateStorage) -> None:
        """A store whose conversations have a connection says so."""
        assert store.has_connection is True

    def test_rows_are_committed_with_the_states(self, store: StateStorage, rows: Rows) -> None:
        """They are there when the states are, and seen by nobody before."""
        with store.conversation(SENDER):
            _add(rows, "one")
            store.set(MODULE, SENDER, "ONE")
            _add(rows, "two")
            assert rows.committed() == set()
        assert rows.committed() == {"one", "two"}
        assert store.get(MODULE, SENDER) == "ONE"

    def test_rows_of_a_mail_that_comes_again(self, store: StateStorage, rows: Rows) -> None:
        """Nothing is left of them; and what a broken handler wrote stays with its ERROR."""
        for number, error in enumerate((SMTPError(451), SystemExit(1), ValueError("broken"))):
            with left_with(store, SENDER, error):
                _add(rows, str(number))
                store.set(MODULE, SENDER, str(number))
        assert rows.committed() == {"2"}
        assert contents(store) == {(MODULE, SENDER): "2"}

    def test_rows_of_an_inner_conversation(self, store: StateStorage, rows: Rows) -> None:
        """They are dropped alone if it is left with what comes again, and else kept."""
        with store.conversation(SENDER):
            _add(rows, "outer")
            with left_with(store, OTHER, ConversationBusy("in hand")):
                _add(rows, "dropped")
            with store.conversation(None):
                _add(rows, "kept")
        assert rows.committed() == {"outer", "kept"}


def _add(rows: Rows, text: str) -> None:
    conversation = current_conversation()
    assert conversation is not None
    rows.add(conversation.connection, text)
