"""attach() and detach(): what they do to Salmon's router, and what they leave alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from salmon.routing import RoutingBase
from salmon.testing import RouterConversation, assert_in_state

from salmon_state import (
    ConversationBusy,
    MemoryStorage,
    attach,
    current_conversation,
    detach,
)
from salmon_state.testing.mails import held_by_another_thread
from salmon_state.testing.suite import contents
from tests.delivery.router import MODULE, Ring, mail
from tests.faulty import FaultyStorage

ANNA = "anna@example.com"


def conversations_of(ring: Ring) -> list[Any]:
    """Returns a list into which each mail puts the store of its conversation, or ``None``."""
    found: list[Any] = []

    def note(message: Any, state: str) -> None:
        conversation = current_conversation()
        found.append(conversation and conversation._store)
        if conversation is not None:
            assert conversation.sender == message.From

    ring.before = note
    return found


def test_each_mail_is_one_conversation(router: Any) -> None:
    store = MemoryStorage()
    attach(router, store)
    found = conversations_of(Ring())
    for _ in range(4):
        router.deliver(mail(ANNA))
    router.deliver(mail(None))
    assert found == [store] * 5
    assert router.STATE_STORE is store
    assert contents(store) == {(MODULE, ANNA): "ONE", (MODULE, None): "ONE"}
    assert current_conversation() is None


def test_the_store_is_the_one_that_is_there(router: Any) -> None:
    router.STATE_STORE = first = MemoryStorage()
    attach(router)
    found = conversations_of(Ring())
    router.deliver(mail(ANNA))
    router.STATE_STORE = second = MemoryStorage()
    router.deliver(mail(ANNA))
    assert found == [first, second]
    assert contents(first) == contents(second) == {(MODULE, ANNA): "ONE"}


def test_attaching_again_is_harmless(router: Any) -> None:
    first, second = MemoryStorage(), MemoryStorage()
    attach(router, first)
    attached = router.deliver
    attach(router, second)
    attach(router)
    assert router.deliver is attached
    found = conversations_of(Ring())
    router.deliver(mail(ANNA))
    assert found == [second]
    detach(router)
    assert "deliver" not in vars(router)


def test_the_last_timeout_holds(router: Any) -> None:
    store = FaultyStorage()
    attach(router, store, lock_timeout=3600)
    attach(router, lock_timeout=0)
    Ring()
    with held_by_another_thread(store, ANNA), pytest.raises(ConversationBusy):
        router.deliver(mail(ANNA))


def test_detaching(router: Any) -> None:
    store = MemoryStorage()
    attach(router, store)
    found = conversations_of(Ring())
    detach(router)
    detach(router)
    router.deliver(mail(ANNA))
    assert found == [None]
    assert router.STATE_STORE is store
    assert contents(store) == {(MODULE, ANNA): "ONE"}


def test_detaching_what_was_never_attached(router: Any) -> None:
    before = dict(vars(router))
    detach(router)
    assert vars(router) == before


def test_what_stood_in_deliver_is_called_and_comes_back(router: Any) -> None:
    seen: list[Any] = []

    def earlier(message: Any) -> None:
        seen.append(current_conversation())

    router.deliver = earlier
    attach(router, MemoryStorage())
    router.deliver(mail(ANNA))
    assert seen != [None]
    detach(router)
    assert router.deliver is earlier


def test_another_router(router: Any) -> None:
    other = RoutingBase()
    attach(other, MemoryStorage())
    assert "deliver" not in vars(router)
    assert router.STATE_STORE is not other.STATE_STORE


@pytest.mark.parametrize("not_a_router", [None, "router", RoutingBase])
def test_what_is_no_router(not_a_router: Any) -> None:
    with pytest.raises(TypeError, match=r"router must be salmon\.routing\.Router, not \w+"):
        attach(not_a_router)


@pytest.mark.parametrize("name", ["lock_timeout", "queue_delay"])
@pytest.mark.parametrize(
    ("value", "error"),
    [("2", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError), (-0.1, ValueError)],
)
def test_times_that_cannot_work(router: Any, name: str, value: Any, error: type[Exception]) -> None:
    before = dict(vars(router))
    options: dict[str, Any] = {name: value}
    with pytest.raises(error, match=f"{name} must be"):
        attach(router, MemoryStorage(), **options)
    assert vars(router) == before


# ---------------------------------------------------------------- reloading, Salmon's own tools


@pytest.fixture
def reloadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A handler module that counts how often it was imported."""
    name = "reloadable_handlers"
    (tmp_path / f"{name}.py").write_text(
        "from salmon.routing import route, route_like\n"
        "imported = globals().get('imported', 0) + 1\n"
        "@route('list@(host)', host='.+')\n"
        "def START(message, host): return ONE\n"
        "@route_like(START)\n"
        "def ONE(message, host): return START\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_it_survives_reloading(router: Any, reloadable: str) -> None:
    store = MemoryStorage()
    router.load([reloadable])
    attach(router, store)
    attached = router.deliver
    router.reload()
    assert router.deliver is attached
    router.RELOAD = True
    for expected in ("ONE", "START", "ONE"):
        router.deliver(mail(ANNA, "list@x"))
        assert store.get(reloadable, ANNA) == expected
    assert sys.modules[reloadable].imported == 5


def test_salmons_testing_tools(
    router: Any, reloadable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    router.load([reloadable])
    attach(router, MemoryStorage())
    client = RouterConversation(ANNA, "hi")
    client.begin()
    client.say("list@x", "hello")
    assert_in_state(reloadable, "list@x", ANNA, "ONE")
    client.begin()
    assert_in_state(reloadable, "list@x", ANNA, "START")
