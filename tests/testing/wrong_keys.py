"""Stores in memory that confuse keys; the docstring says which."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from salmon_state import MemoryStorage
from salmon_state.entries import EVERY, Entry, Kind, Want, Write
from salmon_state.keys import Sender


class AltersSenders(MemoryStorage):
    """The base of those that look a sender up under another name."""

    def alter(self, sender: str) -> Sender:
        return sender

    def altered(self, sender: Sender) -> Sender:
        return sender if sender is None else self.alter(sender)

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return super()._find(kind, self.altered(sender), name)

    def _load(self, sender: Sender, wants: Sequence[Want]) -> list[Entry]:
        return super()._load(self.altered(sender), wants)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(w._replace(sender=self.altered(w.sender)) for w in writes)


class FoldsCase(AltersSenders):
    """As a database whose collation takes A for a."""

    def alter(self, sender: str) -> str:
        return sender.lower()


class StripsSpaces(AltersSenders):
    """As a tidy programmer."""

    def alter(self, sender: str) -> str:
        return sender.strip(" ")


class IgnoresTrailingSpaces(AltersSenders):
    """As a column of type CHAR."""

    def alter(self, sender: str) -> str:
        return sender.rstrip(" ")


class NormalizesUnicode(AltersSenders):
    """As some file systems: e with an accent is é."""

    def alter(self, sender: str) -> str:
        return unicodedata.normalize("NFC", sender)


class EndsAtNul(AltersSenders):
    """As a C library."""

    def alter(self, sender: str) -> str:
        return sender.partition("\0")[0]


class ReplacesSurrogates(AltersSenders):
    """As an encoder that must not fail."""

    def alter(self, sender: str) -> str:
        return sender.encode(errors="replace").decode()


class JoinsSurrogates(AltersSenders):
    """As JSON, for which two surrogates are the emoji."""

    def alter(self, sender: str) -> str:
        return sender.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


class CutsAt255(AltersSenders):
    """As VARCHAR(255)."""

    def alter(self, sender: str) -> str:
        return sender[:255]


class CutsAtAMillion(AltersSenders):
    """As a buffer that was big enough so far."""

    def alter(self, sender: str) -> str:
        return sender[:1_000_000]


class UnescapesBackslashes(AltersSenders):
    """As something that decodes once too often."""

    def alter(self, sender: str) -> str:
        return sender.replace("\\x00", "\0")


class EmptyIsNobody(AltersSenders):
    """As Oracle: '' is NULL."""

    def alter(self, sender: str) -> Sender:
        return sender or None


class NobodyIsText(MemoryStorage):
    """As a key made by a format string: None is 'None'."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return super()._find(kind, str(sender), name)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write._replace(sender=str(write.sender)) for write in writes)


class JoinsWithColon(AltersSenders):
    """As a key of module:sender."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        name, sender = self.joined(name, sender)
        return super()._find(kind, sender, name)

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(self.rewritten(write) for write in writes)

    def rewritten(self, write: Write) -> Write:
        if write.name is EVERY:
            return write
        name, sender = self.joined(write.name, write.sender)
        return write._replace(sender=sender, name=name)

    def joined(self, module: str, sender: Sender) -> tuple[str, Sender]:
        head, _, tail = f"{module}:{sender}".partition(":")
        return (module, sender) if sender is None else (head, tail)


class IsOneConversation(MemoryStorage):
    """Has one state for everybody."""

    def _find(self, kind: Kind, sender: Sender, name: str) -> Any:
        return super()._find(kind, None, "everybody")

    def _commit(self, writes: Iterable[Write]) -> list[int]:
        return super()._commit(write._replace(sender=None, name="everybody") for write in writes)
