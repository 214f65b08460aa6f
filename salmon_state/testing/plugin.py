"""The pytest plugin for applications: a test with a store of its own in Salmon's router.

pytest finds it by itself when salmon-state is installed. A test that asks for `state_store` has a
fresh store in ``Router.STATE_STORE``, and after it the router is as it was::

    def test_subscribing(state_store):
        RouterConversation("anna@example.com", "hello").say("list@example.com", "subscribe")
        assert state_store.get("app.handlers", "anna@example.com") == "CONFIRMING"

The store is ``memory://`` unless the ini option ``salmon_state_url`` or, for some tests, a fixture
`state_store_url` of the application says otherwise. A store that keeps something is not cleared:
give it a place of its own, as with ``f"sqlite:///{tmp_path}/states.db"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from salmon_state.storage import StateStorage

__all__ = ["state_store", "state_store_url"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the ini option; called by pytest."""
    parser.addini("salmon_state_url", "store of the fixture state_store", default="memory://")


@pytest.fixture
def state_store_url(pytestconfig: pytest.Config) -> str:
    """Returns the URL that `state_store` opens; override it to test with another store."""
    return str(pytestconfig.getini("salmon_state_url"))


@pytest.fixture
def state_store(state_store_url: str) -> Iterator[StateStorage]:
    """Puts a store into ``Router.STATE_STORE`` for one test, and restores the router after it.

    Restored is every attribute of the router, such as ``LOG_EXCEPTIONS``, ``UNDELIVERABLE_QUEUE``
    or a ``deliver`` that was attached, and every route, handler and default capture that it had.
    What the test added to these stays: a handler module is imported once, and would never
    register its routes again. The store is closed.
    """
    from salmon.routing import Router  # Salmon is imported by whoever uses the fixture

    from salmon_state.registry import open_storage

    before = dict(vars(Router))
    contents = {name: before[name].copy() for name in before if type(before[name]) in (dict, list)}
    with open_storage(state_store_url) as store:
        Router.STATE_STORE = store
        try:
            yield store
        finally:
            vars(Router).clear()
            vars(Router).update(before)
            for name, content in contents.items():
                _put_back(before[name], content)


def _put_back(container: dict[Any, Any] | list[Any], content: Any) -> None:
    if isinstance(container, dict):
        container.update(content)
    else:
        container[:] = [*content, *(item for item in container if item not in content)]
