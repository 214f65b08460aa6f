"""copy: everything from one store into another, and the proof that it is all there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress

import click

from salmon_state.errors import ConfigurationError
from salmon_state.operate.given import Given, confirm, open_existing
from salmon_state.operate.mirror import ALL, Digest, Step, digest, remove, size, write
from salmon_state.operate.output import progress
from salmon_state.operate.sources import opened_source
from salmon_state.registry import open_storage
from salmon_state.storage import StateStorage

__all__ = ["COMMANDS", "Copy"]

_PASSES = 5
"""After so many, what changes meanwhile does not become less."""


class _TooLong(Exception):
    """Writers have waited for as long as they may."""


class Copy:
    """One store being made equal to another, and what it took.

    Args:
        source: Which is read.
        target: Which is written, by nobody else.
        step: Called after each entry that was read.
        tell: Called with what an operator has to know at once.
        pause: For how many seconds who writes into the source may be kept waiting; 0 for not.

    Attributes:
        passes: How often the source was gone through to write.
        written: How many entries were written, some of them several times.
        removed: How many were removed from the target because the source had them no more.
        paused: For how many seconds who writes was kept waiting.
        ours: The digest of the source.
        theirs: The digest of the target.
    """

    def __init__(
        self,
        source: StateStorage,
        target: StateStorage,
        *,
        step: Step = int,
        tell: Callable[[str], object] = str,
        pause: float = 0,
    ) -> None:
        self._source, self._target = source, target
        self._step, self._tell, self._pause = step, tell, pause
        self.passes = self.written = self.removed = 0
        self.paused = 0.0
        self.theirs = digest(target, step)
        self.ours: Digest | None = None

    @property
    def equal(self) -> bool:
        """Whether both held the same at one moment."""
        return self.ours is not None and self.ours.buckets == self.theirs.buckets

    def run(self) -> None:
        """Copies until both are equal, or what changes in the source does not become less.

        Stopped anywhere, it has done a part, and the next one does the rest.
        """
        before: int | None = None
        while self.passes < _PASSES:
            changed = self._pass(self._step)
            if self.equal or (before is not None and changed * 2 > before):
                break
            before = changed
        if not self.equal and self._pause:
            self._finish()

    def _pass(self, step: Step) -> int:
        """Makes the target hold what the source does; returns how many entries had to change."""
        self.passes += 1
        known = self.theirs.entries or self.passes > 1  # at first there is nothing to compare
        ours = digest(self._source, step) if known else None
        different = ALL if ours is None else ours.differing(self.theirs)
        written = removed = 0
        if different:
            written = write(self._source, self._target, different, step)
            self.theirs = digest(self._target, step)
        different = set() if ours is None else ours.differing(self.theirs)
        if different:
            removed = remove(self._source, self._target, different, step)
            self.theirs = digest(self._target, step)
        self.ours = ours
        self.written += written
        self.removed += removed
        return written + removed

    def _finish(self) -> None:
        """Copies once more while nobody writes into the source."""
        deadline = math.inf

        def in_time() -> None:
            self._step()
            if time.monotonic() > deadline:
                raise _TooLong

        try:
            with self._source.paused():
                began = time.monotonic()
                deadline = began + self._pause
                self._tell(f"who writes into FROM waits now, for {self._pause:g} s at most")
                with suppress(_TooLong):
                    self._pass(in_time)
            self.paused = time.monotonic() - began
            self._tell(f"who writes into FROM went on after {self.paused:.2f} s")
        except NotImplementedError as error:
            self._tell(f"{error}")


@click.command(short_help="Make one store hold what another one holds.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--pause",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="For how many seconds at most who writes into FROM waits at the end, if something writes.",
)
@click.option("--dry-run", is_flag=True, help="Copy nothing; say what there is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def copy(given: Given, source: str, target: str, pause: float, dry_run: bool, yes: bool) -> None:
    """Make the store TO hold what the store FROM holds, both given as URLs.

    States and all else, each with its time. Stopped at any moment, it is run again and does the
    rest. While mail is handled, what changes is copied again, and at the end those who write into
    FROM wait a moment, so that both can be compared. Nobody may use TO yet: it takes over after a
    last run with the server stopped.

    FROM may be salmon+shelve:///PATH, a shelf of Salmon's own store, or librelist+URL, librelist's
    table in a database. Both stay as they are.

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
                f"{new!r} has {there:,} entries: write over them, and remove what {old!r} has not?",
                yes=yes,
            )
        # To write, and to read both for the comparison: if nothing changes meanwhile.
        with progress("entries read", there + 3 * total) as step:
            work = Copy(old, new, step=step, tell=_tell, pause=pause)
            work.run()
    outcome = "equal" if work.equal else f"NOT equal: FROM has {work.ours}; TO has {work.theirs}"
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
