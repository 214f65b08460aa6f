"""SharedEntrySuite: several processes write entries of every kind."""

from __future__ import annotations

from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from salmon_state.entries import CHECK, EVERY, Kind, Seen, Want, Write
from salmon_state.testing import tasks
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
    """

    takers = 3
    due = 300
    takers_killed = 2
    commits_killed = 3
    commit_size = 25

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
