"""Limits: what clients of a receiver may cost."""

from __future__ import annotations

import errno
from dataclasses import dataclass, fields

__all__ = ["IN_HAND", "SHORTAGES", "SIZE", "Limits"]

SIZE = 10 * 1024 * 1024
"""Bytes that a mail may have, unless a receiver is told otherwise."""

SHORTAGES = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
"""The numbers of errors that pass: there are no more descriptors, or no more memory, for now."""

IN_HAND = 8
"""How many times its size a mail takes when a handler has it: measured were 7 with a text and with
an attachment, and 19 with nothing but empty lines."""


@dataclass(frozen=True)
class Limits:
    """What clients may cost; what is more is refused, and they may come again where that helps.

    Args:
        size: Bytes that a mail may have (552); said in answer to EHLO.
        memory: Bytes for all mails that are being received or handled at a time in one process, of
            which a mail takes eight times its size when it is complete; never less than one of the
            largest takes. Who sends more than is left is told to come again (452).
        recipients: That one mail may have (452: the client sends it to the others again).
        connections: At a time in one process, but at most half of the descriptors that it may have:
            the others are for the handlers (421).
        connections_of_address: At a time from one address in one process (421). A mail server or
            a proxy in front has one address.
        silence: Seconds that a client may say nothing, or not finish a command (421; RFC 5321,
            section 4.5.3.2.7, wants 300).
        mail_time: Seconds that sending one mail may take (421).
        waiting: Seconds that a mail may wait for its sender's earlier ones or for a worker (451).
            Clients give up after ten minutes (RFC 5321, section 4.5.3.2.6).
        ending: Seconds that a receiver that was told to stop goes on with the mails in hand.

    Raises:
        ValueError: One of them is not positive.
    """

    size: int = SIZE
    memory: int = 256 * 1024 * 1024
    recipients: int = 100
    connections: int = 1000
    connections_of_address: int = 500
    silence: float = 300.0
    mail_time: float = 900.0
    waiting: float = 120.0
    ending: float = 30.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{each.name} must be a positive number, got {value!r}")
