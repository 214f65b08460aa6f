"""What a store may be able to do: what asks for it, in which order, and where it is promised."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ABILITIES", "Ability", "ability_of"]


class Ability(NamedTuple):
    """Something that a store can do."""

    name: str
    contract: str
    """Where it is written what the store owes: a docstring of `salmon_state`."""
    tests: tuple[str, ...]
    """What proves it: modules of this package; or tests, which count for no other ability."""
    declared: str = ""
    """The attribute by which the store says whether it has it; without one, all have it."""


# The quick and general ones first: this is the order in which they are asked for.
ABILITIES: tuple[Ability, ...] = (
    Ability("get, set, compare_and_set", "StateStorage.get, set, compare_and_set", ("states",)),
    Ability("ping, close, repr", "StateStorage.ping, close, key", ("lifecycle",)),
    Ability("records", "StateStorage.records", ("records",)),
    Ability("set_all, rename, purge, clear", "StateStorage.set_all, rename, purge", ("sweeps",)),
    Ability("entries of every kind", "Backend._load, _find, _commit", ("expectations",)),
    Ability("large values", "Backend._commit, _find", ("test_a_large_value",)),
    Ability(
        "several entries in one commit",
        "Backend._commit",
        ("commits", "test_a_file_that_cannot_be_changed"),
    ),
    Ability(
        "several senders in one commit",
        "Backend.spans_senders",
        ("test_senders_in_one_commit",),
        declared="spans_senders",
    ),
    Ability("pages, and what is due", "Backend._page, _sweep, _claim", ("pages",)),
    Ability("tidying up after many changes", "StateStorage", ("churn",)),
    Ability("exact keys", "StateStorage", ("hostile",)),
    Ability("any sequence of calls", "StateStorage", ("model",)),
    Ability("one commit for each mail", "StateStorage.conversation", ("units",)),
    Ability("conversations in one another", "StateStorage.conversation", ("layers",)),
    Ability("any sequence in a mail", "StateStorage.conversation", ("conversation_model",)),
    Ability("a sender's lock between threads", "Backend._lock", ("sender_locks",)),
    Ability("Salmon's router", "salmon_state.attach", ("router",)),
    Ability(
        "rows of handlers in its transaction",
        "Conversation.connection",
        ("rows",),
        declared="has_connection",
    ),
    Ability("threads", "StateStorage", ("threads",)),
    Ability(
        "found after reopening and SIGKILL",
        "StateStorage, Backend._commit",
        ("durable", "test_sigkill_between_the_files_of_a_commit"),
    ),
    Ability("files of its own", "docs/writing-a-store.md", ("files",)),
    Ability("its place away, full or damaged", "Backend._explain", ("faults",)),
    Ability("processes", "StateStorage", ("shared",)),
    Ability("claims and commits between processes", "Backend._claim", ("shared_entries",)),
    Ability(
        "a sender's lock between processes",
        "Backend._lock, locks_processes",
        ("conversations",),
        declared="locks_processes",
    ),
    Ability("other Pythons", "salmon_state.keys", ("versions",)),
)

_BY_TEST = {test: ability for ability in ABILITIES for test in ability.tests}


def ability_of(module: str, test: str) -> Ability:
    """Returns what a test is about.

    Args:
        module: Of this package, without its name.
        test: The name of the function.

    Raises:
        KeyError: No ability has either.
    """
    return _BY_TEST[test] if test in _BY_TEST else _BY_TEST[module]
