"""The conformance kit: proves that a store keeps its promises.

Whoever writes a store subclasses the suites that name what it can do, and gives one fixture::

    from functools import partial

    import pytest

    from salmon_state import open_storage
    from salmon_state.testing import SharedStoreSuites


    class TestMyStore(SharedStoreSuites):
        @pytest.fixture
        def open_store(self, tmp_path):
            return partial(open_storage, f"mine:///{tmp_path}/states")

`SharedStoreSuites` are for a store that processes share, `EveryStoreSuites` for one that ends with
its process. Both are made of these, and whoever can do something else subclasses them one by one:
an ability that the store does not have is a suite that it does not subclass.

=========================  =====================================================================
`ContractSuite`            what every method of `StateStorage` promises
`EntrySuite`               the hooks, with entries of every kind: expectations, pages, claims
`HostileKeySuite`          whatever a sender puts into an address, no two conversations meet
`ModelSuite`               Hypothesis compares long random runs with a plain dict
`RouterSuite`              Salmon's own router and testing tools work with the store
`ThreadSuite`              one store, many threads
`DurableSuite`             what was set is found after reopening, and after SIGKILL in mid-write
`SharedSuite`              several processes have the store open at the same time
`SharedEntrySuite`         the same with several processes: claims, sweeps, SIGKILL in a commit
`ConversationSuite`        one mail is one unit of work: lock, snapshot, one commit
`SharedConversationSuite`  the lock of a conversation holds between processes
`RowSuite`                 handlers write rows of their own in the transaction of a mail
`FileSuite`                a store's files are nobody else's, wherever the process goes
`FaultSuite`               the place of a store is away, full or damaged
`VersionSuite`             what one version of Python wrote, another one reads
=========================  =====================================================================

`HOSTILE_KEYS` are the keys that all of this is tried with. The fixture is described by
`StoreSuite`, which every suite builds on; numbers such as `DurableSuite.kills` are class
attributes, so that a longer run is a subclass. `salmon_state.testing.plugin` is the pytest plugin
for applications.

The suites need ``pip install pytest hypothesis``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salmon_state.testing.contract import ContractSuite
    from salmon_state.testing.conversations import ConversationSuite, SharedConversationSuite
    from salmon_state.testing.durable import DurableSuite
    from salmon_state.testing.entries import EntrySuite
    from salmon_state.testing.faults import FaultSuite
    from salmon_state.testing.files import FileSuite
    from salmon_state.testing.hostile import HostileKeySuite
    from salmon_state.testing.keys import HOSTILE_KEYS
    from salmon_state.testing.model import ModelSuite
    from salmon_state.testing.router import RouterSuite
    from salmon_state.testing.rows import Rows, RowSuite
    from salmon_state.testing.shared import SharedSuite
    from salmon_state.testing.shared_entries import SharedEntrySuite
    from salmon_state.testing.suite import OpenStore, StoreSuite
    from salmon_state.testing.threads import ThreadSuite
    from salmon_state.testing.together import EveryStoreSuites, SharedStoreSuites
    from salmon_state.testing.versions import VersionSuite

__all__ = [
    "HOSTILE_KEYS",
    "ContractSuite",
    "ConversationSuite",
    "DurableSuite",
    "EntrySuite",
    "EveryStoreSuites",
    "FaultSuite",
    "FileSuite",
    "HostileKeySuite",
    "ModelSuite",
    "OpenStore",
    "RouterSuite",
    "RowSuite",
    "Rows",
    "SharedConversationSuite",
    "SharedEntrySuite",
    "SharedStoreSuites",
    "SharedSuite",
    "StoreSuite",
    "ThreadSuite",
    "VersionSuite",
]

# Imported on first use, because the kit's worker processes, the plugin and other Pythons come
# through this package as well: they would pay for pytest and Hypothesis, or not have them.
_HOMES = {
    "HOSTILE_KEYS": "keys",
    "ContractSuite": "contract",
    "ConversationSuite": "conversations",
    "DurableSuite": "durable",
    "EntrySuite": "entries",
    "EveryStoreSuites": "together",
    "FaultSuite": "faults",
    "FileSuite": "files",
    "HostileKeySuite": "hostile",
    "ModelSuite": "model",
    "OpenStore": "suite",
    "RouterSuite": "router",
    "RowSuite": "rows",
    "Rows": "rows",
    "SharedConversationSuite": "conversations",
    "SharedEntrySuite": "shared_entries",
    "SharedStoreSuites": "together",
    "SharedSuite": "shared",
    "StoreSuite": "suite",
    "ThreadSuite": "threads",
    "VersionSuite": "versions",
}
# Whose assertions pytest shall explain: the parts of a suite are imported by its module.
_CONTRACT = ("lifecycle", "records", "states", "sweeps")
_ENTRIES = ("churn", "commits", "expectations", "pages")
_CONVERSATION = ("conversation_model", "endings", "layers", "sender_locks", "units")
_ASSERTING = (*_HOMES.values(), *_CONTRACT, *_ENTRIES, *_CONVERSATION)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import hypothesis  # noqa: F401
        import pytest
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{__name__}.{name} needs pytest and hypothesis, and {error.name!r} is missing: "
            "pip install pytest hypothesis"
        ) from error
    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _not_yet_imported()))
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def _not_yet_imported() -> list[str]:
    # Pytest warns when it is asked for a module that it can no longer rewrite.
    return [module for module in _ASSERTING if module not in globals()]


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
