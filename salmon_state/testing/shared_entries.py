"""SharedEntrySuite: several processes write entries of every kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import CHECK, EVERY, Entry, Kind, Seen, Want, Write
from salmon_state.storage import StateStorage
from salmon_state.testing import tasks
from salmon_state.testing.children import call_in_child, churn_until_it_fails, die_in_step
from salmon_state.testing.keys import SENDER
from salmon_state.testing.processes import store_processes
from salmon_state.testing.suite import NOON, OpenStore, StoreSuite, everything, outgoing, write

__all__ = ["SharedEntrySuite"]


class SharedEntrySuite(StoreSuite):
    """Several processes have the store open, and write entries of every kind.

    Attributes:
        takers: How many processes claim at the same time.
        due: How many entries are there to be claimed.
        takers_killed: How many of them are killed while they do.
        commits_killed: How many processes are killed in the middle of a commit.
        commit_size: How many entries of each of four kinds such a commit has.
        renames: Before how many renamed or removed files of a commit a process is killed at most,
            and at how many changed files commits fail.
    """

    takers = 3
    due = 300
    takers_killed = 2
    commits_killed = 3
    commit_size = 25
    renames = 16

    def test_each_due_entry_is_claimed_once(self, open_store: OpenStore) -> None:
        """By whichever process, and none is left."""
        with open_store() as store, store_processes(open_store, self.takers) as takers:
            write(store, [w for n in range(self.due // 10) for w in outgoing(f"{n}@x", 10)])
            for taker in takers:
                taker.start(tasks.take_all, Kind.OUTGOING, NOON * 2, 7)
            taken = [place for taker in takers for place in taker.result()]
            assert len(taken) == len(set(taken)) == self.due
            assert store._count(Kind.OUTGOING) == self.due

    def test_what_a_killed_taker_had_is_claimed_again(self, open_store: OpenStore) -> None:
        """When its claim has ended; and what it was done with is done."""
        with open_store() as store:
            write(store, [w for n in range(self.due // 10) for w in outgoing(f"{n}@x", 10)])
            done: list[Any] = []
            for _ in range(self.takers_killed):
                with store_processes(open_store, 1) as (taker,):
                    taker.start(tasks.take_and_finish, Kind.OUTGOING, NOON * 2, 5)
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
                writer.start(tasks.commit_forever, sender, self.commit_size)
                last = writer.kill_after(3 + kill, kill / self.commits_killed)
            with open_store() as store:
                # A server may still be at the last one; whoever asks for what is locked waits.
                store._commit([Write(Kind.STATE, sender, "app", CHECK, None, Seen())])
                wants: list[Want] = [(kind, EVERY) for kind in (Kind.STATE, *tasks.KINDS)]
                steps: dict[str, set[str]] = {}
                for entry in store._load(sender, wants):
                    step = str(entry.value) if entry.kind is Kind.STATE else entry.name
                    steps.setdefault(entry.kind.name, set()).add(step)
                counts = {kind: len(found) for kind, found in steps.items()}
                assert counts == {
                    "STATE": 1,
                    **{k.name: counts["HANDLED"] for k in tasks.KINDS},
                }
                commits, rest = divmod(counts["HANDLED"], self.commit_size)
                assert (commits in (last + 1, last + 2), rest) == (True, 0)
                assert steps["STATE"] == {f"S{commits - 1}"}
                others = [store.get("app", other) for other in tasks.beside(sender)]
                expected = f"S{commits - 1}" if store.spans_senders else ROUTE_FIRST_STATE
                assert others == [expected] * 2, "of several senders some have what others lack"

    def test_sigkill_between_the_files_of_a_commit(self, open_store: OpenStore) -> None:
        """Whoever comes next finds a commit or nothing of it, of every sender, and in pages."""
        with open_store() as store, store_processes(open_store, 1) as (writer,):
            senders = [f"{n}@x" for n in range(5)] if store.spans_senders else [SENDER] * 2
            last = 0
            store._commit(tasks.step_of(senders, last))
            for number in range(1, self.renames + 1):
                killed = writer.call(die_in_step, senders, number, number - 1)
                last = _step_found(store, senders, (last, number) if killed else (number,))
                if not killed:
                    break

    def test_a_file_that_cannot_be_changed(self, open_store: OpenStore) -> None:
        """A commit that raises for it has not happened, and one that returns has."""
        with open_store() as store, store_processes(open_store, 1) as (writer,):
            expected = ROUTE_FIRST_STATE
            for moment in range(self.renames):
                churn = partial(churn_until_it_fails, word=f"S{moment}.", moment=moment)
                last, failed = writer.call(call_in_child, churn)
                expected = last or expected
                states = {store.get(*key) for key in tasks.CHURNED}
                assert states == {expected}, "a commit raised, and was made; or it was not"
                if not failed:
                    break


def _step_found(store: StateStorage, senders: Sequence[str], possible: Iterable[int]) -> int:
    """Returns which step of `tasks.step_of` is the last that was committed."""
    steps = {frozenset(w[:4] for w in tasks.step_of(senders, n) if w.value): n for n in possible}
    wants: list[Want] = [(Kind.OUTGOING, EVERY), (Kind.BODY, EVERY)]

    def listed() -> Iterable[Entry]:
        return (entry for kind, _ in wants for entry in everything(store, kind))

    def loaded() -> Iterable[Entry]:
        return (entry for sender in set(senders) for entry in store._load(sender, wants))

    listing, loading = (steps.get(frozenset(e[:4] for e in read())) for read in (listed, loaded))
    assert listing is not None, "pages have a commit by half, of a process that was killed"
    assert loading == listing, "a commit of a process that was killed is there by half"
    return listing
