"""What all stores have from the base class, and what a store without hooks can do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from salmon import routing
from salmon.routing import ROUTE_FIRST_STATE

from salmon_state import MemoryStorage, StateStorage, StorageError, StorageUnavailable
from salmon_state.backend import Backend
from salmon_state.entries import Kind, Page, Where
from salmon_state.keys import Sender
from salmon_state.testing import RouterSuite
from salmon_state.testing.lifecycle import CALLS
from salmon_state.testing.router import HANDLERS, LIST, private_router

# ---------------------------------------------------------------- errors of a backend


class Failing(MemoryStorage):
    """Raises what it is told to, from every hook."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        for hook in ("find", "load", "commit", "page", "wipe", "count", "ping"):
            setattr(self, f"_{hook}", self.fail)

    def fail(self, *_: Any) -> Any:
        raise self.error

    def _place(self) -> str:
        return "nowhere"


HOOKED = [name for name in CALLS if name != "iter"]
RAISING = [name for name in HOOKED if name != "check"]  # whose answer it is: see test_check


@pytest.mark.parametrize("name", HOOKED)
def test_an_os_error_makes_the_store_unavailable(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = OSError(28, "No space left on device\n250 OK é")
    with pytest.raises(StorageUnavailable) as caught:
        CALLS[name](Failing(error))
    assert str(caught.value) == "451 4.3.0 State store unavailable, try again later"
    assert caught.value.__cause__ is error
    assert "No space left" in caught.value.detail
    (logged,) = caplog.records
    assert (logged.name, logged.levelno) == ("salmon_state", logging.ERROR)
    assert "No space left" in logged.getMessage()
    assert "<Failing nowhere>" in logged.getMessage()


@pytest.mark.parametrize("name", RAISING)
def test_any_other_error_is_a_storage_error(name: str) -> None:
    error = LookupError("what a driver raises")
    with pytest.raises(StorageError, match="LookupError: what a driver raises") as caught:
        CALLS[name](Failing(error))
    assert not isinstance(caught.value, StorageUnavailable)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [StorageError("damaged"), StorageUnavailable("away")], ids=repr)
@pytest.mark.parametrize("name", RAISING)
def test_a_storage_error_passes_unchanged(name: str, error: StorageError) -> None:
    with pytest.raises(StorageError) as caught:
        CALLS[name](Failing(error))
    assert caught.value is error
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_process_is_no_storage_error(kind: type[BaseException]) -> None:
    error: Any = kind()
    with pytest.raises(kind):
        Failing(error).get("app", "a@x")


def test_an_error_in_the_middle_of_records_is_wrapped() -> None:
    class BreaksLate(MemoryStorage):
        def _page(self, kind: Kind, where: Where, after: Any) -> Page:
            if after is not None:
                raise OSError("gone")
            return super()._page(kind, where, after)._replace(after="more")

    store = BreaksLate()
    store.set("app", "a@x", "A")
    records = store.records()
    assert next(records).state == "A"
    with pytest.raises(StorageUnavailable):
        next(records)


# ---------------------------------------------------------------- get, set and clear only


class Simple(StateStorage):
    """What Salmon's documentation teaches to write."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def get(self, module: str, sender: Sender) -> str:
        state: str = self.states.get(self.key(module, sender), ROUTE_FIRST_STATE)
        return state

    def set(self, module: str, sender: Sender, state: str) -> None:
        self.states[self.key(module, sender)] = state

    def clear(self) -> None:
        self.states.clear()


def test_threads_that_come_at_once_get_the_same_locks() -> None:
    """As two may that are in the function of a `cached_property` together, from Python 3.12 on."""
    store = Simple()
    for name in ("_threads", "_entry_leases"):
        make = vars(Backend)[name].func
        assert make(store) is make(store)


def test_a_simple_store_works_in_the_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from salmon.testing import RouterConversation, assert_in_state

    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    store = Simple()
    with private_router(store):
        routing.Router.load([HANDLERS])
        anna = RouterConversation("anna@example.com", "hello")
        anna.begin()
        for body, state in (("subscribe", "CONFIRMING"), ("yes", "POSTING"), ("leave", "START")):
            anna.say(LIST, body)
            assert_in_state(HANDLERS, LIST, anna.From, state)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("compare_and_set", "write several entries at once"),
        ("records", "list its entries"),
        ("iter", "list its entries"),
        ("len", "list its entries"),
        ("set_all", "write several entries at once"),
        ("rename", "list its entries"),
        ("purge", "list its entries"),
    ],
)
def test_a_simple_store_says_what_it_cannot_do(name: str, what: str) -> None:
    store = Simple()
    store.set("app", "a@x", "A")
    with pytest.raises(NotImplementedError) as caught:
        CALLS[name](store)
    assert str(caught.value) == f"Simple cannot {what}: it implements get, set and clear only"
    assert store.states == {"['app', 'a@x']": "A"}


class HalfDone(MemoryStorage):
    """Somebody's first attempt."""

    _page = Backend._page
    _wipe = Backend._wipe


def test_a_store_that_lacks_hooks_says_which() -> None:
    with pytest.raises(NotImplementedError) as caught:
        list(HalfDone())
    said = "HalfDone cannot list its entries: whoever wrote it must fill in _page and _wipe"
    assert str(caught.value) == said


def test_a_simple_store_can_be_pinged_closed_and_printed() -> None:
    with Simple() as store:
        store.ping()
        assert repr(store) == "<Simple>"
        assert bool(store) is True
    with pytest.raises(StorageUnavailable, match="451"):
        store.ping()


def test_a_store_with_nothing_cannot_do_anything() -> None:
    for name in CALLS.keys() - {"ping"}:
        with pytest.raises(NotImplementedError, match=r"^StateStorage cannot "):
            CALLS[name](StateStorage())


class TestPrivateRouter(RouterSuite):
    """The suite leaves Salmon's one router as it found it."""

    before: dict[str, Any]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _untouched(cls) -> Any:
        before = dict(vars(routing.Router))
        routes = list(routing.Router.ORDER)
        yield
        assert dict(vars(routing.Router)) == before
        assert list(routing.Router.ORDER) == routes

    @pytest.fixture
    def open_store(self) -> Callable[..., StateStorage]:
        return MemoryStorage
