"""copy: everything from one store into another, and the proof that it is all there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import click

from salmon_state.entries import Entry, Kind, Seen, Write, in_order
from salmon_state.errors import ConfigurationError, Overtaken
from salmon_state.keys import Sender
from salmon_state.operate.given import Given, confirm, open_existing
from salmon_state.operate.mirror import Digest, entries_of, fingerprint, size
from salmon_state.operate.output import progress
from salmon_state.operate.sources import opened_source
from salmon_state.registry import open_storage
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS", "Copy"]

_PASSES = 5
"""After so many, what changes meanwhile does not become less."""
_AT_ONCE, _BYTES_AT_ONCE = 1_000, 4_000_000
"""How many entries are written in one commit, and with how much in them."""
_SHORTEST, _LONGEST = 2.0, 30.0
"""Between which the pause is, in seconds, unless somebody says how long it may be."""

Step = Callable[[], object]
"""Called for each entry that was read; what it raises ends the work, and can go on later."""


class _TooLong(Exception):
    """Writers have waited for as long as they may."""


class Copy:
    """One store being made equal to another, and what it took.

    Args:
        source: Which is read.
        target: Which is written, by nobody else.
        step: Called after each entry that was read.
        tell: Called with what an operator has to know at once.
        pause: For how many seconds who writes into the source may be kept waiting; 0 for not;
            ``None`` for half as long again as it takes to read the source, 2 at least and 30 at
            most.

    Attributes:
        passes: How often the source was gone through to write.
        written: How many entries were written, some of them several times.
        removed: How many were removed from the target because the source had them no more.
        paused: For how many seconds who writes was kept waiting.
        ours: The digest of the source.
        theirs: The digest of the target.
        equal: Whether both held the same at one moment.
    """

    def __init__(
        self,
        source: StateStorage,
        target: StateStorage,
        *,
        step: Step = int,
        tell: Callable[[str], object] = str,
        pause: float | None = 0,
    ) -> None:
        self._source, self._target = source, target
        self._step, self._tell, self._pause = step, tell, pause
        self.passes = self.written = self.removed = 0
        self.paused = self._reading = 0.0
        self.ours = self.theirs = Digest()
        self.equal = False

    def run(self) -> None:
        """Copies until both are equal, or what changes in the source does not become less.

        Stopped anywhere, it has done a part, and the next one does the rest.
        """
        self._compare()
        before: int | None = None
        while self.passes < _PASSES:
            changed = self._pass()
            # What changes while the source is read is either found, or changed after all of this.
            self.equal = not changed and self.ours == self.theirs
            if self.equal or (before is not None and changed * 2 > before):
                break
            before = changed
        if not self.equal and self._pause != 0:
            self._finish()

    def _pass(self) -> int:
        """Makes the target hold what the source does; returns how many entries had to change."""
        before = self.written + self.removed
        self._write(self._step)
        if self.ours != self.theirs:
            self._compare()
        return self.written + self.removed - before

    def _write(self, step: Step) -> None:
        """Writes what the source has and the target has not, over what is there."""
        self.passes += 1
        began = time.monotonic()
        ours, waiting, size = Digest(), {}, 0
        for entry in entries_of(self._source):
            step()
            number = fingerprint(entry)
            ours.add(number)
            if number not in self.theirs:
                waiting[entry[:3]] = entry  # the last, if it was changed and is listed again
                size += len(entry.value)
                if len(waiting) == _AT_ONCE or size > _BYTES_AT_ONCE:
                    self._commit(waiting)
                    size = 0
        self._commit(waiting)
        ours.seal()
        self.ours = ours
        self._reading = time.monotonic() - began

    def _commit(self, waiting: dict[tuple[Kind, Sender, str], Entry]) -> None:
        for part in self._target._atomic([*waiting.values()]):
            writes = in_order(Write(*entry) for entry in part)
            self._target._call(self._target._commit, writes)
            self.written += len(part)
        waiting.clear()

    def _compare(self) -> None:
        """Reads the target, and removes what the source had not when it was read."""
        theirs = Digest()
        for entry in entries_of(self._target):
            self._step()
            number = fingerprint(entry)
            if not self.passes or number in self.ours or not self._remove(entry):
                theirs.add(number)
        theirs.seal()
        self.theirs = theirs

    def _remove(self, entry: Entry) -> bool:
        write = Write(*entry[:3], None, None, Seen(at=entry.at))
        try:
            self.removed += self._target._call(self._target._commit, (write,))[0]
        except Overtaken:  # somebody uses the target
            return False
        return True

    def _finish(self) -> None:
        """Copies once more, what the source holds while nobody writes into it."""
        pause = self._pause
        if pause is None:
            pause = max(_SHORTEST, 1.5 * self._reading)
            if pause > _LONGEST:
                self._tell(
                    f"FROM takes {self._reading:.0f} s to read: that is too long to keep others "
                    f"waiting unasked; stop what writes into it, or say --pause {pause:.0f}"
                )
                return
        in_time = False
        try:
            with self._source.paused(pause):
                began = time.monotonic()
                self._tell(f"who writes into FROM waits now, for {pause:.3g} s at most")
                in_time = self._write_within(pause)
            self.paused = time.monotonic() - began
            self._tell(f"who writes into FROM went on after {self.paused:.2f} s")
        except NotImplementedError as error:
            self._tell(f"{error}")
        if in_time:
            self._compare()
            self.equal = self.ours == self.theirs

    def _write_within(self, seconds: float) -> bool:
        """Writes what differs; returns whether it was done in time."""
        deadline = time.monotonic() + seconds

        def step() -> None:
            self._step()
            if time.monotonic() > deadline:
                raise _TooLong

        with suppress(_TooLong):
            self._write(step)
            return time.monotonic() <= deadline
        return False


@click.command(short_help="Move to another store, while mail is handled.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--pause",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    show_default="half as long again as FROM takes to read, 2 to 30",
    help="For how long at most who writes into FROM waits at the end, if something writes; on "
    "Redis whoever writes into that server. 0 for not at all.",
)
@click.option("--dry-run", is_flag=True, help="Copy nothing; say what there is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def copy(
    given: Given, source: str, target: str, pause: float | None, dry_run: bool, yes: bool
) -> None:
    """Make the store TO hold what the store FROM holds, both given as URLs.

    States and all else, each with its time. Stopped at any moment, it is run again and does the
    rest. While mail is handled, what changes is copied again, and at the end those who write into
    FROM wait while it is read once more, so that both can be compared. Nobody may use TO yet: it
    takes over after a last run with the server stopped.

    FROM may be a shelf of Salmon's own store, shelve:///PATH (salmon+shelve:///PATH if Python 3.13
    or later wrote it), or librelist+URL, librelist's table in a database. Both stay as they are.

    Exit status 1 if the two are not equal in the end.
    """
    if dry_run:
        with opened_source(source) as old:
            total, there = size(old), _size_of_existing(target)
            sentence = f"{total:,} entries in {old!r}; in TO: {there:,}"
            given.say(sentence, entries=total, before=there, equal=None)
        return
    with opened_source(source) as old, open_storage(target) as new:
        total, there = size(old), size(new)
        if there and not total:
            raise ConfigurationError(
                f"{old!r} is empty, and {new!r} is not: if that is meant, clear it"
            )
        if there:
            confirm(
                f"TO, {new!r}, has {there:,} entries: write over them, and remove what FROM has "
                "not?",
                yes=yes,
            )
        # To write, and to read both for the comparison: if nothing changes meanwhile.
        with progress("entries read", there + 3 * total) as step:
            work = Copy(old, new, step=step, tell=_tell, pause=pause)
            work.run()
    outcome = "equal" if work.equal else "NOT equal: run it again, at last while nothing writes"
    given.say(
        f"entries: {work.theirs.entries:,}; written: {work.written:,}; removed: "
        f"{work.removed:,}; passes: {work.passes}; the stores are {outcome}",
        entries=work.theirs.entries,
        before=there,
        written=work.written,
        removed=work.removed,
        passes=work.passes,
        paused=round(work.paused, 3),
        equal=work.equal,
    )
    if not work.equal:
        raise SystemExit(1)


def _size_of_existing(url: str) -> int:
    """Returns how many entries there are in a store that may not exist yet."""
    try:
        with open_existing(url) as store:
            return size(store)
    except ConfigurationError:
        return 0


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)


COMMANDS = (copy,)
