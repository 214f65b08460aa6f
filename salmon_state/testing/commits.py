"""The part of the hooks' contract about a commit: several writes, all or none."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from salmon_state.entries import ABSENT, ANYTHING, CHECK, EVERY, Entry, Kind, Seen, Write, in_order
from salmon_state.errors import ConversationBusy, Overtaken
from salmon_state.storage import StateStorage
from salmon_state.testing.endings import elsewhere, refused
from salmon_state.testing.keys import OTHER, SENDER
from salmon_state.testing.moments import Meeting, meet_at_each_moment
from salmon_state.testing.suite import NOON, StoreSuite, everything, outgoing, write

__all__ = ["CommitTests"]


class CommitTests(StoreSuite):
    """Several writes at once.

    Attributes:
        many: How many entries of one sender are written in one commit, and how many kilobytes.
        memory: How much memory the process may take for the latter, in bytes.
        check_moments: At how many moments of a commit something is changed that it checks.
    """

    many = 20_000
    memory = 10_000_000
    check_moments = 8

    def test_every_entry_of_a_sender(self, store: StateStorage) -> None:
        """They are moved, or removed, before the others are written, and counted."""
        write(store, outgoing(SENDER, 5) + outgoing(OTHER, 5))
        store._commit([Write(Kind.BODY, SENDER, "0", b"body", NOON)])
        moved = [
            Write(Kind.OUTGOING, SENDER, EVERY, b"moved", NOON + 1),
            Write(Kind.OUTGOING, SENDER, "0", b"again", NOON + 2),
            Write(Kind.OUTGOING, SENDER, "new", b"new", NOON + 3),
        ]
        before = everything(store, Kind.OUTGOING)
        with pytest.raises(Overtaken):
            store._commit([*moved, Write(Kind.BODY, SENDER, "0", b"", NOON, ABSENT)])
        assert sorted(everything(store, Kind.OUTGOING)) == sorted(before)
        assert store._commit(moved) == [5, 1, 1]
        found = {e.name: (e.value, e.at) for e in store._load(SENDER, [(Kind.OUTGOING, EVERY)])}
        assert found == {
            "0": (b"again", NOON + 2),
            **{str(number): (b"moved", NOON + 1) for number in range(1, 5)},
            "new": (b"new", NOON + 3),
        }
        assert store._commit([Write(Kind.OUTGOING, SENDER, EVERY, None)]) == [6]
        assert store._commit([Write(Kind.OUTGOING, SENDER, EVERY, b"none")]) == [0]
        assert store._find(Kind.BODY, SENDER, "0") == b"body"
        assert len(everything(store, Kind.OUTGOING)) == 5

    def test_a_check_before_every_entry_is_moved(self, store: StateStorage) -> None:
        """It is about what was there before."""
        write(store, outgoing(SENDER, 3))
        for value, there in ((b"wrong", b"value"), (b"value", b"moved")):
            writes = [
                Write(Kind.OUTGOING, SENDER, "1", CHECK, None, Seen(value)),
                Write(Kind.OUTGOING, SENDER, EVERY, b"moved", NOON),
            ]
            assert in_order(reversed(writes)) == writes
            if value == b"wrong":
                with pytest.raises(Overtaken):
                    store._commit(writes)
            else:
                assert store._commit(writes) == [0, 3]
            assert {e.value for e in everything(store, Kind.OUTGOING)} == {there}

    def test_a_check_holds_until_the_commit(self, store: StateStorage) -> None:
        """Whoever changes what is checked, at any moment, comes after the commit or prevents it."""
        meet_at_each_moment(_check_meets_change, store, store, self.check_moments)

    def test_senders_in_one_commit(self, store: StateStorage) -> None:
        """Those of all are written or none; or of one, if it says that it spans no senders."""
        senders = (SENDER, OTHER, None, "") if store.spans_senders else ("",)
        writes = [w for sender in senders for w in outgoing(sender, 2)]
        store._commit(in_order(writes))
        assert len(everything(store, Kind.OUTGOING)) == len(writes)
        spoilt = in_order(
            Write(Kind.OUTGOING, sender, name, b"new", NOON, ABSENT if name == "1" else ANYTHING)
            for sender in senders
            for name in ("0", "1" if sender == "" else "2")
        )
        with pytest.raises(Overtaken):
            store._commit(spoilt)
        assert {entry.value for entry in everything(store, Kind.OUTGOING)} == {b"value"}

    def test_many_in_one_commit(self, store: StateStorage) -> None:
        """However many: a statement, a transaction or a document has room for them."""
        assert store._commit(_new(self.many, b"envelope")) == [1] * self.many
        assert store._count(Kind.OUTGOING) == self.many
        assert store._commit([Write(Kind.OUTGOING, SENDER, EVERY, None)]) == [self.many]
        assert store._count(Kind.OUTGOING) == 0

    def test_a_commit_is_never_all_in_memory(self, store: StateStorage) -> None:
        """Its writes come from an iterator, and may be more than there is memory for."""
        large = _new(self.many // 5, bytes(5_000))
        tracemalloc.start()
        try:
            store._commit(large)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < self.memory, f"a commit of {self.many} kB took {peak} bytes of memory"

    def test_many_or_none(self, store: StateStorage) -> None:
        """The last one's expectation fails: nothing is there."""
        store._commit([Write(Kind.OUTGOING, SENDER, "last", b"", NOON)])

        def writes() -> Iterator[Write]:
            for number in range(self.many // 4):
                yield Write(Kind.OUTGOING, SENDER, f"{number:06}", b"value", NOON)
            yield Write(Kind.OUTGOING, SENDER, "last", b"", NOON, ABSENT)

        with pytest.raises(Overtaken):
            store._commit(writes())
        assert [entry.name for entry in everything(store, Kind.OUTGOING)] == ["last"]

    @pytest.mark.parametrize("error", [ValueError("no more"), KeyboardInterrupt()], ids=repr)
    def test_an_iterator_that_fails(self, store: StateStorage, error: BaseException) -> None:
        """Nothing is written of what it gave before, and what it raised comes out."""

        def writes() -> Iterator[Write]:
            yield from outgoing(SENDER, 3)
            raise error

        with pytest.raises(type(error)) as caught:
            store._commit(writes())
        assert caught.value is error
        assert everything(store, Kind.OUTGOING) == []

    # ---------------------------------------------------------------- with the states

    def test_a_conversation_writes_all_kinds_together(self, store: StateStorage) -> None:
        """They are there when the states are, and seen by nobody before."""
        write(store, [Write(Kind.HANDLED, SENDER, "known", b"", NOON)])
        wanted = [(Kind.HANDLED, "known"), (Kind.HANDLED, "new")]
        conversation = store._converse(SENDER, 2.0, wanted)
        new = Write(Kind.HANDLED, SENDER, "new", b"mark", NOON, ABSENT)
        with conversation:
            assert [conversation.find(kind, SENDER, name) for kind, name in wanted] == [b"", None]
            store.set("app", SENDER, "ONE")
            conversation.add(new)
            conversation.add(Write(Kind.BODY, SENDER, "body", b"mail", NOON))
            conversation.add(Write(Kind.HANDLED, SENDER, "known", None))
            assert conversation.find(Kind.HANDLED, SENDER, "known") is None
            assert conversation.find(Kind.HANDLED, SENDER, "new") == b"mark"
            assert elsewhere(everything, store, Kind.BODY) == []
        assert everything(store, Kind.HANDLED) == [
            Entry(Kind.HANDLED, SENDER, "new", b"mark", NOON)
        ]
        assert [entry.value for entry in everything(store, Kind.BODY)] == [b"mail"]

    def test_a_conversation_whose_mark_is_there_by_now(self, store: StateStorage) -> None:
        """It is overtaken, and leaves nothing."""
        mark = Write(Kind.HANDLED, None, "mail", b"", NOON, ABSENT)  # whom no lock keeps apart
        with refused(store, None):
            store.set("app", None, "ONE")
            conversation = store._active.conversation
            assert conversation is not None
            assert conversation.find(Kind.HANDLED, None, "mail") is None
            conversation.add(mark)
            elsewhere(write, store, [mark])
        assert list(store.records()) == []

    def test_everything_about_a_person(self, store: StateStorage) -> None:
        """It can be listed, and removed in one commit; what is somebody else's stays."""
        kinds = [kind for kind in Kind if kind is not Kind.LEASE]
        for sender in (SENDER, OTHER):
            values: list[Any] = ["ONE" if kind is Kind.STATE else b"\xff" for kind in kinds]
            written = zip(kinds, values, strict=True)
            write(store, [Write(kind, sender, "name", value, NOON) for kind, value in written])
        listed = list(store.export(SENDER))
        assert [(entry["kind"], entry["sender"], entry["name"]) for entry in listed] == [
            (kind.name, SENDER, "name") for kind in kinds
        ]
        assert {(entry["value"], entry["encoding"]) for entry in listed} == {
            *(("ONE", "text"), ("/w==", "base64"))
        }
        with store.conversation(SENDER):
            with pytest.raises(ConversationBusy):
                elsewhere(lambda: store.erase(SENDER, timeout=0))
            with suppress(ConversationBusy), store.conversation(SENDER):
                assert store.erase(SENDER) == len(kinds)
                raise ConversationBusy("it comes again")
        assert list(store.export(SENDER)) == listed
        assert store.erase(SENDER) == len(kinds)
        assert list(store.export(SENDER)) == []
        assert len(list(store.export(OTHER))) == len(kinds)


def _new(count: int, value: bytes) -> Iterator[Write]:
    for number in range(count):
        yield Write(Kind.OUTGOING, SENDER, f"{number:06}", value, NOON + number, ABSENT)


def _check_meets_change(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    proof = Write(Kind.CURSOR, f"check{number}@x", "lease", b"mine", NOON)
    store._commit([proof])
    writes = [
        proof._replace(value=CHECK, expect=Seen(b"mine")),
        Write(Kind.STATE, proof.sender, "app", "ONE", NOON),
    ]

    def commit() -> bool:
        with suppress(Overtaken):
            store._commit(writes)
            return True
        return False

    def take_over() -> str:
        other._commit([proof._replace(value=b"others")])
        return other.get("app", proof.sender)

    def check(committed: bool, seen: str) -> None:
        assert committed == (seen == "ONE"), "what a commit checks was changed before it committed"

    return Meeting(commit, take_over, check)
