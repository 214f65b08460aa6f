"""The pytest plugin for applications: a test with a store of its own in Salmon's router.

pytest finds it by itself when salmon-state is installed. A test that asks for `state_store` has a
fresh store in ``Router.STATE_STORE``, attached as in production: each mail is one conversation.
After it the router is as it was::

    def test_subscribing(state_store):
        RouterConversation("anna@example.com", "hello").say("list@example.com", "subscribe")
        assert state_store.get("app.handlers", "anna@example.com") == "CONFIRMING"

The store is ``memory://`` unless the ini option ``salmon_state_url`` or, for some tests, a fixture
`state_store_url` of the application says otherwise. In both ``{tmp_path}`` stands for the directory
of the test. Without it all tests have the same place: it is cleared after each of them, and what
is not empty before is left alone and fails the test, as it may be a store that is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from salmon_state.storage import StateStorage

__all__ = ["state_store", "state_store_url"]

# For those who write stores.
pytest_plugins = ["salmon_state.testing.asking", "salmon_state.testing.report"]

_TMP_PATH = "{tmp_path}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the ini option; called by pytest."""
    parser.addini(
        "salmon_state_url",
        "store of the fixture state_store, such as sqlite:///{tmp_path}/states.db",
        default="memory://",
    )


@pytest.fixture
def state_store_url(pytestconfig: pytest.Config) -> str:
    """Returns the URL that `state_store` opens; override it to test with another store."""
    return str(pytestconfig.getini("salmon_state_url"))


@pytest.fixture
def state_store(state_store_url: str, request: pytest.FixtureRequest) -> Iterator[StateStorage]:
    """Attaches an empty store to Salmon's router for one test, and restores the router after.

    Restored is every attribute of the router, such as ``LOG_EXCEPTIONS``, ``UNDELIVERABLE_QUEUE``
    or a ``deliver`` that was attached, and every route, handler and default capture that it had.
    What the test added to these stays: a handler module is imported once, and would never
    register its routes again. The store is emptied and closed.
    """
    from salmon.routing import Router  # Salmon is imported by whoever uses the fixture

    from salmon_state.mail.delivery import attach
    from salmon_state.registry import open_storage

    before = dict(vars(Router))
    contents = {name: before[name].copy() for name in before if type(before[name]) in (dict, list)}
    url = state_store_url
    if _TMP_PATH in url:
        url = url.replace(_TMP_PATH, str(request.getfixturevalue("tmp_path")))
    with open_storage(url) as store:
        _check_empty(store)
        try:
            attach(Router, store)
            yield store
        finally:
            vars(Router).clear()
            vars(Router).update(before)
            for name, content in contents.items():
                _put_back(before[name], content)
    with open_storage(url) as store:  # anew: the test may have closed the other one
        store.clear()


def _check_empty(store: StateStorage) -> None:
    """Fails the test unless the store is empty.

    It is not emptied before: whoever gives the URL of the wrong store loses nothing.
    """
    found = next(iter(store), None)
    if found is not None:
        pytest.fail(
            f"{store!r} is to be a test's own and is not empty ({found}): clear() it if nobody "
            f"needs that, or have {_TMP_PATH} in its URL",
            pytrace=False,
        )


def _put_back(container: dict[Any, Any] | list[Any], content: Any) -> None:
    if isinstance(container, dict):
        container.update(content)
    else:
        container[:] = [*content, *(item for item in container if item not in content)]
