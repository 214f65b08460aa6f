"""What doctor finds in the application: its handlers, its router, its log."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from click import ClickException
from salmon.routing import Router

from salmon_state.findings import Finding
from salmon_state.log import log
from salmon_state.mail.delivery import is_attached
from salmon_state.operate.given import imported
from salmon_state.operate.output import shown
from salmon_state.storage import StateStorage

__all__ = ["diagnose_application", "diagnose_states"]

_ERROR = "ERROR"
"""What Salmon puts a conversation into whose handler raised."""
_WHERE = "run this where the application is"
_NAMED = 20
"""How many modules are named that are no handlers: an application may make a key for each list."""


def diagnose_states(store: StateStorage, modules: Sequence[str]) -> Iterator[Finding]:
    """Yields the states that no function handles, whose mail reaches nobody, and those in ERROR.

    Args:
        store: Where the states are.
        modules: The handler modules, which are imported; without any only ERROR is looked for.
    """
    found = store.records(state=None if modules else _ERROR)
    counts = Counter((record.module, record.state) for record in found)
    functions = {}
    for module in modules:
        try:
            functions[module] = vars(imported(module))
        except ClickException as error:
            yield Finding("states", error.message, _WHERE)
    others: Counter[str] = Counter()
    for (module, state), count in sorted(counts.items()):
        if module in functions:
            there = callable(functions[module].get(state))
            yield _of_state(module, state, count, there=there)
        elif state == _ERROR:
            yield _of_state(module, state, count, there=True)
        if modules and module not in modules:
            others[module] += count
    for module, count in others.most_common(_NAMED):
        text = f"conversations with {shown(module)}, which is none of the handlers: {count:,}"
        yield Finding("states", f"{text} (has it a new name? salmon-state rename-module)")
    if not modules:
        text = "not compared with the handlers: say --handlers MODULE, where the application is"
        yield Finding("states", text)


def _of_state(module: str, state: str, count: int, *, there: bool) -> Finding:
    text = f"conversations with {shown(module)} in {shown(state)}: {count:,}"
    if state == _ERROR:
        advice = (
            f"a handler raised: mend it, then salmon-state rename {_quoted(module)} ERROR START"
        )
    elif there:
        advice = ""
    else:
        text += ", which no function handles"
        advice = f"salmon-state rename {_quoted(module)} {_quoted(state)} NEW"
    return Finding("states", text, advice)


def _quoted(name: str) -> str:
    """Returns a name as a shell takes it: an application may make it of what a mail says."""
    return shlex.quote(shown(name))


def diagnose_application(boot: str) -> Iterator[Finding]:
    """Yields what an application lacks once it is ready.

    Args:
        boot: The module that makes it ready, which is imported.
    """
    try:
        imported(boot)
    except ClickException as error:
        yield Finding("application", error.message, _WHERE)
        return
    storage = Router.STATE_STORE
    ours = isinstance(storage, StateStorage)
    text = f"Router.STATE_STORE is {storage!r:.200}" if ours else "Router.STATE_STORE is Salmon's"
    advice = "" if ours else f"in {boot}: Router.STATE_STORE = open_storage(...)"
    yield Finding("application", text, advice)
    attached = is_attached(Router)
    text = f"the router is {'attached' if attached else 'not attached: no mail is a conversation'}"
    yield Finding("application", text, "" if attached else f"in {boot}: attach(Router)")
    heard = _is_heard(log())
    text = f"warnings of the logger salmon_state reach {'a' if heard else 'no'} handler"
    advice = "give the root logger a handler, of level WARNING or lower"
    yield Finding("application", text, "" if heard else advice)


def _is_heard(logger: logging.Logger) -> bool:
    """Returns whether a warning of a logger is written anywhere."""
    if not logger.isEnabledFor(logging.WARNING):
        return False
    above: logging.Logger | None = logger
    while above is not None:
        for handler in above.handlers:
            if handler.level <= logging.WARNING and not isinstance(handler, logging.NullHandler):
                return True
        above = above.parent if above.propagate else None
    return False
