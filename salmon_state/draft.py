"""Draft: what a conversation found and means to write, in layers; pure, without lock or I/O."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVERY,
    STATE,
    Condition,
    Entry,
    Kind,
    Place,
    Seen,
    Write,
    in_order,
)
from salmon_state.keys import Sender

__all__ = ["Draft"]


class Draft:
    """Writes that wait for a commit, over those of the layers beneath and over what was found.

    What was added last about an entry is what will be written. What is expected of it is what it
    was first read or added with, because that is about the store; whatever came later went by the
    draft itself.

    Args:
        beneath: The draft of the conversation that this one is nested in.
    """

    def __init__(self, beneath: Draft | None = None) -> None:
        self._beneath = beneath
        self._writes: dict[Place, Write] = {}
        self._moves: dict[tuple[Kind, Sender], Write] = {}  # those of EVERY
        self._seen: dict[Place, Condition] = {}
        # What the store said, to all layers alike.
        self._known: set[Sender] = set() if beneath is None else beneath._known
        self._found: dict[Place, Condition] = {} if beneath is None else beneath._found

    def _layers(self) -> Iterator[Draft]:
        """Yields this draft and those beneath, from the top down."""
        layer: Draft | None = self
        while layer is not None:
            yield layer
            layer = layer._beneath

    # ---------------------------------------------------------------- what was found

    def knows(self, sender: Sender) -> bool:
        """Returns whether all states of a sender were found."""
        return sender in self._known

    def remember(self, sender: Sender, entries: Iterable[Entry]) -> None:
        """Takes in all states of a sender, and whatever else was found of it."""
        self._known.add(sender)
        for kind, whose, name, value, _ in entries:
            self._found[kind, whose, name] = Seen(value)

    def note(self, place: Place, value: Any) -> None:
        """Takes in what was found of one entry, which may be ``None``."""
        self._found[place] = ABSENT if value is None else Seen(value)

    def expected(self, place: Place) -> Condition:
        """Returns what was found of an entry; `ANYTHING` if nobody looked."""
        found = self._found.get(place)
        if found is not None:
            return found
        return ABSENT if place[0] is STATE and place[1] in self._known else ANYTHING

    # ---------------------------------------------------------------- looking

    def look(self, place: Place) -> Any:
        """Returns the value that an entry will have, or ``None``; `ANYTHING` if nobody looked.

        That a state was found is noted: see `writes`. The null sender's is anybody's.
        """
        written = self._writes.get(place) if self._beneath is None else self.find(place)
        if written is not None:
            return written.value
        found = self._found.get(place) or self.expected(place)
        if found is ANYTHING:
            return found
        if place[0] is STATE and place[1]:
            self._seen.setdefault(place, found)
        if found is ABSENT:
            return None
        return self.moved(place, found.value) if self._moves or self._beneath else found.value

    def moved(self, place: Place, value: Any) -> Any:
        """Returns what a value becomes that nobody wrote by its name."""
        move = None if value is None else self.find_move(place[0], place[1])
        return value if move is None else move.value

    def find(self, place: Place) -> Write | None:
        """Returns what is meant to be written about one entry, by its name."""
        for layer in self._layers():
            if place in layer._writes:
                return layer._writes[place]
        return None

    def find_move(self, kind: Kind, sender: Sender) -> Write | None:
        """Returns what is meant to become of all entries of a sender that were not written."""
        for layer in self._layers():
            if (kind, sender) in layer._moves:
                return layer._moves[kind, sender]
        return None

    def names(self, kind: Kind, sender: Sender) -> set[str]:
        """Returns the names of a sender's entries of which something was found or is written."""
        known: list[Iterable[Place]] = [self._found]
        known += [layer._writes for layer in self._layers()]
        return {
            name
            for places in known
            for of_kind, whose, name in places
            if of_kind is kind and whose == sender
        }

    # ---------------------------------------------------------------- adding

    def read(self, place: Place, seen: Condition) -> None:
        """Notes what something was decided by; see `writes`."""
        self._seen.setdefault(place, seen)

    def add(self, write: Write) -> None:
        """Adds a write: of one entry, or of `EVERY` entry of a sender."""
        kind, sender, name, _, _, expect = write
        if name is EVERY:
            self._move(write)
            return
        place = (kind, sender, name)
        self._writes[place] = write
        if (self._moves or self._beneath) and self.find_move(kind, sender) is not None:
            expect = ANYTHING  # the move is made before
        self._seen.setdefault(place, expect)

    def _move(self, write: Write) -> None:
        kind, sender = write.kind, write.sender
        for name in self.names(kind, sender):
            place = (kind, sender, name)
            written = self.find(place)
            if written is not None and written.value is not None:
                self._writes[place] = written._replace(value=write.value, at=write.at)
        earlier = self.find_move(kind, sender)
        if earlier is None or earlier.value is not None:  # what was removed is not moved again
            self._moves[kind, sender] = write

    # ---------------------------------------------------------------- ending

    def merge(self) -> None:
        """Hands everything to the draft beneath: the nested conversation has ended well."""
        assert self._beneath is not None  # noqa: S101 - for the type checker
        for move in self._moves.values():
            self._beneath._move(move)
        self._beneath._writes.update(self._writes)
        for place, seen in self._seen.items():
            self._beneath.read(place, seen)

    def drop(self, kinds: Container[Kind]) -> None:
        """Forgets what this draft itself, without those beneath, would write of some kinds."""
        for place in [place for place in self._writes if place[0] in kinds]:
            del self._writes[place]
            self._seen.pop(place, None)  # of what a move wrote here, it is in a layer beneath

    def clear(self) -> None:
        """Forgets everything, in the layers beneath as well: the store has nothing any more."""
        for layer in self._layers():
            layer._writes.clear()
            layer._moves.clear()
            layer._seen.clear()
        self._found.update(dict.fromkeys(self._found, ABSENT))

    def writes(self) -> list[Write]:
        """Returns the writes that make the bottom draft true, in the order to make them.

        Nothing at all if nothing is written; otherwise also a `CHECK` of each entry that was only
        read: who read one and wrote another went by both. So is one that is moved before it is
        written, as what was expected of it is about the time before.
        """
        moves = self._moves
        writes = []
        for place, write in self._writes.items():
            expect = ANYTHING if moves and place[:2] in moves else self._seen[place]
            if write.value is not None or expect is not ABSENT:
                writes.append(write if write.expect is expect else write._replace(expect=expect))
        writes += moves.values()
        if writes and (moves or len(self._seen) > len(self._writes)):
            writes += [
                Write(*place, CHECK, None, seen)
                for place, seen in self._seen.items()
                if seen is not ANYTHING and (place not in self._writes or place[:2] in moves)
            ]
        return in_order(writes) if len(writes) > 1 else writes
