"""ConversationModelTests: long random runs of conversations, compared with a stack of dicts."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from salmon_state.conversation import Conversation
from salmon_state.keys import Sender
from salmon_state.testing.model import run_model
from salmon_state.testing.suite import OpenStore, StoreSuite, contents

__all__ = ["ConversationMachine", "ConversationModelTests"]

Key = tuple[str, Sender]

modules = st.sampled_from(["one", "two"])
senders = st.sampled_from(["a@x", "b@x", None])
states = st.sampled_from([ROUTE_FIRST_STATE, "A", "B"])


class ConversationMachine(RuleBasedStateMachine):
    """Does the same in conversations and in a stack of dicts, one for each layer."""

    open_store: OpenStore

    def __init__(self) -> None:
        super().__init__()
        self.store = self.open_store()
        self.store.clear()
        self.committed: dict[Key, str] = {}
        self.layers: list[dict[Key, str]] = []
        self.conversations: list[Conversation] = []

    def teardown(self) -> None:
        """Leaves what is still entered, and closes the store."""
        while self.conversations:
            self.conversations.pop().__exit__(None, None, None)
        self.store.close()

    @property
    def seen(self) -> dict[Key, str]:
        """What the store must show to this thread."""
        return self.layers[-1] if self.layers else self.committed

    def put(self, key: Key, state: str) -> None:
        """Sets a state in the model."""
        self.seen.pop(key, None)
        if state != ROUTE_FIRST_STATE:
            self.seen[key] = state

    @precondition(lambda self: len(self.layers) < 4)
    @rule(sender=senders)
    def enter(self, sender: Sender) -> None:
        """Enters a conversation, perhaps inside another one."""
        self.conversations.append(self.store.conversation(sender, timeout=0).__enter__())
        self.layers.append(dict(self.seen))

    @precondition(lambda self: self.layers)
    @rule(error=st.sampled_from([None, ValueError(), SMTPError(550)]))
    def leave(self, error: Exception | None) -> None:
        """Leaves it so that its writes stay."""
        kind = None if error is None else type(error)
        self.conversations.pop().__exit__(kind, error, None)
        layer = self.layers.pop()
        if self.layers:
            self.layers[-1] = layer
        else:
            self.committed = layer

    @precondition(lambda self: self.layers)
    @rule(error=st.sampled_from([SMTPError(451), SystemExit()]))
    def drop(self, error: BaseException) -> None:
        """Leaves it with what makes the mail come again."""
        self.conversations.pop().__exit__(type(error), error, None)
        self.layers.pop()

    @rule(module=modules, sender=senders, state=states)
    def set(self, module: str, sender: Sender, state: str) -> None:
        """`set`, inside or outside."""
        self.store.set(module, sender, state)
        self.put((module, sender), state)

    @rule(module=modules, sender=senders, expected=states, state=states)
    def compare_and_set(self, module: str, sender: Sender, expected: str, state: str) -> None:
        """`compare_and_set`, inside or outside."""
        key = module, sender
        happens = self.seen.get(key, ROUTE_FIRST_STATE) == expected
        assert self.store.compare_and_set(module, sender, expected, state) is happens
        if happens:
            self.put(key, state)

    @rule(sender=senders, state=states)
    def set_all(self, sender: Sender, state: str) -> None:
        """`set_all`, inside or outside."""
        keys = [key for key in self.seen if key[1] == sender]
        assert self.store.set_all(sender, state) == len(keys)
        for key in keys:
            self.put(key, state)

    @rule(sure=st.sampled_from([False] * 19 + [True]))
    def clear(self, sure: bool) -> None:
        """`clear`, seldom: nothing is left, in no layer."""
        if sure:
            self.store.clear()
            self.committed = {}
            self.layers = [{} for _ in self.layers]

    @invariant()
    def same_as_the_model(self) -> None:
        """The thread sees the innermost layer, and the store holds what is committed."""
        for module in ("one", "two"):
            for sender in ("a@x", "b@x", None):
                expected = self.seen.get((module, sender), ROUTE_FIRST_STATE)
                assert self.store.get(module, sender) == expected
        assert contents(self.store) == self.committed


class ConversationModelTests(StoreSuite):
    """Hypothesis runs conversations over the store and over dicts.

    Attributes:
        conversation_runs: How many runs, each starting with an empty store.
        conversation_steps: The longest run.
    """

    conversation_runs = 100
    conversation_steps = 30

    def test_conversations_behave_like_a_stack_of_dicts(self, open_store: OpenStore) -> None:
        """No sequence of entering, writing, leaving and dropping tells them apart."""
        run_model(ConversationMachine, open_store, self.conversation_runs, self.conversation_steps)
