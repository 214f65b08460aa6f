"""What a relay says to a mail, or does not."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Answer", "ConnectionLost", "NoRoom", "RelayDown", "as_answer", "text_of"]

_LONGEST_ANSWER = 500


class Answer(NamedTuple):
    """Why a relay does not take a mail for a recipient."""

    code: int
    """SMTP's; 0 if there was none."""
    words: str


class RelayDown(OSError):
    """The relay takes nothing from us now: no connection, no login, or it says so (421)."""


class NoRoom(OSError):
    """The relay takes no further connection beside those that it has."""


class ConnectionLost(OSError):
    """The connection broke while a mail was being sent.

    Attributes:
        hung: Whether the relay said nothing for too long.
        uncertain: Whether it may have taken the mail: it was lost after the final dot.
    """

    def __init__(self, words: str, *, hung: bool, uncertain: bool) -> None:
        super().__init__(words)
        self.hung = hung
        self.uncertain = uncertain


def as_answer(said: tuple[int, Any]) -> Answer:
    """Returns an answer from its code and its words, as smtplib has them."""
    code, words = said
    return Answer(code, f"{code} {text_of(words)}")


def text_of(words: Any) -> str:
    """Returns the words of an answer in one line that is not too long."""
    if isinstance(words, bytes):
        words = words.decode("utf-8", "replace")
    return " ".join(str(words).split())[:_LONGEST_ANSWER]
