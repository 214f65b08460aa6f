"""Who meets whom: a call, and what somebody else does at any moment of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from salmon_state.entries import EVERY, Kind, Want, Where, Write, in_order
from salmon_state.storage import StateStorage
from salmon_state.testing.moments import Meeting
from salmon_state.testing.suite import NOON, contents, fill, set_clock, write

__all__ = ["MEETINGS"]

SENDERS = tuple(f"{number}@x" for number in range(5))


def _rename(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    module = f"rename{number}"
    fill(store, [(module, sender, "OLD") for sender in SENDERS])

    newer = SENDERS[1:4]

    def write_something_newer() -> None:
        for sender in newer:
            other.set(module, sender, "NEWER")
        other.set(module, "4@x", "START")

    def check(moved: int, _: object) -> None:
        found = {sender: state for (_, sender), state in contents(store, module=module).items()}
        there = {found.pop(sender, "nothing") for sender in newer}
        assert there == {"NEWER"}, "rename() overwrote a newer set()"
        assert "4@x" not in found, "rename() brought back what was removed meanwhile"
        assert found == {"0@x": "NEW"}, "rename() left one out"
        assert 1 <= moved <= 5, f"rename() says that it moved {moved} of 1 to 5"

    return Meeting(lambda: store.rename(module, "OLD", "NEW"), write_something_newer, check)


def _purge(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    module = f"purge{number}"
    fill(store, [(module, sender, "IDLE") for sender in SENDERS], updated_at=NOON - 1)
    for each in (store, other):
        set_clock(each, NOON)

    def check(removed: int, _: object) -> None:
        found = contents(store, module=module)
        assert found == {(module, "1@x"): "IDLE"}, "purge() removed what was renewed meanwhile"
        assert removed in (4, 5), f"purge() says that it removed {removed} of 4 or 5"

    def purge() -> int:
        return store.purge(older_than=timedelta(0), module=module)

    return Meeting(purge, lambda: other.set(module, "1@x", "IDLE"), check)


def _get(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"get{number}@x"
    fill(store, [("app", sender, "OLD")])

    def check(seen: str, _: object) -> None:
        assert seen in ("OLD", "NEW"), f"get() gave {seen}, which nobody has set"
        again = store.get("app", sender)
        assert again == "NEW", f"get() gives {again} again, after whoever set NEW has returned"

    return Meeting(lambda: store.get("app", sender), lambda: other.set("app", sender, "NEW"), check)


def _set_all(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"set_all{number}@x"
    fill(store, [("old", sender, "ONE")])

    def set_both() -> None:
        other.set("new", sender, "HERE")
        other.set("old", sender, "LATER")

    def check(moved: int, _: object) -> None:
        states = store.get("old", sender), store.get("new", sender)
        # As one order of the three explains it; the new conversation was there before the later.
        orders = {("LATER", "HERE"): 1, ("LATER", "MOVED"): 2, ("MOVED", "MOVED"): 2}
        assert orders.get(states) == moved, (
            f"set_all() moved {moved} conversations, and beside a set() of the new one and then "
            f"of the old one they are {states}"
        )

    move = lambda: store.set_all(sender, "MOVED")  # noqa: E731 - as short as the others
    return Meeting(move, set_both, check)


def _set_all_and_removal(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"removal{number}@x"
    fill(store, [("gone", sender, "ONE"), ("stays", sender, "ONE")])

    def check(moved: int, _: object) -> None:
        gone = store.get("gone", sender)
        assert gone == "START", "set_all() brought back what was removed meanwhile"
        assert store.get("stays", sender) == "MOVED"
        assert moved in (1, 2)

    move = lambda: store.set_all(sender, "MOVED")  # noqa: E731 - as short as the others
    return Meeting(move, lambda: other.set("gone", sender, "START"), check)


def _compare_and_set(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"compare{number}@x"
    before = ("START", "ONE")[number % 2]
    if before != "START":
        fill(store, [("app", sender, before)])

    def check(*_: object) -> None:
        state = store.get("app", sender)
        assert state == "NEWER", "compare_and_set() overwrote a newer set()"

    def step() -> bool:
        return store.compare_and_set("app", sender, before, "TWO")

    return Meeting(step, lambda: other.set("app", sender, "NEWER"), check)


def _made_anew(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"anew{number}@x"
    fill(store, [("app", sender, "ONE")])

    def make_anew() -> None:
        other.set("app", sender, "START")
        other.set("app", sender, "NEWER")

    def check(*_: object) -> None:
        state = store.get("app", sender)
        assert state == "NEWER", "compare_and_set() overwrote what was removed and made anew"

    step = lambda: store.compare_and_set("app", sender, "ONE", "TWO")  # noqa: E731 - as short
    return Meeting(step, make_anew, check)


def _removal(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"remove{number}@x"
    fill(store, [("app", sender, "ONE")])

    def check(*_: object) -> None:
        state = store.get("app", sender)
        listed = [record.state for record in store.records(sender=sender)]
        assert listed == [state] * (state != "START"), f"{state} is listed as {listed}"
        everybody = [record.state for record in store.records() if record.sender == sender]
        assert everybody == listed, f"{state} is among all others as {everybody}"

    remove = lambda: store.set("app", sender, "START")  # noqa: E731 - as short as the others
    return Meeting(remove, lambda: other.set("app", sender, "NEWER"), check)


def _snapshot(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"snapshot{number}@x"
    modules = ("one", "two")
    fill(store, [(module, sender, "OLD") for module in modules])

    def read() -> set[str]:
        with store.conversation(sender):
            return {store.get(module, sender) for module in modules}

    def check(states: set[str], _: object) -> None:
        assert len(states) == 1, f"a conversation saw one commit by half: {states}"

    new = [Write(Kind.STATE, sender, module, "NEW", NOON) for module in modules]
    return Meeting(read, lambda: other._commit(new), check)


def _load(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"load{number}@x"
    kinds = (Kind.STATE, Kind.OUTGOING, Kind.BODY)
    writes = [Write(k, sender, "n", "ONE" if k is Kind.STATE else b"x", NOON) for k in kinds]

    def check(found: list[Any], _: object) -> None:
        assert len(found) in (0, 3), f"somebody loaded {len(found)} of 3 writes of a commit"

    wants: list[Want] = [(kind, EVERY) for kind in kinds]
    return Meeting(lambda: store._load(sender, wants), lambda: other._commit(writes), check)


def _commit(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"commit{number}@x"
    kinds = (Kind.STATE, Kind.OUTGOING, Kind.BODY)
    writes = in_order(
        Write(k, sender, str(n), "ONE" if k is Kind.STATE else b"x", NOON)
        for k in kinds
        for n in range(60)
    )
    wants: list[Want] = [(kind, EVERY) for kind in kinds]

    def check(_: object, seen: int) -> None:
        assert seen in (0, len(writes)), f"somebody saw {seen} of {len(writes)} writes of a commit"

    return Meeting(lambda: store._commit(writes), lambda: len(other._load(sender, wants)), check)


def _senders(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    senders = [f"senders{number}.{which}@x" for which in range(5 if store.spans_senders else 1)]
    writes = [Write(Kind.STATE, sender, "app", "ONE", NOON) for sender in senders]

    def look() -> list[str]:
        return [other.get("app", sender) for _ in range(2) for sender in senders]

    def check(_: object, states: list[str]) -> None:
        seen = states.index("ONE") if "ONE" in states else len(states)
        whole = ["START"] * seen + ["ONE"] * (len(states) - seen)
        assert states == whole, f"one after the other, twice, senders of one commit are in {states}"

    return Meeting(lambda: store._commit(writes), look, check)


def _claim(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    write(store, [Write(Kind.FAILURE, f"claim{number}@x", str(n), b"", 1) for n in range(6)])
    for each in (store, other):
        set_clock(each, NOON)

    def check(one: list[Any], two: list[Any]) -> None:
        taken = [entry[:3] for entry in (*one, *two)]
        assert len(set(taken)) == len(taken), "two have claimed the same entry"
        assert len(taken) == 6, f"of 6 that were due, {len(taken)} were claimed"

    later = NOON + 1_000_000
    return Meeting(
        lambda: store._claim(Kind.FAILURE, later, 100),
        lambda: other._claim(Kind.FAILURE, later + 1, 100),
        check,
    )


def _claim_and_change(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    sender = f"change{number}@x"
    write(store, [Write(Kind.FAILURE, sender, str(n), b"", 1) for n in range(4)])
    set_clock(store, NOON)
    changes = [
        Write(Kind.FAILURE, sender, "1", None),
        Write(Kind.FAILURE, sender, "2", b"put off", NOON * 3),
    ]

    def check(claimed: list[Any], _: object) -> None:
        found = {e.name: (e.value, e.at) for e in store._load(sender, [(Kind.FAILURE, EVERY)])}
        assert "1" not in found, "a claim brought back what was removed meanwhile"
        assert found["2"] == (b"put off", NOON * 3), "a claim overwrote what was newer"
        mine = {entry.name for entry in claimed if entry.sender == sender}
        assert mine >= {"0", "3"}, f"of 0 and 3, which nobody touched, {sorted(mine)} were claimed"

    claim = lambda: store._claim(Kind.FAILURE, NOON * 2, 100)  # noqa: E731 - as short as the others
    return Meeting(claim, lambda: other._commit(changes), check)


def _expiry(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    name = f"expiry{number}"
    write(store, [Write(Kind.BODY, sender, name, b"x", NOON) for sender in SENDERS])
    renewal = [Write(Kind.BODY, "1@x", name, b"x", NOON + 9)]

    def check(*_: object) -> None:
        found = [e.sender for p in store._pages(Kind.BODY, Where(name=name)) for e in p.entries]
        assert found == ["1@x"], f"a sweep beside whoever renewed 1@x left {found}"

    where = Where(name=name, before=NOON + 1)
    sweep = lambda: store._sweep(Kind.BODY, where, None)  # noqa: E731 - as short as the others
    return Meeting(sweep, lambda: other._commit(renewal), check)


def _records(store: StateStorage, other: StateStorage, number: int) -> Meeting:
    module = f"records{number}"
    senders = [f"{number}.{sender}" for sender in SENDERS]
    fill(store, [(module, sender, "ONE") for sender in senders])

    def change() -> None:
        other.set(module, senders[1], "START")
        other.set(module, f"{number}.9@x", "ONE")

    def check(found: list[str], _: object) -> None:
        untouched = [senders[0], *senders[2:]]
        left = [sender for sender in sorted(found) if sender in untouched]
        assert left == untouched, f"records() of {untouched}, which nobody touched, gave {left}"

    read = lambda: [record.sender for record in store.records(module=module)]  # noqa: E731
    return Meeting(read, change, check)


MEETINGS: dict[str, Callable[[StateStorage, StateStorage, int], Meeting]] = {
    "get": _get,
    "rename": _rename,
    "purge": _purge,
    "set_all": _set_all,
    "set_all and a removal": _set_all_and_removal,
    "compare_and_set": _compare_and_set,
    "what is made anew": _made_anew,
    "removal": _removal,
    "snapshot": _snapshot,
    "load": _load,
    "commit": _commit,
    "senders": _senders,
    "claim": _claim,
    "claim and a change": _claim_and_change,
    "expiry": _expiry,
    "records": _records,
}
"""What one does and what another one does meanwhile, by what it is about."""
