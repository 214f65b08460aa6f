"""From writes to the script that makes them: all in one step, or in a cluster those of a sender."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import TryAgainError

from salmon_state.entries import ABSENT, ANYTHING, CHECK, EVERY, STATE, Kind, Seen, Write
from salmon_state.errors import ConversationBusy, Overtaken, StorageUnavailable
from salmon_state.keys import Sender
from salmon_state.leases import Lease
from salmon_state.stores.encoding import encode_state
from salmon_state.stores.redis.entries import (
    Keys,
    damaged,
    encode_field,
    encode_sender,
    encode_time,
    encode_value,
    is_index,
    lease_of,
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
    Script,
)
from salmon_state.stores.redis.servers import UNREACHABLE, Server

__all__ = ["Commits"]

_MANY = 1000
"""How many writes go into one script; what is more is staged."""
_LARGE = 32_000_000
"""How many bytes of values do."""
_STAGED_MILLISECONDS = b"600000"
"""How long what was staged waits for its commit."""


class _Group:
    """The writes about one hash, and what of them waits on the server already.

    What was staged is a hash of its own, which becomes a part of this one at the commit.
    """

    def __init__(self, keys: Keys, kind: Kind, sender: Sender) -> None:
        self.key = keys.of(sender, kind)
        self.text = encode_sender(sender)
        self.due = b"state" if kind is STATE else b""
        if kind.due:
            self.due = keys.due(self.key, kind)
        self.writes: list[tuple[int, list[bytes]]] = []  # each with its number in the commit
        self.staged = self.act = b""
        self.first = self.entries = 0

    def can_wait(self, write: Sequence[bytes]) -> bool:
        """Returns whether a write makes an entry of its own, whatever became of all before."""
        return self.due != b"state" and write[0] != b"" and write[1] in (b"w*", b"w-")

    def arguments(self) -> list[bytes]:
        """Returns the part of the ARGV of `WRITE` that is about this."""
        argv = [self.text, self.due, b"%d" % (len(self.writes) + bool(self.staged))]
        for _, write in self.writes:
            argv += write
        if self.staged:
            argv += [self.staged, self.act, b"%d" % self.first, b"%d" % self.entries]
        return argv


class _Part:
    """What is written in one step."""

    def __init__(self) -> None:
        # What waits is either new, or whatever was there before: this is told for all of it.
        self.groups: dict[tuple[Kind, Sender, bool], _Group] = {}
        self.count = self.size = 0
        self.limit = _MANY
        self.again = True  # whether it may happen twice

    def add(self, keys: Keys, number: int, write: Write) -> bool:
        """Adds a write; returns whether something must be staged before the next one."""
        kind, sender, _, value, _, expect = write
        name = kind, sender, expect is ABSENT
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = _Group(keys, kind, sender)
        group.writes.append((number, _encode(write)))
        self.count += 1
        if isinstance(value, bytes):
            self.size += len(value)
        if expect is not ANYTHING:
            self.again = False
        return self.count >= self.limit or self.size > _LARGE


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
        key, text = self._keys.of(sender), encode_sender(sender)
        anyhow = expect is ANYTHING
        keys = self._keys.index(key), key
        if anyhow and name is not EVERY:
            if value is None:
                return [self._change(FORGET, keys, (encode_field(name),), again=True)]
            if not self._ttl and isinstance(value, str):
                argv = (text, encode_field(name), encode_value(value, at))
                self._change(SET, keys, argv, again=True)
                return [1]
        rest = (b"change", self._ttl, b"0", text, b"state", b"1", *_encode(write))
        return _counts(self._change(WRITE, keys, rest, again=anyhow))

    def make(self, writes: Iterable[Write], leases: Sequence[Lease] = ()) -> list[int]:
        """Makes all writes if the leases are held, and gives these back.

        In a cluster each sender's are a step of their own: all are checked before any is made,
        and those of the leases' senders come last, that of the first lease after all others.

        Returns:
            As `Backend._commit`.
        """
        parts: dict[Sender, _Part] = {}
        try:
            counts = [1] * self._gather(writes, parts)  # what is staged counts so
            steps = self._steps(parts, leases)
            if len(steps) > 1:
                for part, held in steps:
                    self._run(part, held, b"check")
            for part, held in steps:
                replies = iter(self._run(part, held, b"change"))
                for group in part.groups.values():
                    for number, _ in group.writes:
                        counts[number] = next(replies)
                    if group.staged:
                        next(replies)
        except BaseException:
            self._drop_staged(parts.values())
            raise
        return counts

    def _gather(self, writes: Iterable[Write], parts: dict[Sender, _Part]) -> int:
        """Puts writes into the parts of a commit; returns how many there are."""
        count = 0
        for write in writes:
            whose = write.sender if self._clustered else None
            part = parts.get(whose)
            if part is None:
                part = parts[whose] = _Part()
            if part.add(self._keys, count, write):
                self._stage(part)
            count += 1
        return count

    def _steps(
        self, parts: dict[Sender, _Part], leases: Sequence[Lease]
    ) -> list[tuple[_Part, Sequence[Lease]]]:
        if not self._clustered:
            return [(part, leases) for part in parts.values()]
        own = {lease.sender for lease in leases}
        steps: list[tuple[_Part, Sequence[Lease]]] = [
            (part, ()) for sender, part in parts.items() if sender not in own
        ]
        # The first one's sender is whom the mail is from.
        steps += [(parts.get(lease.sender, _Part()), (lease,)) for lease in reversed(leases)]
        return steps

    def _run(self, part: _Part, leases: Sequence[Lease], mode: bytes) -> list[int]:
        keys = [lease_of(self._keys.of(lease.sender)) for lease in leases]
        argv = [mode, self._ttl, b"%d" % len(leases), *[lease.token for lease in leases]]
        again = part.again and not leases
        indexes = set()
        for group in part.groups.values():
            keys.append(group.key)
            argv += group.arguments()
            again = again and not group.staged
            if group.due == b"state":
                indexes.add(self._keys.index(group.key))
        if mode == b"check":
            return _counts(self._server.run(WRITE, keys, argv, again=again))
        return _counts(self._change(WRITE, [*indexes, *keys], argv, again=again))

    def _change(
        self, script: Script, keys: Sequence[bytes], argv: Sequence[bytes], *, again: bool
    ) -> Any:
        """Runs a script that keeps the index, if that is the first of its keys."""
        try:
            return self._server.change(script, keys, argv, again=again)
        except TryAgainError:
            index, *others = keys
            if not is_index(index):
                raise
        # The slot moves to another server, and the hash is where the index is not, or there is
        # none. Whoever looks something up or has made it must know before that not all is in it.
        if self._server.read(index, (b"TYPE", index)) != b"none":
            self._server.read(index, (b"ZREM", index, b"whole", b"building"))
        return self._server.change(script, others, argv, again=again)

    # ---------------------------------------------------------------- more than a step holds

    def _stage(self, part: _Part) -> None:
        """Sends what can wait on the server, where much of it goes into one hash."""
        least = part.count // 10
        part.count = part.size = 0
        for group in part.groups.values():
            waiting = [each for _, each in group.writes if group.can_wait(each)]
            if len(waiting) > least:
                self._send(group, waiting)
                group.writes = [each for each in group.writes if not group.can_wait(each[1])]
            part.count += len(group.writes)
        part.limit = part.count + _MANY

    def _send(self, group: _Group, writes: Sequence[Sequence[bytes]]) -> None:
        is_due = group.due != b""
        first = min(int(at) for _, _, at, _ in writes) if is_due else 0
        if not group.staged:
            group.staged = secrets.token_hex(16).encode()
            group.act, group.first = b"m" + writes[0][1][1:], first
        group.first = min(group.first, first)
        group.entries += len(writes)
        argv = [_STAGED_MILLISECONDS, b"due" if is_due else b""]
        for field, _, at, value in writes:
            argv += [field, at, value]
        self._server.change(STAGE, _staged_keys(group), argv, again=True)

    def _drop_staged(self, parts: Iterable[_Part]) -> None:
        with suppress(*UNREACHABLE, StorageUnavailable):  # then it ends by itself
            for part in parts:
                for group in part.groups.values():
                    if group.staged:
                        self._server.run(DROP, _staged_keys(group), ())


def _staged_keys(group: _Group) -> list[bytes]:
    name = b"%b:%b" % (group.key, group.staged)
    return [name, name + b":due"]


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


def _encode(write: Write) -> list[bytes]:
    """Returns field, what to do on what condition, time and value of a write, for `WRITE`."""
    _, _, name, value, at, expect = write
    field = b"" if name is EVERY else encode_field(name)
    if value is CHECK or value is None:
        act = b"c" if value is CHECK else b"r"
        return [field, act + _condition(expect), b"", b""]
    keeps = isinstance(expect, Seen) and expect.at == at
    act = (b"k" if keeps else b"w") + _condition(expect)
    if isinstance(value, str):
        return [field, act, b"", encode_value(value, at)]
    return [field, act, encode_time(at), value]


def _condition(expect: object) -> bytes:
    if not isinstance(expect, Seen):
        return b"*" if expect is ANYTHING else b"-"
    moment = b"*" if expect.at is ANYTHING else encode_time(expect.at)
    if expect.value is None:
        return b"?%b " % moment
    value = expect.value
    return b"=%b %b" % (moment, encode_state(value).encode() if isinstance(value, str) else value)
