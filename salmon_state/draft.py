"""Draft: what a conversation means to write, in layers; pure, without any lock or I/O."""

from __future__ import annotations

from collections.abc import Container, Iterator

from salmon_state.entries import (
    ABSENT,
    ANYTHING,
    CHECK,
    EVERY,
    Condition,
    Kind,
    Place,
    Write,
    in_order,
)
from salmon_state.keys import Sender

__all__ = ["Draft"]


class Draft:
    """Writes that wait for a commit, over those of the layers beneath.

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

    def _layers(self) -> Iterator[Draft]:
        """Yields this draft and those beneath, from the top down."""
        layer: Draft | None = self
        while layer is not None:
            yield layer
            layer = layer._beneath

    # ---------------------------------------------------------------- looking

    def find(self, place: Place) -> Write | None:
        """Returns what is meant to be written about one entry, by its name."""
        layer: Draft | None = self
        while layer is not None:
            if place in layer._writes:
                return layer._writes[place]
            layer = layer._beneath
        return None

    def find_move(self, kind: Kind, sender: Sender) -> Write | None:
        """Returns what is meant to become of all entries of a sender that were not written."""
        layer: Draft | None = self
        while layer is not None:
            if layer._moves and (kind, sender) in layer._moves:
                return layer._moves[kind, sender]
            layer = layer._beneath
        return None

    def names(self, kind: Kind, sender: Sender) -> set[str]:
        """Returns the names of a sender's entries about which something is meant to be written."""
        return {
            name
            for layer in self._layers()
            for of_kind, whose, name in layer._writes
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
        moved = self.find_move(kind, sender) is not None  # which is made before
        self._seen.setdefault(place, ANYTHING if moved else expect)

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
        """Forgets everything, in the layers beneath as well."""
        for layer in self._layers():
            layer._writes.clear()
            layer._moves.clear()
            layer._seen.clear()

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
