"""The part of the contract about the store itself: ping, close, with, repr, key."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from salmon import routing
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from salmon_state.errors import StorageUnavailable
from salmon_state.findings import Finding
from salmon_state.storage import StateStorage
from salmon_state.testing.keys import MODULE, SENDER
from salmon_state.testing.suite import OpenStore, StoreSuite, contents

__all__ = ["CALLS", "LifecycleTests"]

CALLS: dict[str, Callable[[StateStorage], object]] = {
    "get": lambda store: store.get(MODULE, SENDER),
    "set": lambda store: store.set(MODULE, SENDER, "BANNED"),
    "remove": lambda store: store.set(MODULE, SENDER, ROUTE_FIRST_STATE),
    "compare_and_set": lambda store: store.compare_and_set(MODULE, SENDER, "POSTING", "BANNED"),
    "records": lambda store: list(store.records()),
    "iter": list,
    "len": len,
    "set_all": lambda store: store.set_all(SENDER, "BANNED"),
    "rename": lambda store: store.rename(MODULE, "POSTING", "BANNED"),
    "purge": lambda store: store.purge(older_than=timedelta(0)),
    "export": lambda store: list(store.export(SENDER)),
    "erase": lambda store: store.erase(SENDER),
    "clear": lambda store: store.clear(),
    "ping": lambda store: store.ping(),
    "check": lambda store: list(store.check()),
}
"""One call of every method that reaches the store."""


class LifecycleTests(StoreSuite):
    """The store itself."""

    def test_it_is_a_salmon_store(self, store: StateStorage) -> None:
        """Salmon's own base class is among its ancestors, and its key is Salmon's."""
        assert isinstance(store, StateStorage)
        assert isinstance(store, routing.StateStorage)
        for sender in (None, "Anna@Example.com ", "é"):
            assert store.key(MODULE, sender) == repr([MODULE, sender])

    def test_ping(self, store: StateStorage) -> None:
        """It returns, and changes nothing."""
        store.set(MODULE, SENDER, "POSTING")
        store.ping()
        assert contents(store) == {(MODULE, SENDER): "POSTING"}

    def test_diagnose(self, store: StateStorage) -> None:
        """It finds nothing wrong in a store that is well, and changes nothing."""
        store.set(MODULE, SENDER, "POSTING")
        with store.conversation(SENDER):
            assert all(isinstance(finding, Finding) for finding in store.diagnose())
        assert contents(store) == {(MODULE, SENDER): "POSTING"}

    def test_with_closes(self, store: StateStorage) -> None:
        """``with store`` gives the store itself, and closes it at the end."""
        with store as same:
            assert same is store
            store.set(MODULE, SENDER, "POSTING")
        with pytest.raises(StorageUnavailable):
            store.get(MODULE, SENDER)

    def test_with_lets_errors_out(self, store: StateStorage) -> None:
        """An error in the block is not swallowed; the store is closed all the same."""
        with pytest.raises(ZeroDivisionError), store:
            raise ZeroDivisionError
        with pytest.raises(StorageUnavailable):
            store.ping()

    def test_close_again(self, store: StateStorage) -> None:
        """Closing a closed store is harmless."""
        store.close()
        store.close()

    def test_closed_store_is_unavailable(self, store: StateStorage) -> None:
        """Every method of a closed store raises what makes the mail server try again later."""
        store.set(MODULE, SENDER, "POSTING")
        store.close()
        for name, call in CALLS.items():
            with pytest.raises(StorageUnavailable) as caught:
                call(store)
            assert isinstance(caught.value, SMTPError)
            assert (caught.value.code, "closed" in caught.value.detail) == (451, True), name

    def test_repr(self, open_store: OpenStore, store: StateStorage) -> None:
        """It names the class in one line and no password, with the store open or closed."""
        passwords = re.findall(r"://[^/@]*(:[^/@]+@)", repr(open_store))
        opened = repr(store)
        store.close()
        for text in (opened, repr(store)):
            assert type(store).__name__ in text
            assert "\n" not in text
            assert not [password for password in passwords if password in text]
