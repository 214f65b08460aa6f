"""Stores in memory whose `Conversation` itself is wrong; the docstring says how."""

from __future__ import annotations

import copy
from types import TracebackType

from salmon_state import MemoryStorage
from salmon_state.conversation import Conversation
from salmon_state.draft import Draft
from salmon_state.entries import ABSENT, ANYTHING, Condition, Kind, Place, Seen
from salmon_state.keys import Sender


class OwnConversation(MemoryStorage):
    """Has conversations of its own kind."""

    kind: type[Conversation] = Conversation

    def conversation(self, sender: Sender, *, timeout: float = 2.0) -> Conversation:
        super().conversation(sender, timeout=timeout)
        return self.kind(self, self._active, sender, timeout)


class AcceptsAnything(MemoryStorage):
    """Looks at no argument of a conversation."""

    def conversation(self, sender: Sender, *, timeout: float = 2.0) -> Conversation:
        return Conversation(self, self._active, sender, 2.0)


class KeepsEverything(OwnConversation):
    """Commits what will come again."""

    class kind(Conversation):  # noqa: N801
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            super().__exit__(None, None, None)


class DropsWithAnyError(OwnConversation):
    """Drops what Salmon has recorded."""

    class kind(Conversation):  # noqa: N801
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            instead = None if error is None else SystemExit()
            super().__exit__(None if error is None else SystemExit, instead, traceback)


class ForgetsInnerOnes(OwnConversation):
    """Does not hand on what an inner conversation wrote."""

    class kind(Conversation):  # noqa: N801
        def _leave_layer(self, outer: Conversation, *, undo: bool) -> None:
            pass


class EntersTwice(OwnConversation):
    """Commits again what it committed before."""

    class kind(Conversation):  # noqa: N801
        def __enter__(self) -> Conversation:
            self._entered = False
            return super().__enter__()


class IsSomebodyElse(OwnConversation):
    """Gives another conversation than the one that is entered."""

    class kind(Conversation):  # noqa: N801
        def __enter__(self) -> Conversation:
            super().__enter__()
            return copy.copy(self)


class GoesByItsOwnWrite(OwnConversation):
    """Expects, at the commit, a state that it only wrote in between."""

    class kind(Conversation):  # noqa: N801
        def set(self, module: str, sender: Sender, state: str | None, now: int) -> None:
            place = (Kind.STATE, sender, module)
            written = self._draft.find(place)
            super().set(module, sender, state, now)
            if written is not None:
                expect: Condition = Seen(str(written.value)) if written.value else ABSENT
                self._draft._seen[place] = expect


class HasNoSnapshot(OwnConversation):
    """Reads each state when it is asked for, and has nothing to compare with."""

    class kind(Conversation):  # noqa: N801
        def __enter__(self) -> Conversation:
            super().__enter__()
            self._draft.__class__ = _ForgetsWhatWasFound
            return self


class _ForgetsWhatWasFound(Draft):
    def expected(self, place: Place) -> Condition:
        return ANYTHING
