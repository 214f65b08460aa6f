"""What a conversation means to write, without any store."""

from __future__ import annotations

from salmon_state.draft import Draft
from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVERY,
    Condition,
    Kind,
    Place,
    Seen,
    Write,
)

ANNA, BEN = "anna@example.com", "ben@example.com"


def state(
    name: str, value: str | None, expect: Condition = ANYTHING, sender: str = ANNA, at: int = 1
) -> Write:
    return Write(Kind.STATE, sender, name, value, at, expect)


def every(value: str | None, sender: str = ANNA, at: int = 5) -> Write:
    return Write(Kind.STATE, sender, EVERY, value, at)


def place(name: str, sender: str = ANNA) -> Place:
    return Kind.STATE, sender, name


def test_what_was_added_last_is_written_with_the_first_expectation() -> None:
    draft = Draft()
    draft.add(state("app", "ONE", ABSENT))
    draft.add(state("app", "TWO", Seen("ONE"), at=2))
    assert draft.find(place("app")) == state("app", "TWO", Seen("ONE"), at=2)
    assert draft.writes() == [state("app", "TWO", ABSENT, at=2)]


def test_writes_come_in_the_order_of_their_key() -> None:
    draft = Draft()
    outgoing = Write(Kind.OUTGOING, ANNA, "1", b"mail", 7, ABSENT)
    transition = Write(Kind.TRANSITION, ANNA, "1", b"", 7, ABSENT)
    added = [
        transition,
        outgoing,
        state("b", "ONE"),
        state("a", "ONE", sender=BEN),
        Write(Kind.STATE, None, "z", "ONE"),
        state("a", "ONE"),
        every("TWO", sender=BEN),
    ]
    for write in added:
        draft.add(write)
    assert draft.writes() == [
        every("TWO", sender=BEN),
        Write(Kind.STATE, None, "z", "ONE"),
        state("a", "ONE"),
        state("b", "ONE"),
        state("a", "TWO", sender=BEN, at=5),
        outgoing,
        transition,
    ]


def test_what_was_only_read_is_checked_if_something_is_written() -> None:
    draft = Draft()
    draft.read(place("read"), Seen("ONE"))
    assert draft.writes() == []
    draft.add(state("app", "TWO", Seen("ONE")))
    draft.read(place("app"), Seen("ONE"))
    assert draft.writes() == [
        Write(*place("read"), CHECK, None, Seen("ONE")),
        state("app", "TWO", Seen("ONE")),
    ]


def test_removing_what_is_not_there_is_nothing_to_write() -> None:
    draft = Draft()
    draft.read(place("read"), Seen("ONE"))
    draft.add(state("app", "ONE", ABSENT))
    draft.add(state("app", None, Seen("ONE")))
    assert draft.writes() == []


def test_a_move_changes_what_was_written_and_keeps_its_expectation_as_a_check() -> None:
    draft = Draft()
    draft.add(state("app", "ONE", Seen("OLD")))
    draft.add(state("gone", None, Seen("OLD")))
    draft.add(state("free", "ONE"))
    draft.add(every("MOVED"))
    draft.add(state("later", "TWO", ABSENT))
    assert draft.writes() == [
        Write(*place("app"), CHECK, None, Seen("OLD")),
        Write(*place("gone"), CHECK, None, Seen("OLD")),
        every("MOVED"),
        state("app", "MOVED", at=5),
        state("free", "MOVED", at=5),
        state("gone", None),
        state("later", "TWO"),
    ]


def test_what_a_move_removed_is_not_moved_again() -> None:
    draft = Draft()
    draft.add(every(None))
    draft.add(every("MOVED"))
    assert draft.find_move(Kind.STATE, ANNA) == every(None)
    assert draft.find_move(Kind.STATE, BEN) is None


def test_a_layer_is_seen_above_and_dropped_or_merged() -> None:
    outer = Draft()
    outer.add(state("app", "ONE", ABSENT))
    dropped = Draft(outer)
    dropped.add(state("app", "DROPPED"))
    dropped.add(every("DROPPED"))
    inner = Draft(outer)
    assert inner.find(place("app")) == state("app", "ONE", ABSENT)
    assert inner.names(Kind.STATE, ANNA) == {"app"}
    inner.add(state("app", "TWO", Seen("ONE")))
    inner.add(state("new", "ONE", ABSENT, sender=BEN))
    inner.add(every("MOVED", sender=BEN))
    inner.read(place("read"), Seen("ONE"))
    assert outer.find(place("new", BEN)) is None
    inner.merge()
    assert outer.writes() == [
        Write(*place("read"), CHECK, None, Seen("ONE")),
        Write(*place("new", BEN), CHECK, None, ABSENT),
        every("MOVED", sender=BEN),
        state("app", "TWO", ABSENT),
        state("new", "MOVED", sender=BEN, at=5),
    ]


def test_clearing_forgets_the_layers_beneath_as_well() -> None:
    outer = Draft()
    outer.add(state("app", "ONE", Seen("OLD")))
    outer.add(every("TWO"))
    outer.read(place("read"), Seen("ONE"))
    inner = Draft(outer)
    inner.add(state("app", "TWO"))
    inner.clear()
    assert (inner.writes(), outer.writes()) == ([], [])
    assert inner.find(place("app")) is None


def test_what_is_dropped_is_not_asked_for_either() -> None:
    draft = Draft()
    draft.add(Write(Kind.OUTGOING, ANNA, "1", b"mail", 7, ABSENT))
    draft.add(state("app", "ONE"))
    moved = Draft(draft)
    moved.add(Write(Kind.OUTGOING, ANNA, EVERY, b"other"))
    for layer in (moved, draft):
        layer.drop([Kind.OUTGOING])
    assert draft.writes() == [state("app", "ONE")]


def test_what_was_read_before_a_move_still_counts_when_it_is_written_after_it() -> None:
    draft = Draft()
    draft.read(place("app"), Seen("OLD"))
    draft.add(every("MOVED"))
    draft.add(state("app", "TWO", Seen("MOVED")))
    assert draft.writes() == [
        Write(*place("app"), CHECK, None, Seen("OLD")),
        every("MOVED"),
        state("app", "TWO"),
    ]
