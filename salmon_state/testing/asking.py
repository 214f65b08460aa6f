"""What pytest does with the tests of the kit: their order, and how it tells of failures."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence

import pytest

from salmon_state.testing.abilities import ABILITIES, Ability, ability_of

__all__ = ["ability_in", "asked", "name_of_store"]

_KIT = __name__.rpartition(".")[0]


def asked(item: pytest.Item) -> Ability | None:
    """Returns what a test asks of a store; ``None`` if it is none of the kit's."""
    suites = sys.modules.get(f"{_KIT}.suite")
    cls = getattr(item, "cls", None)
    if suites is None or cls is None or not issubclass(cls, suites.StoreSuite):
        return None
    return ability_in(cls, item.function.__name__)  # type: ignore[attr-defined]


def ability_in(cls: type, test: str) -> Ability | None:
    """Returns what a test asks for in a class; ``None`` if the kit has no such test."""
    for base in cls.__mro__:  # whoever overrides a test asks what it asked
        package, _, module = base.__module__.rpartition(".")
        if test in vars(base) and package == _KIT:
            return ability_of(module, test)
    return None


def name_of_store(cls: type) -> str:
    """Returns what the store is called that a class of the kit's tests is about."""
    return str(getattr(cls, "store_name", None) or cls.__name__.removeprefix("Test"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the quick and general tests of each class come first.

    Pytest has those of the base that is named last come first.
    """
    places: dict[object, list[int]] = {}
    for number, item in enumerate(items):
        if asked(item) is not None:
            places.setdefault(item.parent, []).append(number)
    for numbers in places.values():
        for number, item in zip(numbers, _in_order([items[n] for n in numbers]), strict=True):
            items[number] = item


def _in_order(items: Sequence[pytest.Item]) -> Sequence[pytest.Item]:
    def rank(item: pytest.Item) -> int:
        ability = asked(item)
        assert ability is not None
        return ABILITIES.index(ability)

    return sorted(items, key=rank)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Has a failure say first what the store did wrong, and where the contract is."""
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        ability = asked(pyfuncitem)
        if ability is None:
            raise
        promise = (pyfuncitem.function.__doc__ or pyfuncitem.name).partition("\n")[0]
        said = f"{type(error).__name__}: {error}" if type(error) is not AssertionError else error
        broken = AssertionError(
            f"{name_of_store(type(pyfuncitem.instance))} breaks the contract of "
            f"{ability.contract}: {promise}\n{said}"
        )
        notes = getattr(error, "__notes__", ())  # how Hypothesis got there
        vars(broken).update({"__notes__": [*notes]} if notes else {})
        several = hasattr(error, "exceptions")  # that Hypothesis found
        raise broken.with_traceback(error.__traceback__) from error if several else error.__cause__
