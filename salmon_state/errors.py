"""What can go wrong with a store, and what the sending mail server hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from salmon.server import SMTPError

__all__ = [
    "ConfigurationError",
    "ConversationBusy",
    "MigrationPending",
    "Overtaken",
    "StorageError",
    "StorageUnavailable",
]


class StorageError(Exception):
    """A store could not do what it was asked to do; nothing was changed.

    Raised as it is for what trying again cannot mend: an entry that somebody damaged, ``clear()``
    on a protected store. A damaged entry is an error and not a missing one, because a missing one
    would quietly send the conversation back to its first state. What one look-up cannot tell from a
    missing one, such as a damaged index, `StateStorage.check` finds.
    """

    @property
    def detail(self) -> str:
        """What is wrong, in one sentence for people."""
        return str(self)

    def rewrite(self, rewritten: Callable[[str], str]) -> None:
        """Replaces what the error says, so that it can be shown to anybody."""
        self.args = tuple(rewritten(each) if isinstance(each, str) else each for each in self.args)


class ConfigurationError(StorageError):
    """A URL, an option or a path that cannot work; raised when the store is made, not later."""


class MigrationPending(ConfigurationError):
    """The tables of a store are missing, or an earlier version's, and were left as they are.

    Args:
        text: What is so, and what to do.
        statements: What to run in the database, in this order.

    Attributes:
        statements: The same.
    """

    def __init__(self, text: str, statements: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.statements = statements


class StorageUnavailable(StorageError, SMTPError):
    """The store is unreachable, timed out, closed, or stayed deadlocked through every retry.

    It is also a `salmon.server.SMTPError` with code 451, so that Salmon answers the sending mail
    server with a temporary failure and that server keeps the mail and tries again (RFC 5321,
    section 4.2.1). Salmon puts ``str(error)`` onto the wire as it stands; the text is therefore
    one constant line of ASCII, and the reason is in `detail`, in the traceback (as a note, from
    Python 3.11 on) and in the log.

    Args:
        detail: The reason in one sentence, for people; a store masks the passwords that it knows.

    Attributes:
        detail: The same sentence.
        code: Always 451.
    """

    reply = "4.3.0 State store unavailable, try again later"
    detail = "the store is unavailable"

    def __init__(self, detail: str = detail) -> None:
        SMTPError.__init__(self, 451, self.reply)
        self.detail = detail
        self.__notes__ = [detail]

    def rewrite(self, rewritten: Callable[[str], str]) -> None:
        """Replaces the detail; what goes onto the wire is constant."""
        self.detail = rewritten(self.detail)
        self.__notes__ = [rewritten(note) for note in self.__notes__]

    def __reduce__(self) -> tuple[type[StorageUnavailable], tuple[str]]:
        return type(self), (self.detail,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.detail!r})"


class ConversationBusy(StorageUnavailable):
    """The lock of a conversation was not won in time: another mail of this sender is in hand."""

    reply = "4.3.0 Conversation busy, try again later"


class Overtaken(ConversationBusy):
    """Somebody else changed what a commit went by; nothing was written."""

    def __init__(self, detail: str = "somebody else changed what the commit went by") -> None:
        super().__init__(detail)


def busy(timeout: float) -> ConversationBusy:
    """Returns the error for a lock that was not won."""
    return ConversationBusy(
        f"another mail of the same sender was in hand for {timeout:g} s"
        if timeout > 0
        else "another mail of the same sender is in hand"
    )
