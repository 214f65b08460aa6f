"""EntrySuite and SharedEntrySuite: the hooks of a store, with entries of several kinds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVERY,
    Condition,
    Entry,
    Kind,
    Seen,
    Want,
    Where,
    Write,
    in_order,
)
from salmon_state.errors import ConversationBusy, Overtaken
from salmon_state.keys import Sender
from salmon_state.storage import StateStorage
from salmon_state.testing import processes
from salmon_state.testing.endings import elsewhere, refused
from salmon_state.testing.keys import HOSTILE_KEYS, LONG_SENDERS, OTHER, SENDER
from salmon_state.testing.processes import store_processes
from salmon_state.testing.suite import NOON, OpenStore, StoreSuite, write

__all__ = ["EntrySuite", "SharedEntrySuite", "everything"]

BESIDE = tuple(kind for kind in Kind if kind is not Kind.STATE)
VALUES = (b"", b"\0", b"\xff\xfe", b"text", bytes(range(256)), b"a" * 100_000)

# By the entry that is there: which expectations about it hold, and which do not.
SEEN = Entry(Kind.OUTGOING, SENDER, "one", b"value", NOON)
HOLD: dict[str, tuple[Condition, ...]] = {
    "there": (*(ANYTHING, Seen(), Seen(b"value"), Seen(at=NOON), Seen(b"value", NOON)),),
    "not there": (ANYTHING, ABSENT),
}
FAIL: dict[str, tuple[Condition, ...]] = {
    "there": (
        *(ABSENT, Seen(b""), Seen(b"valuE"), Seen(b"value "), Seen(at=NOON + 1), Seen(at=None)),
        *(Seen(b"value", NOON - 1), Seen(b"other", NOON)),
    ),
    "not there": (Seen(), Seen(b"value"), Seen(at=NOON), Seen(b"value", NOON), Seen(at=None)),
}


def everything(store: StateStorage, kind: Kind, where: Where = Where()) -> list[Entry]:  # noqa: B008 - immutable
    """Returns what pages give, after checking that nothing comes twice."""
    found = [entry for page in store._pages(kind, where) for entry in page.entries]
    assert len({entry[:3] for entry in found}) == len(found), "a page gave an entry twice"
    return found


class EntrySuite(StoreSuite):
    """Every store: what its hooks promise about entries of every kind.

    Attributes:
        largest: The largest value, in bytes: a mail of 20 MB.
        many: How many entries of one sender are written in one commit.
        memory: How much memory the process may take for that, in bytes.
    """

    largest = 20_000_000
    many = 20_000
    memory = 10_000_000

    # ---------------------------------------------------------------- one entry

    @pytest.mark.parametrize("kind", BESIDE, ids=lambda kind: kind.name)
    def test_what_is_written_is_found(self, store: StateStorage, kind: Kind) -> None:
        """Any bytes come back as they were, with their time, by every hook that reads."""
        entries = [Entry(kind, SENDER, f"n{i}", v, NOON + i) for i, v in enumerate(VALUES)]
        assert store._commit([_as_write(entry) for entry in entries]) == [1] * len(entries)
        assert [store._find(*entry[:3]) for entry in entries] == list(VALUES)
        assert sorted(store._load(SENDER, [(kind, EVERY)])) == entries
        assert store._load(SENDER, [(kind, "n3")]) == [entries[3]]
        assert sorted(everything(store, kind)) == entries
        assert store._count(kind) == len(entries)
        assert store._commit([Write(*entries[0][:3], None), Write(kind, OTHER, "x", None)]) == [
            1,
            0,
        ]
        assert store._find(*entries[0][:3]) is None
        assert sorted(store._load(SENDER, [(kind, EVERY)])) == entries[1:]

    @pytest.mark.parametrize("kind", [Kind.LEASE, Kind.CURSOR], ids=lambda kind: kind.name)
    def test_a_time_may_be_unknown(self, store: StateStorage, kind: Kind) -> None:
        """An entry that is not due need not have one."""
        write = Write(kind, SENDER, "", b"position")
        store._commit([write])
        assert store._load(SENDER, [(kind, "")]) == [Entry(*write[:4], None)]  # type: ignore[arg-type]

    def test_no_two_entries_meet(self, store: StateStorage) -> None:
        """Whatever is in a sender and a name, kinds included."""
        kinds = (Kind.OUTGOING, Kind.CONFIRMATION)
        entries = [
            Entry(kind, sender, name, f"{kind} {number}".encode(), NOON + number)
            for number, (name, sender) in enumerate(HOSTILE_KEYS)
            for kind in kinds
        ]
        write(store, map(_as_write, entries))
        for entry in entries:
            assert store._find(*entry[:3]) == entry.value
        for kind in kinds:
            expected = {entry[:3]: entry for entry in entries if entry.kind is kind}
            assert {entry[:3]: entry for entry in everything(store, kind)} == expected
        assert [store.get(*key) for key in HOSTILE_KEYS] == ["START"] * len(HOSTILE_KEYS)

    def test_long_names_and_senders(self, store: StateStorage) -> None:
        """Five million characters, told apart by the last one, in a name as in a sender."""
        entries = [
            *(
                Entry(Kind.HANDLED, sender, "n", b"%d" % i, i)
                for i, sender in enumerate(LONG_SENDERS)
            ),
            *(
                Entry(Kind.HANDLED, SENDER, name, b"%d" % i, i)
                for i, name in enumerate(LONG_SENDERS)
            ),
        ]
        for entry in entries:
            store._commit([_as_write(entry)])
        assert [store._find(*entry[:3]) for entry in entries] == [e.value for e in entries]
        assert {entry[:3] for entry in everything(store, Kind.HANDLED)} == {e[:3] for e in entries}

    def test_a_large_value(self, store: StateStorage) -> None:
        """A mail of 20 MB, whatever bytes it has."""
        body = bytes(range(256)) * (self.largest // 256)
        store._commit([Write(Kind.BODY, SENDER, "one", body, NOON)])
        assert store._find(Kind.BODY, SENDER, "one") == body
        expect = Seen(at=NOON)
        store._commit([Write(Kind.BODY, SENDER, "one", body[::-1], NOON + 1, expect)])
        [entry] = store._load(SENDER, [(Kind.BODY, EVERY)])
        assert (entry.value == body[::-1], entry.at) == (True, NOON + 1)

    def test_wants_of_several_kinds(self, store: StateStorage) -> None:
        """One moment's entries, those asked for and no others."""
        store.set("app", SENDER, "POSTING")
        store.set("other", SENDER, "ASKING")
        writes = [
            Write(kind, s, n, b"x", NOON) for kind in BESIDE for s in (SENDER, OTHER) for n in "ab"
        ]
        write(store, writes)
        wants: list[Want] = [(Kind.STATE, EVERY), (Kind.HANDLED, "a"), (Kind.CONFIRMATION, EVERY)]
        found = {(entry.kind, entry.name, entry.value) for entry in store._load(SENDER, wants)}
        assert found == {
            *((Kind.STATE, "app", "POSTING"), (Kind.STATE, "other", "ASKING")),
            *((Kind.HANDLED, "a", b"x"),),
            *((Kind.CONFIRMATION, "a", b"x"), (Kind.CONFIRMATION, "b", b"x")),
        }

    # ---------------------------------------------------------------- expectations

    @pytest.mark.parametrize("value", [b"new", None, CHECK], ids=repr)
    @pytest.mark.parametrize("state", HOLD)
    def test_expectations_that_hold(self, store: StateStorage, state: str, value: Any) -> None:
        """The write is made, and says whether it wrote or removed something."""
        for expect in HOLD[state]:
            there = self._prepare(store, state)
            counts = store._commit([Write(*SEEN[:3], value, NOON + 9, expect)])
            assert counts == [_count(there, value)], expect
            assert store._load(SENDER, [(Kind.OUTGOING, EVERY)]) == _after(there, value), expect

    @pytest.mark.parametrize("value", [b"new", None, CHECK], ids=repr)
    @pytest.mark.parametrize("state", FAIL)
    def test_expectations_that_fail(self, store: StateStorage, state: str, value: Any) -> None:
        """`Overtaken`, and nothing of the whole commit is written, before it or after it."""
        for expect in FAIL[state]:
            there = self._prepare(store, state)
            writes = [
                Write(Kind.HANDLED, SENDER, "before", b"", NOON, ABSENT),
                Write(*SEEN[:3], value, NOON + 9, expect),
                Write(Kind.OUTGOING, SENDER, "two", b"after", NOON),
                Write(Kind.BODY, SENDER, "after", b"", NOON),
            ]
            with pytest.raises(Overtaken):
                store._commit(writes)
            wants: list[Want] = [(k, EVERY) for k in (Kind.HANDLED, Kind.OUTGOING, Kind.BODY)]
            assert store._load(SENDER, wants) == there, expect

    def _prepare(self, store: StateStorage, state: str) -> list[Entry]:
        store._wipe()
        if state == "there":
            store._commit([_as_write(SEEN)])
            return [SEEN]
        return []

    def test_a_check_writes_nothing(self, store: StateStorage) -> None:
        """Neither does it leave an entry behind where it expects none."""
        store._commit([Write(Kind.STATE, SENDER, "there", "ONE", NOON)])
        checks = [
            Write(Kind.STATE, SENDER, "absent", CHECK, None, ABSENT),
            Write(Kind.STATE, SENDER, "there", CHECK, None, Seen("ONE")),
            Write(Kind.HANDLED, SENDER, "absent", CHECK, None, ABSENT),
        ]
        assert store._commit(in_order(checks)) == [0, 0, 0]
        assert [tuple(record[:3]) for record in store] == [("there", SENDER, "ONE")]
        assert everything(store, Kind.HANDLED) == []

    # ---------------------------------------------------------------- several at once

    def test_every_entry_of_a_sender(self, store: StateStorage) -> None:
        """They are moved, or removed, before the others are written, and counted."""
        write(store, _outgoing(SENDER, 5) + _outgoing(OTHER, 5))
        store._commit([Write(Kind.BODY, SENDER, "0", b"body", NOON)])
        moved = [
            Write(Kind.OUTGOING, SENDER, EVERY, b"moved", NOON + 1),
            Write(Kind.OUTGOING, SENDER, "0", b"again", NOON + 2),
            Write(Kind.OUTGOING, SENDER, "new", b"new", NOON + 3),
        ]
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
        write(store, _outgoing(SENDER, 3))
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

    def test_senders_in_one_commit(self, store: StateStorage) -> None:
        """A store that spans senders writes those of several, or of none."""
        if not store.spans_senders:
            pytest.skip("declared: spans_senders = False")
        writes = [w for sender in (SENDER, OTHER, None, "") for w in _outgoing(sender, 2)]
        store._commit(in_order(writes))
        assert len(everything(store, Kind.OUTGOING)) == 8
        spoilt = in_order(
            Write(Kind.OUTGOING, sender, "0", b"new", NOON, ABSENT if sender == "" else ANYTHING)
            for sender in (SENDER, OTHER, None, "")
        )
        with pytest.raises(Overtaken):
            store._commit(spoilt)
        assert {entry.value for entry in everything(store, Kind.OUTGOING)} == {b"value"}

    def test_many_in_one_commit(self, store: StateStorage) -> None:
        """They come from an iterator, and are never all in memory."""
        value = b"envelope" * 100

        def writes() -> Iterator[Write]:
            for number in range(self.many):
                yield Write(Kind.OUTGOING, SENDER, f"{number:06}", value, NOON + number, ABSENT)

        tracemalloc.start()
        try:
            assert store._commit(writes()) == [1] * self.many
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < self.memory
        assert store._count(Kind.OUTGOING) == self.many
        assert store._commit([Write(Kind.OUTGOING, SENDER, EVERY, None)]) == [self.many]
        assert store._count(Kind.OUTGOING) == 0

    def test_many_or_none(self, store: StateStorage) -> None:
        """The last one's expectation fails: nothing is there."""
        store._commit([Write(Kind.OUTGOING, SENDER, "last", b"", NOON)])

        def writes() -> Iterator[Write]:
            for number in range(self.many // 20):
                yield Write(Kind.OUTGOING, SENDER, f"{number:06}", b"value", NOON)
            yield Write(Kind.OUTGOING, SENDER, "last", b"", NOON, ABSENT)

        with pytest.raises(Overtaken):
            store._commit(writes())
        assert [entry.name for entry in everything(store, Kind.OUTGOING)] == ["last"]

    def test_an_iterator_that_fails(self, store: StateStorage) -> None:
        """Nothing is written of what it gave before."""

        def writes() -> Iterator[Write]:
            yield from _outgoing(SENDER, 3)
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            store._commit(writes())
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

    # ---------------------------------------------------------------- pages

    def test_pages_filter(self, store: StateStorage) -> None:
        """Each filter alone and all together, exactly."""
        entries = [
            Entry(Kind.OUTGOING, sender, name, value, NOON + number)
            for number, (sender, name, value) in enumerate(
                (s, n, v) for s in (SENDER, OTHER, None) for n in ("a", "A", "a ") for v in (b"1",)
            )
        ]
        write(store, map(_as_write, entries))
        write(store, [Write(Kind.BODY, SENDER, "a", b"1", NOON)])
        for where in (
            *(
                Where(),
                Where(sender=SENDER),
                Where(sender=None),
                Where(name="a"),
                Where(value=b"1"),
            ),
            *(Where(value=b"2"), Where(before=NOON + 4), Where(before=NOON), Where(sender="")),
            Where(sender=OTHER, name="A", value=b"1", before=NOON + 5),
        ):
            expected = [entry for entry in entries if where.matches(entry)]
            assert sorted(everything(store, Kind.OUTGOING, where), key=_moment) == expected, where

    def test_due_entries_come_in_the_order_of_their_time(self, store: StateStorage) -> None:
        """Those that have waited for longest first, over many pages."""
        times = [NOON + (number * 7919) % 2500 for number in range(2500)]
        writes = [
            Write(Kind.OUTGOING, f"{number % 50}@x", f"{number}", b"value", at)
            for number, at in enumerate(times)
        ]
        write(store, writes)
        found = everything(store, Kind.OUTGOING, Where(before=NOON + 2000))
        assert [entry.at for entry in found] == [NOON + number for number in range(2000)]
        assert len(everything(store, Kind.OUTGOING)) == 2500

    def test_many_with_the_same_time(self, store: StateStorage) -> None:
        """None is left out where a page ends among them."""
        write(store, [w for n in range(50) for w in _outgoing(f"{n}@x", 50)])
        found = everything(store, Kind.OUTGOING, Where(before=NOON + 1))
        assert len(found) == 2500

    @pytest.mark.parametrize("where", [Where(), Where(before=NOON + 1)], ids=["key", "time"])
    def test_what_vanishes_hides_nothing(self, store: StateStorage, where: Where) -> None:
        """Whoever removes what was just given still gets all the others."""
        write(store, [w for n in range(30) for w in _outgoing(f"{n}@x", 50)])
        given = 0
        for page in store._pages(Kind.OUTGOING, where):
            given += len(page.entries)
            write(store, [Write(*entry[:3], None) for entry in page.entries])
        assert (given, store._count(Kind.OUTGOING)) == (1500, 0)

    # ---------------------------------------------------------------- sweeps and claims

    def test_a_sweep_of_other_kinds(self, store: StateStorage) -> None:
        """What expires is removed, in all pages, and only that."""
        write(store, [w for n in range(50) for w in _outgoing(f"{n}@x", 50, at=NOON + n)])
        store._commit([Write(Kind.BODY, SENDER, "body", b"", NOON)])
        assert store._sweep(Kind.OUTGOING, Where(before=NOON + 40), None) == 2000
        assert {entry.at for entry in everything(store, Kind.OUTGOING)} == set(
            range(NOON + 40, NOON + 50)
        )
        assert store._sweep(Kind.OUTGOING, Where(name="1"), b"changed") == 10
        changed = [e for e in everything(store, Kind.OUTGOING) if e.value == b"changed"]
        assert {(e.name, e.at) for e in changed} == {("1", NOON + n) for n in range(40, 50)}
        assert store._count(Kind.BODY) == 1

    def test_claims(self, store: StateStorage) -> None:
        """Those due longest first, each once, and again when the claim has ended."""
        store._clock = lambda: NOON + 100
        write(store, [w for n in range(20) for w in _outgoing(f"{n}@x", 10, at=NOON + 10 * n)])
        first = store._claim(Kind.OUTGOING, NOON + 1000, 60)
        assert len(first) == 60
        assert {entry.at for entry in first} == {NOON + 1000}
        assert {entry.sender for entry in first} == {f"{number}@x" for number in range(6)}
        second = store._claim(Kind.OUTGOING, NOON + 2000, 1000)
        assert {entry.sender for entry in second} == {f"{number}@x" for number in range(6, 11)}
        assert store._claim(Kind.OUTGOING, NOON + 2000, 1000) == []
        done = [Write(*e[:3], None, None, Seen(at=NOON + 1000)) for e in first[:50]]
        for each in done:
            store._commit([each])
        store._clock = lambda: NOON + 1500
        again = store._claim(Kind.OUTGOING, NOON + 3000, 1000)
        assert len(again) == 10 + 90
        with pytest.raises(Overtaken):  # the first taker was too slow
            store._commit([Write(*first[55][:3], None, None, Seen(at=NOON + 1000))])

    def test_a_check_of_what_is_whole(self, store: StateStorage) -> None:
        """Nothing is found wrong, in whatever was written."""
        write(store, [w for n in range(30) for w in _outgoing(f"{n}@x", 50)])
        states = [
            Write(Kind.STATE, sender, module, "POSTING", NOON) for module, sender in HOSTILE_KEYS
        ]
        write(store, states)
        assert list(store.check()) == []

    def test_a_wipe_removes_every_kind(self, store: StateStorage) -> None:
        """Nothing of anybody is left."""
        writes = [Write(kind, s, "n", b"x", NOON) for kind in BESIDE for s in (SENDER, None)]
        write(store, [*writes, Write(Kind.STATE, SENDER, "app", "POSTING", NOON)])
        store.clear()
        assert [everything(store, kind) for kind in Kind] == [[]] * len(Kind)


class SharedEntrySuite(StoreSuite):
    """Several processes have the store open, and write entries of every kind.

    Attributes:
        takers: How many processes claim at the same time.
        due: How many entries are there to be claimed.
        takers_killed: How many of them are killed while they do.
        commits_killed: How many processes are killed in the middle of a commit.
    """

    takers = 3
    due = 300
    takers_killed = 3
    commits_killed = 5

    def test_each_due_entry_is_claimed_once(self, open_store: OpenStore) -> None:
        """By whichever process, and none is left."""
        with open_store() as store, store_processes(open_store, self.takers) as takers:
            write(store, [w for n in range(self.due // 10) for w in _outgoing(f"{n}@x", 10)])
            for taker in takers:
                taker.start(processes.take_all, Kind.OUTGOING, NOON * 2, 7)
            taken = [place for taker in takers for place in taker.result()]
            assert len(taken) == len(set(taken)) == self.due
            assert store._count(Kind.OUTGOING) == self.due

    def test_what_a_killed_taker_had_is_claimed_again(self, open_store: OpenStore) -> None:
        """When its claim has ended; and what it was done with is done."""
        with open_store() as store:
            write(store, [w for n in range(self.due // 10) for w in _outgoing(f"{n}@x", 10)])
            done: list[Any] = []
            for _ in range(self.takers_killed):
                with store_processes(open_store, 1) as (taker,):
                    taker.start(processes.take_and_finish, Kind.OUTGOING, NOON * 2, 5)
                    done += [taker.item() for _ in range(8)]
                    done += taker.kill()
            left = {entry[:3] for entry in everything(store, Kind.OUTGOING)}
            assert len(set(done)) == len(done)
            assert not left & set(done)
            # At most one that each finished was not acknowledged any more.
            assert self.due - self.takers_killed <= len(left) + len(done) <= self.due
            store._clock = lambda: NOON * 2
            assert len(store._claim(Kind.OUTGOING, NOON * 3, self.due)) == len(left)

    def test_a_commit_of_several_kinds_is_whole_after_sigkill(self, open_store: OpenStore) -> None:
        """Everything of it is there, or nothing."""
        for kill in range(self.commits_killed):
            sender = f"{kill}@x"
            with store_processes(open_store, 1) as (writer,):
                writer.start(processes.commit_forever, sender)
                last = writer.kill_after(3 + kill, kill / self.commits_killed)
            with open_store() as store:
                wants: list[Want] = [(kind, EVERY) for kind in (Kind.STATE, *processes.KINDS)]
                steps: dict[str, set[str]] = {}
                for entry in store._load(sender, wants):
                    step = str(entry.value) if entry.kind is Kind.STATE else entry.name
                    steps.setdefault(entry.kind.name, set()).add(step)
                counts = {kind: len(found) for kind, found in steps.items()}
                assert counts == {
                    "STATE": 1,
                    **{k.name: counts["HANDLED"] for k in processes.KINDS},
                }
                assert counts["HANDLED"] in (last + 1, last + 2)
                assert steps["STATE"] == {f"S{counts['HANDLED'] - 1}"}

    def test_a_sweep_beside_writers(self, open_store: OpenStore) -> None:
        """What is renewed meanwhile is not removed, and what is not renewed is."""
        with open_store() as store, store_processes(open_store, 2) as (writer, sweeper):
            write(store, _outgoing(SENDER, 400))
            writer.start(processes.renew, Kind.OUTGOING, SENDER, 400, NOON + 1000)
            sweeper.start(processes.sweep, Kind.OUTGOING, NOON + 500)
            removed = sweeper.result()
            renewed = writer.result()
            assert removed + renewed == 400
            assert {entry.at for entry in everything(store, Kind.OUTGOING)} <= {NOON + 1000}
            assert store._count(Kind.OUTGOING) == renewed


def _as_write(entry: Entry) -> Write:
    return Write(*entry)


def _outgoing(sender: Sender, count: int, at: int = NOON) -> list[Write]:
    return [Write(Kind.OUTGOING, sender, str(n), b"value", at) for n in range(count)]


def _moment(entry: Entry) -> int:
    return entry.at or 0


def _count(there: Sequence[Entry], value: object) -> int:
    if value is CHECK:
        return 0
    return len(there) if value is None else 1


def _after(there: list[Entry], value: Any) -> list[Entry]:
    if value is CHECK:
        return there
    return [] if value is None else [SEEN._replace(value=value, at=NOON + 9)]
