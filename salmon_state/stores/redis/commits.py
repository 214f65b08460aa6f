"""From writes to the script that makes them: all in one step, or in a cluster those of a sender."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from salmon_state.entries import ABSENT, ANYTHING, CHECK, EVERY, Kind, Seen, Write
from salmon_state.errors import ConversationBusy, Overtaken, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.stores.encoding import encode_state
from salmon_state.stores.redis.due import EXPAND
from salmon_state.stores.redis.entries import (
    Keys,
    damaged,
    encode_field,
    encode_sender,
    encode_time,
    encode_value,
    tail_of,
)
from salmon_state.stores.redis.scripts import (
    DROP,
    FORGET,
    LEASE_LOST,
    OVERTAKEN,
    SET,
    STAGE,
    STAGED_LOST,
    WRITE,
)
from salmon_state.stores.redis.servers import UNREACHABLE, Server

__all__ = ["Commits", "Held"]

_MANY = 1000
"""How many writes go into one script; what is more is staged."""
_LARGE = 32_000_000
"""How many bytes of values do."""
_STAGED_MILLISECONDS = b"600000"
"""How long what was staged waits for its commit."""


class Held(NamedTuple):
    """A lease that a commit proves and gives back."""

    sender: Sender
    key: bytes
    token: bytes


class _Staged(NamedTuple):
    """Entries of one hash that are on the server already, and become a part of it at the commit."""

    hash: bytes
    due: bytes
    absent: bool
    entries: int
    first: int

    def and_more(self, writes: Sequence[Write]) -> _Staged:
        """Returns the same with further entries."""
        first = min([self.first, *(write.at or 0 for write in writes)])
        return self._replace(entries=self.entries + len(writes), first=first)


class _Part:
    """What is written in one step: the writes themselves, and what was staged."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, Write]] = []
        self.staged: dict[tuple[Kind, Sender, bool], _Staged] = {}
        self.size = 0
        self.limit = _MANY
        self.again = True  # whether it may happen twice


class Commits:
    """The one way to write.

    Args:
        server: Where to.
        keys: The keys of the store.
        ttl: How long states are kept, in milliseconds, or nothing.
        clustered: Whether only what belongs to one sender can be written in one step.
    """

    def __init__(self, server: Server, keys: Keys, ttl: bytes, *, clustered: bool) -> None:
        self._server = server
        self._keys = keys
        self._ttl = ttl
        self._clustered = clustered

    def one_state(self, write: Write) -> list[int]:
        """Makes one write about states: the shortest way there is."""
        _, sender, name, value, at, expect = write
        text = encode_sender(sender)
        key = self._keys.of_text(text)
        anyhow = expect is ANYTHING
        if anyhow and name is not EVERY:
            if value is None:
                return [self._server.change(FORGET, (key,), (encode_field(name),), again=True)]
            if not self._ttl and isinstance(value, str):
                argv = (text, encode_field(name), encode_value(value, at))
                self._server.change(SET, (key,), argv, again=True)
                return [1]
        rest = (b"0", b"1", b"0", b"change", self._ttl, text, b"", b"1", *_encode(write))
        return _counts(self._server.change(WRITE, (key,), rest, again=anyhow))

    def make(self, writes: Iterable[Write], leases: Sequence[Held] = ()) -> list[int]:
        """Makes all writes if the leases are held, and gives these back.

        In a cluster each sender's are a step of their own: all are checked before any is made,
        and those of the leases' senders come last, that of the first lease after all others.

        Returns:
            As `Backend._commit`.
        """
        parts: dict[Sender, _Part] = {}
        try:
            counts = self._gather(writes, parts)
            steps = self._steps(parts, leases)
            if len(steps) > 1:
                for part, held in steps:
                    self._run(part, held, b"check")
            for part, held in steps:
                replies = self._run(part, held, b"change")
                for (number, _), count in zip(part.writes, replies, strict=False):
                    counts[number] = count
        except BaseException:
            self._drop_staged(parts.values())
            raise
        for part in parts.values():
            if part.staged:
                self._expand(part)
        return counts

    def _gather(self, writes: Iterable[Write], parts: dict[Sender, _Part]) -> list[int]:
        """Puts writes into the parts of a commit; returns what each counts if it is staged."""
        counts: list[int] = []
        for write in writes:
            whose = write.sender if self._clustered else None
            part = parts.get(whose)
            if part is None:
                part = parts[whose] = _Part()
            part.writes.append((len(counts), write))
            if isinstance(write.value, bytes):
                part.size += len(write.value)
            if write.expect is not ANYTHING:
                part.again = False
            counts.append(1)
            if len(part.writes) >= part.limit or part.size > _LARGE:
                self._stage(part)
        return counts

    def _steps(
        self, parts: dict[Sender, _Part], leases: Sequence[Held]
    ) -> list[tuple[_Part, Sequence[Held]]]:
        if not self._clustered:
            return [(part, leases) for part in parts.values()]
        own = {lease.sender for lease in leases}
        steps: list[tuple[_Part, Sequence[Held]]] = [
            (part, ()) for sender, part in parts.items() if sender not in own
        ]
        # The first one's sender is whom the mail is from.
        steps += [(parts.get(lease.sender, _Part()), (lease,)) for lease in reversed(leases)]
        return steps

    # ---------------------------------------------------------------- one step

    def _run(self, part: _Part, leases: Sequence[Held], mode: bytes) -> list[int]:
        keys, argv = self._arguments(part, leases, mode)
        send = self._server.change if mode == b"change" else self._server.run
        again = part.again and not (leases or part.staged)
        return _counts(send(WRITE, keys, argv, again=again))

    def _arguments(
        self, part: _Part, leases: Sequence[Held], mode: bytes
    ) -> tuple[list[bytes], list[bytes]]:
        """Returns KEYS and ARGV of `WRITE`."""
        hashes: dict[tuple[Kind, Sender], bytes] = {}
        dues: dict[bytes, bytes] = {}
        keys: list[bytes] = []
        about: list[bytes] = []

        def hash_of(kind: Kind, sender: Sender) -> bytes:
            number = hashes.get((kind, sender))
            if number is None:
                number = hashes[kind, sender] = b"%d" % (len(hashes) + 1)
                text = encode_sender(sender)
                keys.append(self._keys.of_text(text, kind))
                due = b"" if kind is Kind.STATE else b"0"
                if kind.due:
                    due = dues.setdefault(self._keys.due(keys[-1], kind), b"%d" % (len(dues) + 1))
                about.extend((text, due))
            return number

        argv: list[bytes] = []
        for _, write in part.writes:
            argv.append(hash_of(write.kind, write.sender))
            argv += _encode(write)
        staged: list[bytes] = []
        for (kind, sender, absent), each in part.staged.items():
            act = b"m-" if absent else b"m*"
            argv += [hash_of(kind, sender), b"%d" % (len(staged) + 1), act]
            argv += [b"%d" % each.first, b"%d" % each.entries]
            staged += [each.hash, each.due]
        names = [lease.key for lease in leases]
        numbers = [b"%d" % len(each) for each in (leases, hashes, dues)]
        tokens = [lease.token for lease in leases]
        return (
            [*names, *keys, *dues, *staged],
            [*numbers, mode, self._ttl, *tokens, *about, *argv],
        )

    # ---------------------------------------------------------------- more than a step holds

    def _stage(self, part: _Part) -> None:
        """Sends what can wait on the server, where much of it goes into one hash."""
        groups: dict[tuple[Kind, Sender, bool], list[Write]] = {}
        for _, write in part.writes:
            if _can_wait(write):
                group = (write.kind, write.sender, write.expect is ABSENT)
                groups.setdefault(group, []).append(write)
        least = len(part.writes) // 10
        large = {group: found for group, found in groups.items() if len(found) > least}
        for group, found in large.items():
            part.staged[group] = self._send(group, found, part.staged.get(group))
        gone = large.keys()
        part.writes = [
            (number, write)
            for number, write in part.writes
            if not (_can_wait(write) and (write.kind, write.sender, write.expect is ABSENT) in gone)
        ]
        part.limit = len(part.writes) + _MANY
        part.size = 0

    def _send(
        self, group: tuple[Kind, Sender, bool], writes: list[Write], staged: _Staged | None
    ) -> _Staged:
        kind, sender, absent = group
        key = self._keys.of(sender, kind)
        if staged is None:
            name = b"%b:%b" % (key, secrets.token_hex(16).encode())
            staged = _Staged(name, name + b":due", absent, 0, writes[0].at or 0)
        digest = key[len(self._keys.head) :].partition(b"}")[0] if kind.due else b""
        argv = [_STAGED_MILLISECONDS, digest]
        for write in writes:
            _, at, value = _encode(write)[1:]
            argv += [encode_field(str(write.name)), at, value]
        self._server.change(STAGE, (staged.hash, staged.due), argv, again=True)
        return staged.and_more(writes)

    def _drop_staged(self, parts: Iterable[_Part]) -> None:
        with suppress(*UNREACHABLE, StorageUnavailable):  # then it ends by itself
            for part in parts:
                for staged in part.staged.values():
                    self._server.run(DROP, (staged.hash, staged.due), ())

    def _expand(self, part: _Part) -> None:
        """Moves what is due to where the rest is; who looks there for it does what is left."""
        with suppress(*UNREACHABLE, StorageUnavailable):
            for (kind, sender, _), staged in part.staged.items():
                if kind.due:
                    due = self._keys.due(self._keys.of(sender, kind), kind)
                    argv = (self._keys.head, tail_of(kind), b"!" + staged.due)
                    while self._server.run(EXPAND, (due,), argv):
                        pass


def _counts(reply: Any) -> list[int]:
    """Returns what `WRITE` returned, or raises what it says."""
    if reply == LEASE_LOST:
        raise ConversationBusy(
            "the lease on a conversation was lost: this process or Redis stood still for longer "
            "than it lasts, and another mail of the sender may be in hand"
        )
    if reply == OVERTAKEN:
        raise Overtaken
    if reply == STAGED_LOST:
        raise StorageUnavailable(
            "a large commit took so long that Redis has forgotten its beginning: try again"
        )
    if reply and isinstance(reply[0], bytes):
        raise damaged(*reply)
    counts: list[int] = reply
    return counts


def _can_wait(write: Write) -> bool:
    """Returns whether a write can be staged: it makes an entry, whatever became of all before."""
    return (
        isinstance(write.value, bytes)
        and write.name is not EVERY
        and (write.expect is ANYTHING or write.expect is ABSENT)
    )


def _encode(write: Write) -> list[bytes]:
    """Returns field, what to do on what condition, time and value of a write, for `WRITE`."""
    kind, _, name, value, at, expect = write
    field = b"" if name is EVERY else encode_field(name)
    if value is CHECK or value is None:
        act = b"c" if value is CHECK else b"r"
        return [field, act + _condition(kind, expect), b"", b""]
    keeps = isinstance(expect, Seen) and expect.at == at
    act = (b"k" if keeps else b"w") + _condition(kind, expect)
    if isinstance(value, str):
        return [field, act, b"", encode_value(value, at)]
    return [field, act, encode_time(at), value]


def _condition(kind: Kind, expect: object) -> bytes:
    if not isinstance(expect, Seen):
        return b"*" if expect is ANYTHING else b"-"
    moment = b"*" if expect.at is ANYTHING else encode_time(expect.at)
    if expect.value is None:
        return b"?%b " % moment
    value = expect.value
    return b"=%b %b" % (moment, encode_state(value).encode() if isinstance(value, str) else value)
