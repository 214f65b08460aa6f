"""What doctor finds in the application: its handlers, its router, its log."""

from __future__ import annotations

import logging
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

_WHERE = "run this where the application is"


def diagnose_states(store: StateStorage, modules: Sequence[str]) -> Iterator[Finding]:
    """Yields the states that no function handles: their mail reaches nobody.

    Args:
        store: Where the states are.
        modules: The handler modules, which are imported.
    """
    for module in modules:
        try:
            functions = vars(imported(module))
        except ClickException as error:
            yield Finding("states", error.message, _WHERE)
            continue
        counts = Counter(record.state for record in store.records(module=module))
        for state, count in sorted(counts.items()):
            yield _of_state(module, state, count, there=callable(functions.get(state)))


def _of_state(module: str, state: str, count: int, *, there: bool) -> Finding:
    text = f"conversations with {module} in {shown(state)}: {count:,}"
    if state == "ERROR":
        advice = f"a handler raised: mend it, then salmon-state rename {module} ERROR START"
    elif there:
        advice = ""
    else:
        text += ", which no function handles"
        advice = f"salmon-state rename {module} {shown(state)} NEW"
    return Finding("states", text, advice)


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
