"""RouterSuite: Salmon's own router and testing tools work with the store."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from salmon import routing
from salmon.routing import ROUTE_FIRST_STATE, Router
from salmon.testing import RouterConversation, assert_in_state

from salmon_state.errors import StorageUnavailable
from salmon_state.mail.delivery import attach, detach
from salmon_state.storage import StateStorage
from salmon_state.testing.suite import StoreSuite, contents

__all__ = ["RouterSuite", "private_router"]

HANDLERS = "salmon_state.testing.handlers"
KEYED = "salmon_state.testing.keyed_handlers"
LIST = "list@example.com"


@contextmanager
def private_router(store: StateStorage) -> Iterator[None]:
    """Gives Salmon's one router to the kit, as it is when Salmon is imported, and gives it back.

    Its locks stay; ``deliver`` is Salmon's own, whatever was attached to it.
    """
    pristine = {**vars(routing.RoutingBase()), "STATE_STORE": store}
    pristine = {name: value for name, value in pristine.items() if "lock" not in name}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pristine.items():
            patch.setattr(Router, name, value)
        patch.delitem(vars(Router), "deliver", raising=False)
        for module in (HANDLERS, KEYED):  # their routes are registered by importing them
            patch.delitem(sys.modules, module, raising=False)
        yield
        for module in (HANDLERS, KEYED):
            sys.modules.pop(module, None)


class RouterSuite(StoreSuite):
    """Every store: mails delivered by ``Router.deliver`` with the store in ``STATE_STORE``.

    The router's routes, handlers and settings are restored after each test.
    """

    @pytest.fixture
    def _salmon(
        self, store: StateStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[None]:
        """A router with the kit's handlers, in a directory where Salmon's queue may lie."""
        (tmp_path / "run").mkdir()
        monkeypatch.chdir(tmp_path)
        with private_router(store):
            Router.LOG_EXCEPTIONS = True
            Router.load([HANDLERS, KEYED])
            yield

    @pytest.fixture
    def anna(self, _salmon: None) -> RouterConversation:
        """Somebody who writes."""
        return RouterConversation("anna@example.com", "hello")

    def test_a_whole_conversation(self, store: StateStorage, anna: RouterConversation) -> None:
        """Each mail finds the state that the mail before it left."""
        anna.begin()
        assert_in_state(HANDLERS, LIST, anna.From, ROUTE_FIRST_STATE)
        for body, state in (
            ("subscribe", "CONFIRMING"),
            ("no", "CONFIRMING"),
            ("yes", "POSTING"),
            ("hello all", "POSTING"),
            ("leave", ROUTE_FIRST_STATE),
        ):
            anna.say(LIST, body)
            assert_in_state(HANDLERS, LIST, anna.From, state)
            assert store.get(HANDLERS, anna.From) == state
        assert contents(store) == {}

    def test_begin_forgets(self, store: StateStorage, anna: RouterConversation) -> None:
        """``RouterConversation.begin`` really clears the store."""
        anna.say(LIST, "subscribe")
        assert len(store) == 1
        anna.begin()
        assert len(store) == 0
        assert_in_state(HANDLERS, LIST, anna.From, ROUTE_FIRST_STATE)

    def test_senders_do_not_meet(self, store: StateStorage, anna: RouterConversation) -> None:
        """Each sender has a conversation of their own."""
        others = [RouterConversation(sender, "hi") for sender in ("ben@example.com", "b@x")]
        anna.say(LIST, "subscribe")
        anna.say(LIST, "yes")
        for other in others:
            other.say(LIST, "subscribe")
        assert contents(store) == {
            (HANDLERS, "anna@example.com"): "POSTING",
            (HANDLERS, "ben@example.com"): "CONFIRMING",
            (HANDLERS, "b@x"): "CONFIRMING",
        }

    def test_a_broken_handler_is_in_error(
        self, store: StateStorage, anna: RouterConversation
    ) -> None:
        """A handler that raises leaves ERROR behind, whose handler takes the next mail."""
        for body in ("subscribe", "yes", "break"):
            anna.say(LIST, body)
        assert_in_state(HANDLERS, LIST, anna.From, "ERROR")
        anna.say(LIST, "what happened?")
        assert contents(store) == {}

    def test_state_key_generator(self, store: StateStorage, anna: RouterConversation) -> None:
        """Keys that a module makes itself keep its conversations apart."""
        anna.say("red-room@example.com", "hello")
        assert_in_state(KEYED, "red-room@example.com", anna.From, "MET")
        assert_in_state(KEYED, "blue-room@example.com", anna.From, ROUTE_FIRST_STATE)
        assert contents(store) == {(f"{KEYED}:red-room@example.com", anna.From): "MET"}
        anna.say("red-room@example.com", "bye")
        assert contents(store) == {}

    def test_a_state_of_another_module(self, store: StateStorage, anna: RouterConversation) -> None:
        """The state is stored under the module of the function that was returned."""
        for body in ("subscribe", "yes", "elsewhere"):
            anna.say(LIST, body)
        assert contents(store) == {
            (HANDLERS, anna.From): "POSTING",
            (f"{KEYED}:{LIST}", anna.From): "MET",
        }

    def test_reloading_keeps_states(self, anna: RouterConversation) -> None:
        """``Router.RELOAD`` imports the handlers again and leaves the store alone."""
        anna.say(LIST, "subscribe")
        Router.RELOAD = True
        anna.say(LIST, "yes")
        assert_in_state(HANDLERS, LIST, anna.From, "POSTING")

    def test_a_mail_that_comes_again(self, store: StateStorage, anna: RouterConversation) -> None:
        """With an inbox it is answered, and handled once."""
        attach(Router, once_within=timedelta(days=1))
        try:
            for body in ("subscribe", "yes", "leave", "leave", "yes", "subscribe"):
                anna.say(LIST, body)
            assert contents(store) == {}
            anna.say(LIST, "subscribe once more")
            assert contents(store) == {(HANDLERS, anna.From): "CONFIRMING"}
        finally:
            detach(Router)

    def test_an_unavailable_store_is_not_swallowed(
        self, store: StateStorage, anna: RouterConversation
    ) -> None:
        """The router lets the error out that has the mail server try again later."""
        anna.say(LIST, "subscribe")
        store.close()
        with pytest.raises(StorageUnavailable) as caught:
            anna.say(LIST, "yes")
        assert str(caught.value).startswith("451 4.3.0 ")
