"""Stores in memory that confuse keys; the docstring says which."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from salmon_state import MemoryStorage
from salmon_state.storage import Change, Sender


class AltersSenders(MemoryStorage):
    """The base of those that look a sender up under another name."""

    def alter(self, sender: str) -> Sender:
        return sender

    def altered(self, sender: Sender) -> Sender:
        return sender if sender is None else self.alter(sender)

    def _read(self, module: str, sender: Sender) -> str | None:
        return super()._read(module, self.altered(sender))

    def _read_sender(self, sender: Sender) -> Mapping[str, str]:
        return super()._read_sender(self.altered(sender))

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change._replace(sender=self.altered(change.sender)) for change in changes)


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

    def _read(self, module: str, sender: Sender) -> str | None:
        return super()._read(module, str(sender))

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change._replace(sender=str(change.sender)) for change in changes)


class JoinsWithColon(AltersSenders):
    """As a key of module:sender."""

    def _read(self, module: str, sender: Sender) -> str | None:
        return super()._read(*self.joined(module, sender))

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(
            Change(*self.joined(*change[:2]), change.state, change.updated_at) for change in changes
        )

    def joined(self, module: str, sender: Sender) -> tuple[str, Sender]:
        head, _, tail = f"{module}:{sender}".partition(":")
        return (module, sender) if sender is None else (head, tail)


class IsOneConversation(MemoryStorage):
    """Has one state for everybody."""

    def _read(self, module: str, sender: Sender) -> str | None:
        return super()._read("everybody", None)

    def _write(self, changes: Iterable[Change]) -> None:
        super()._write(change._replace(module="everybody", sender=None) for change in changes)
