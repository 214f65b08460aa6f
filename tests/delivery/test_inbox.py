"""The inbox: which mails are the same, and what becomes of one that comes again."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from salmon.mail import MailRequest
from salmon.queue import Queue
from salmon.routing import MemoryStorage as SalmonMemory
from salmon.routing import Router, nolocking, route, stateless
from salmon.server import SMTPError

from salmon_state import (
    ConfigurationError,
    ConversationBusy,
    MemoryStorage,
    StorageUnavailable,
    attach,
)
from salmon_state.entries import Entry, Kind, Write
from salmon_state.mail.inbox import fingerprint
from salmon_state.testing.endings import elsewhere
from salmon_state.testing.suite import NOON, contents, everything, set_clock
from tests.delivery.router import MODULE, Ring, mail
from tests.faulty import FaultyStorage

# Salmon's queue leaves the closing of its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

ANNA, BEN = "anna@example.com", "ben@example.com"
WEEK = timedelta(days=7)
WRITTEN = b"Subject: hi\nMessage-ID: <1@x>\nTo: ring@x\n\nhello\nReceived: a parcel\n"


@pytest.fixture
def store(router: Any) -> FaultyStorage:
    """An empty store, attached with an inbox."""
    store = FaultyStorage()
    attach(router, store, once_within=WEEK)
    return store


def request(data: bytes | str = WRITTEN, sender: Any = ANNA, to: str = "ring@x") -> Any:
    return MailRequest(("127.0.0.1", 25), sender, to, data)


# ---------------------------------------------------------------- which are the same

SAME = {
    "itself": WRITTEN,
    "text": WRITTEN.decode(),
    "CRLF": WRITTEN.replace(b"\n", b"\r\n"),
    "no line end": WRITTEN.rstrip(b"\n"),
    "another line end": WRITTEN + b"\n",
    "received": b"Received: from a (b [1.2.3.4])\n\tby c; Wed, 25 Nov 2026\n" + WRITTEN,
    "return path": b"return-path: <anna@example.com>\n" + WRITTEN,
    "between": WRITTEN.replace(b"To:", b"Delivered-To: a\nX-ORIGINAL-TO : b\nTo:"),
    "last": WRITTEN.replace(b"\n\n", b"\nX-Spam-Status: No,\n score=1\n\n"),
    "all": b"ARC-Seal: i=1\nReceived-SPF: pass\nX-Received: by x\nAuthentication-Results: y\n"
    + WRITTEN,
}
OTHERS = {
    "message id": WRITTEN.replace(b"1@x", b"2@x"),
    "content": WRITTEN.replace(b"hello", b"hullo"),
    "a header": WRITTEN.replace(b"To:", b"Cc: ben@example.com\nTo:"),
    "a header whose name begins so": WRITTEN.replace(b"To:", b"Received-By: ben\nTo:"),
    "what looks like one in the body": WRITTEN.replace(b"a parcel", b"two parcels"),
    "what looks like one in a header": WRITTEN.replace(b"hi\n", b"hi\n Received: by y\n"),
    "no header": b"\n" + WRITTEN,
    "a blank line": WRITTEN.replace(b"hello", b"\nhello"),
}


@pytest.mark.parametrize("same", SAME.values(), ids=SAME.keys())
def test_the_same_mail(same: bytes | str) -> None:
    assert fingerprint(request(same)) == fingerprint(request())


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_another_mail(other: bytes) -> None:
    assert fingerprint(request(other)) != fingerprint(request())


def test_a_fingerprint_stays_what_it_is() -> None:
    """Marks outlive an upgrade of Python and of this package."""
    assert fingerprint(request()) == FIRST
    odd = request("Subject: \udcff\n\n\ud800 \U0001fae8", to="\udcff@x")
    assert fingerprint(odd) == ODD
    assert fingerprint(request(b"")) != fingerprint(request(b"\nx"))


FIRST = "fcc16012e041677d4e5d3666e071328df6fccb6d78b319f02114e1dd33a7d732"
ODD = "04e8f713986bb40691b3435d9e8e31da96e1cea9b171ae618b827d55ff2404e0"


# ---------------------------------------------------------------- what becomes of them


def test_a_mail_that_comes_again_is_answered_and_not_handled(
    router: Any, store: FaultyStorage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ring = Ring()
    for _ in range(3):
        router.deliver(request())
    assert ring.ran == [(ANNA, "START")]
    assert contents(store) == {(MODULE, ANNA): "ONE"}
    assert caplog.text.count(f"from '{ANNA}' to 'ring@x' was handled before") == 2


def test_another_mail_is_handled(router: Any, store: FaultyStorage) -> None:
    """Of another sender, to another recipient, or with other content."""
    ring = Ring()
    others = [request(), request(sender=BEN), request(to="ring@y"), request(OTHERS["content"])]
    for message in others * 2:
        router.deliver(message)
    assert [sender for sender, _ in ring.ran] == [ANNA, BEN, ANNA, ANNA]


@pytest.mark.parametrize("sender", [None, "", "o'neil@x", "\udcff@x"])
def test_whoever_sent_it(router: Any, store: FaultyStorage, sender: Any) -> None:
    ring = Ring()
    for _ in range(2):
        message = request()
        message.From = sender
        router.deliver(message)
    assert ring.ran == [(sender, "START")]


def test_a_handler_that_rewrites_the_sender(router: Any, store: FaultyStorage) -> None:
    def rewrite(message: Any, state: str) -> None:
        message.From = BEN

    ring = Ring(rewrite)
    for _ in range(2):
        router.deliver(request())
    assert len(ring.ran) == 1


def test_a_mail_that_changes_nothing(router: Any, store: FaultyStorage) -> None:
    ran = []

    @route("quiet@(host)", host=".+")
    def START(message: Any, host: str) -> None:  # noqa: N802 - Salmon's states are in capitals
        ran.append(message)

    for _ in range(2):
        router.deliver(request(to="quiet@x"))
    assert len(ran) == 1


def test_a_mail_that_nobody_matches_is_kept_once(
    router: Any, store: FaultyStorage, tmp_path: Path
) -> None:
    router.UNDELIVERABLE_QUEUE = kept = Queue(str(tmp_path / "undeliverable"))
    for _ in range(2):
        router.deliver(request(to="nobody@x"))
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("code", "times"), [(451, 3), (550, 3), (554, 3), (250, 1)], ids=lambda each: str(each)
)
def test_what_a_handler_answers(router: Any, store: FaultyStorage, code: int, times: int) -> None:
    """A mail that was refused was not handled; its sender may mend something and send it again."""

    def answer(message: Any, state: str) -> None:
        raise SMTPError(code)

    ring = Ring(answer)
    for _ in range(times):
        with pytest.raises(SMTPError):
            router.deliver(request())
    assert len(everything(store, Kind.HANDLED)) == (code < 400)
    ring.before = lambda *_: None
    router.deliver(request())
    assert len(ring.ran) == (times + 1 if code >= 400 else 1)


@pytest.mark.parametrize("hook", ["_lock", "_load", "_commit"])
def test_a_store_that_fails(router: Any, store: FaultyStorage, hook: str) -> None:
    ring = Ring()
    store.fail(hook, OSError("down"))
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            router.deliver(request())
    store.heal()
    router.deliver(request())
    router.deliver(request())
    assert len(ring.ran) == (3 if hook == "_commit" else 1)
    assert contents(store) == {(MODULE, ANNA): "ONE"}


@pytest.mark.parametrize("log_exceptions", [True, False])
def test_a_handler_that_raised_has_handled_it(
    router: Any, store: FaultyStorage, log_exceptions: bool, tmp_path: Path
) -> None:
    router.LOG_EXCEPTIONS = log_exceptions
    router.UNDELIVERABLE_QUEUE = kept = Queue(str(tmp_path / "undeliverable"))

    def fail(message: Any, state: str) -> None:
        raise ZeroDivisionError

    ring = Ring(fail)
    if log_exceptions:
        router.deliver(request())
    else:
        with pytest.raises(ZeroDivisionError):
            router.deliver(request())
    router.deliver(request())
    assert (len(ring.ran), len(kept)) == (1, 1)
    assert contents(store) == {(MODULE, ANNA): "ERROR"}


@pytest.mark.parametrize("to", ["ring@x", "nobody@x"])
def test_a_mail_that_salmon_could_not_keep(router: Any, store: FaultyStorage, to: str) -> None:
    """Neither handled nor in a queue: its client must be believed when it comes again."""

    class Full:
        def push(self, message: Any) -> None:
            raise OSError(28, "No space left on device")

    def fail(message: Any, state: str) -> None:
        raise ZeroDivisionError

    Ring(fail)
    router.UNDELIVERABLE_QUEUE = Full()
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            router.deliver(request(to=to))
    assert everything(store, Kind.HANDLED) == []


@pytest.mark.parametrize("end", [SystemExit(1), KeyboardInterrupt()])
def test_a_handler_that_ends_the_process(
    router: Any, store: FaultyStorage, end: BaseException
) -> None:
    def leave(message: Any, state: str) -> None:
        raise end

    ring = Ring(leave)
    with pytest.raises(type(end)):
        router.deliver(request())
    ring.before = lambda *_: None
    router.deliver(request())
    assert len(ring.ran) == 2


def test_a_handler_that_passes_its_mail_on(router: Any, store: FaultyStorage) -> None:
    """It is the same mail, and not done with; and what it comes to belongs to the same commit."""
    ring = Ring()
    passed: list[str] = []

    @route("first@(host)", host=".+")
    @stateless
    def pass_on(message: Any, host: str) -> None:
        passed.append(host)
        if len(passed) < 3:
            router.deliver(message)
        message.To = "ring@x"
        router.deliver(message)

    for _ in range(2):
        router.deliver(request(to="first@x"))
    assert (len(passed), len(ring.ran)) == (3, 3)
    assert len(everything(store, Kind.HANDLED)) == 1


def test_a_deliberate_replay(router: Any, store: FaultyStorage) -> None:
    ring = Ring()
    router.deliver(request(), again=True)
    router.deliver(request())
    router.deliver(request())
    router.deliver(request(), again=True)
    assert [state for _, state in ring.ran] == ["START", "ONE", "TWO"]


def test_two_of_the_same_mail_that_no_lock_keeps_apart(router: Any, store: FaultyStorage) -> None:
    """One is handled; the other hears 451, comes again, and is answered."""
    ran: list[int] = []

    @route("bounce@(host)", host=".+")
    @stateless
    @nolocking
    def take(message: Any, host: str) -> None:
        ran.append(len(ran))
        store.set("app", None, f"S{len(ran)}")
        if len(ran) == 1:
            elsewhere(Router.deliver, null())

    def null() -> Any:
        message = request(to="bounce@x")
        message.From = None
        return message

    with pytest.raises(ConversationBusy):
        router.deliver(null())
    assert contents(store) == {("app", None): "S2"}
    router.deliver(null())
    assert (len(ran), contents(store)) == (2, {("app", None): "S2"})


def test_a_mail_of_a_queue_that_was_put_back(
    router: Any, store: FaultyStorage, tmp_path: Path
) -> None:
    ring = Ring()
    attach(router, once_within=WEEK, queue_delay=0)
    queue = Queue(str(tmp_path / "queue"))
    queue.push(b"From: anna@example.com\n" + WRITTEN)
    store.fail("_commit", OSError("no answer came"))
    _, message = queue.pop()
    router.deliver(message)
    store.heal()
    for _ in range(2):
        _, again = queue.pop()
        if again:
            router.deliver(again)
        queue.push(message.Data)
    assert [state for _, state in ring.ran] == ["START", "START"]
    assert contents(store) == {(MODULE, ANNA): "ONE"}


# ---------------------------------------------------------------- for how long


def test_it_is_known_for_as_long_as_was_asked(router: Any, store: FaultyStorage) -> None:
    """And not until somebody has removed the mark."""
    ring = Ring()
    hour = 3_600_000_000
    for at, times in ((0, 1), (7 * 24 * hour - 1, 1), (7 * 24 * hour, 2), (8 * 24 * hour, 2)):
        set_clock(store, NOON + at)
        router.deliver(request())
        assert len(ring.ran) == times
    [mark] = everything(store, Kind.HANDLED)
    assert mark.at == NOON + 14 * 24 * hour


def test_what_has_expired_is_removed_bit_by_bit(
    router: Any, store: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at each mail, and not all at once."""
    now = [1_000.0]
    monkeypatch.setattr("salmon_state.mail.expiry.time.monotonic", lambda: now[0])
    Ring()
    set_clock(store, NOON)
    kinds = (Kind.HANDLED, Kind.CONFIRMATION)
    for kind in kinds:
        store._commit([Write(kind, ANNA, f"{n:03}", b"1", NOON - 300 + n) for n in range(250)])
        store._commit([Write(kind, ANNA, "later", b"1", NOON + 1)])

    def left() -> list[int]:
        return [len(everything(store, kind)) for kind in kinds]

    router.deliver(request(b"1"))
    assert left() == [152, 151]
    router.deliver(request(b"2"))  # it rests as long as it must, here not at all
    assert left() == [53, 51]
    router.deliver(request(b"3"))
    assert left() == [4, 1]
    store._commit([Write(Kind.CONFIRMATION, ANNA, "expired", b"1", NOON - 1)])
    router.deliver(request(b"4"))
    assert left() == [5, 2]
    now[0] += 61
    router.deliver(request(b"5"))
    assert left() == [6, 1]


def test_a_mark_that_somebody_else_removes(
    router: Any, store: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ring()
    store._commit([Write(Kind.HANDLED, ANNA, "old", b"1", NOON)])
    page = type(store)._page

    def overtaken(self: Any, *arguments: Any) -> Any:
        found = page(self, *arguments)
        for entry in found.entries:
            self._commit([Write(*entry[:3], b"2", NOON + 1)])
        return found

    monkeypatch.setattr(type(store), "_page", overtaken)
    router.deliver(request())
    assert Entry(Kind.HANDLED, ANNA, "old", b"2", NOON + 1) in everything(store, Kind.HANDLED)


def test_a_failure_to_remove_is_no_failure_of_the_mail(
    router: Any,
    store: FaultyStorage,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = Ring()
    monkeypatch.setattr(store, "_page", _broken)
    router.deliver(request())
    assert len(ring.ran) == 1
    assert "what has expired was not removed: OSError" in caplog.text


def _broken(*_: Any) -> Any:
    raise OSError("secret")


# ---------------------------------------------------------------- what cannot be


def test_a_store_that_cannot_keep_marks(router: Any, caplog: pytest.LogCaptureFixture) -> None:
    before = router.STATE_STORE
    with pytest.raises(ConfigurationError, match="<MemoryStorage> has get, set and clear only"):
        attach(router, SalmonMemory(), once_within=WEEK)
    assert router.STATE_STORE is before
    ring = Ring()
    attach(router, MemoryStorage(), once_within=WEEK)
    router.STATE_STORE = SalmonMemory()
    for _ in range(2):
        router.deliver(request())
    assert len(ring.ran) == 2
    assert caplog.text.count("once_within does nothing") == 1


@pytest.mark.parametrize(
    ("once_within", "error", "message"),
    [
        (7, TypeError, r"once_within must be a datetime.timedelta, not 7 \(int\)"),
        (timedelta(0), ValueError, "once_within must be more than nothing .*, got 0:00:00"),
        (timedelta(days=-1), ValueError, "once_within must be more than nothing"),
        (timedelta.max, ValueError, "up to 100 years"),
    ],
)
def test_what_is_no_time(
    router: Any, once_within: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attach(router, once_within=once_within)
    assert "deliver" not in vars(router)


def test_without_it_each_mail_is_handled(router: Any) -> None:
    store = MemoryStorage()
    attach(router, store, once_within=WEEK)
    attach(router)
    ring = Ring()
    for _ in range(2):
        router.deliver(mail(ANNA))
    assert len(ring.ran) == 2
    assert everything(store, Kind.HANDLED) == []
