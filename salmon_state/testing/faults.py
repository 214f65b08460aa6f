"""FaultSuite: the place of a store is away, full or damaged."""

from __future__ import annotations

import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from salmon_state.errors import ConversationBusy, StorageError, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing import processes, tasks
from salmon_state.testing.keys import MODULE, OTHER, SENDER
from salmon_state.testing.lifecycle import CALLS
from salmon_state.testing.mails import can_enter
from salmon_state.testing.suite import OpenStore, StoreSuite, contents, fill

__all__ = ["Fault", "FaultSuite", "moved_away", "no_space", "unmounted"]

Fault = Callable[[], AbstractContextManager[None]]
"""Makes a context in which something is wrong with the place of the store."""

WRITES = ("set", "remove", "compare_and_set", "set_all", "rename", "purge", "clear")


@contextmanager
def no_space() -> Iterator[None]:
    """Gives a block in which this process can write to no file, as on a full disk.

    It is the `fail_writes` of stores that write files themselves.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, usual)


@contextmanager
def moved_away(place: Path) -> Iterator[None]:
    """Gives a block in which a directory is elsewhere; what was made in its stead is removed.

    It is the `take_away` of stores in a directory.
    """
    moved = place.rename(place.with_name("moved"))
    yield
    shutil.rmtree(place, ignore_errors=True)
    moved.rename(place)


@contextmanager
def unmounted(place: Path) -> Iterator[None]:
    """Gives a block in which a directory is empty, as one is that a disk was mounted on.

    It is another `take_away` of stores in a directory.
    """
    with moved_away(place):
        place.mkdir()
        yield


class FaultSuite(StoreSuite):
    """A store whose place can be away, full or damaged; whoever writes the store says how.

    `open_store` opens it with short time limits, if it has some, because a test waits for them.

    Attributes:
        late_for_writers: After how many seconds whoever writes or reads is taken to wait for ever.
    """

    late_for_writers = 60.0

    @pytest.fixture
    def take_away(self) -> Fault:
        """Returns what takes the place away, as a server that is down or a disk unmounted."""
        _missing(self, "take_away")

    @pytest.fixture
    def fail_writes(self) -> Fault:
        """Returns what makes every write to the place fail, as on a full disk: see `no_space`."""
        _missing(self, "fail_writes")

    @pytest.fixture
    def damage(self) -> Callable[[str, Sender], None]:
        """Returns what damages the entry that holds the state of a module and a sender."""
        _missing(self, "damage")

    @pytest.fixture
    def filled(self, store: StateStorage) -> StateStorage:
        """The store with a state of each of two senders."""
        fill(store, [(MODULE, SENDER, "POSTING"), (MODULE, OTHER, "POSTING")], updated_at=1)
        return store

    def test_what_is_away_is_not_empty(self, filled: StateStorage, take_away: Fault) -> None:
        """Every method says that the store is unavailable, and afterwards all is there again."""
        with take_away():
            for name in ("ping", *CALLS):  # it asks the place, too, when nothing else has before
                error = self._raised_by(partial(CALLS[name], filled))
                assert error == "StorageUnavailable", name
            with pytest.raises(StorageUnavailable) as caught, filled.conversation(SENDER):
                raise AssertionError("it was entered")
            assert caught.value.code == 451
        assert contents(filled) == {(MODULE, SENDER): "POSTING", (MODULE, OTHER): "POSTING"}

    def test_away_at_the_commit(self, filled: StateStorage, take_away: Fault) -> None:
        """The conversation is refused, and leaves nothing."""
        conversation = filled.conversation(SENDER)
        conversation.__enter__()
        filled.set(MODULE, SENDER, "BANNED")
        filled.set(MODULE, OTHER, "BANNED")
        with take_away(), pytest.raises(StorageUnavailable):
            conversation.__exit__(None, None, None)
        assert set(contents(filled).values()) == {"POSTING"}

    @pytest.mark.parametrize("name", WRITES)
    def test_a_write_that_fails(self, filled: StateStorage, fail_writes: Fault, name: str) -> None:
        """It says so, it has changed nothing, and when the fault is over it works."""
        with fail_writes():
            error = self._raised_by(partial(CALLS[name], filled))
        unchanged = contents(filled) == {(MODULE, SENDER): "POSTING", (MODULE, OTHER): "POSTING"}
        # A store may need no space to remove something; then it has done it.
        allowed = [("StorageUnavailable", True), *([] if name == "set" else [("nothing", False)])]
        assert (error, unchanged) in allowed, (
            f"expected StorageUnavailable and no change: {error} was raised, {unchanged=}"
        )
        CALLS[name](filled)
        assert contents(filled) != {(MODULE, SENDER): "POSTING", (MODULE, OTHER): "POSTING"}

    def test_a_commit_that_fails(self, filled: StateStorage, fail_writes: Fault) -> None:
        """The conversation is refused, and leaves nothing of all that it wrote."""
        conversation = filled.conversation(None)  # whose lock need not be written
        conversation.__enter__()
        for sender in (SENDER, OTHER) if filled.spans_senders else (SENDER,):
            filled.set(MODULE, sender, "BANNED")
            filled.set("new", sender, "BANNED")
        with fail_writes(), pytest.raises(StorageUnavailable):
            conversation.__exit__(None, None, None)
        assert set(contents(filled).values()) == {"POSTING"}

    def test_a_damaged_entry_is_not_missing(
        self, filled: StateStorage, damage: Callable[[str, Sender], None]
    ) -> None:
        """Whoever reads it is told, `check` finds it, and the other senders' are well."""
        damage(MODULE, SENDER)
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: filled.get(MODULE, SENDER),
            "records": lambda: list(filled.records(sender=SENDER)),
            "conversation": lambda: filled.conversation(SENDER).__enter__(),
        }
        for name, call in calls.items():
            assert self._raised_by(call) == "StorageError", name
        assert filled.get(MODULE, OTHER) == "POSTING"
        assert list(filled.check()), "check() finds nothing wrong"

    def test_a_writer_that_stands_still(self, open_store: OpenStore, filled: StateStorage) -> None:
        """Whoever writes or reads meanwhile does it, or is told so, and is not waiting still."""
        with _standing_still(open_store):
            error = self._raised_by(lambda: filled.set("mine", SENDER, "NEW"))
            read = self._raised_by(lambda: filled.get(MODULE, SENDER))
        assert {error, read} <= {"nothing", "StorageUnavailable"}
        mine = "NEW" if error == "nothing" else "START"
        states = [filled.get(module, SENDER) for module in ("one", "two", "mine")]
        assert states == ["ONE", "ONE", mine], "two writers were not kept apart"

    def test_a_wait_beyond_its_time_limit(
        self, open_store: OpenStore, filled: StateStorage
    ) -> None:
        """A conversation waits for its lock as long as was said, whatever limit writers have."""
        began = time.monotonic()
        with _standing_still(open_store):
            self._raised_by(lambda: filled.set("mine", SENDER, "NEW"))
        limit = time.monotonic() - began  # or whoever writes need not wait, and it is another one
        with ThreadPoolExecutor(1) as another, open_store() as other:
            with other.conversation(SENDER):
                entering = another.submit(can_enter, filled, [SENDER], processes.PATIENCE)
                wait([entering], max(1.5, limit + 0.5))
            assert entering.result() == [True], "it was given up before its time was over"

    def _raised_by(self, call: Callable[[], object]) -> str:
        raised: list[str] = []
        thread = threading.Thread(target=lambda: raised.append(_name_of_error(call)), daemon=True)
        thread.start()
        thread.join(self.late_for_writers)
        assert raised, f"it still waits after {self.late_for_writers:g} s"
        return raised[0]


@contextmanager
def _standing_still(open_store: OpenStore) -> Iterator[None]:
    """Gives a block in which another process stands still in the middle of a commit."""
    with processes.store_processes(open_store, 1) as (other,):
        other.start(tasks.commit_and_stop, SENDER)
        other.wait_until_stopped()
        try:
            yield
        finally:
            other.go_on()
        other.result()


def _missing(suite: FaultSuite, name: str) -> NoReturn:
    if name in suite.left_out:
        pytest.skip(f"left out: {suite.left_out[name]}")
    raise NotImplementedError(
        f"{type(suite).__name__} must override the fixture {name}, or say in left_out why not; "
        f"see salmon_state.testing.FaultSuite.{name}"
    )


def _name_of_error(call: Callable[[], object]) -> str:
    try:
        call()
    except ConversationBusy:
        return "ConversationBusy"  # which says that a mail of the same sender is in hand
    except StorageUnavailable:
        return "StorageUnavailable"
    except StorageError:
        return "StorageError"
    except Exception as error:  # noqa: BLE001 - whatever else it is, it is wrong
        return type(error).__name__
    return "nothing"
