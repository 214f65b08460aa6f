"""What `StateStorage.check` goes through: all that is kept, each entry looked up again."""

from __future__ import annotations

from collections.abc import Iterator

from salmon_state.backend import Backend
from salmon_state.entries import Entry, Kind, Where
from salmon_state.errors import StorageError, StorageUnavailable

__all__ = ["find_damage"]


def find_damage(store: Backend) -> Iterator[str]:
    """Yields a sentence for each thing that is damaged; see `StateStorage.check`.

    Raises:
        StorageUnavailable: The store cannot be read now.
    """
    try:
        yield from store._examine()
    except Exception as error:  # noqa: BLE001 - a driver may raise anything
        yield _damage(store, error)
    for kind in Kind:
        try:
            yield from _of_kind(store, kind)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            yield _damage(store, error)


def _of_kind(store: Backend, kind: Kind) -> Iterator[str]:
    after = None
    while True:
        page = store._page(kind, Where(), after)
        wrong = [entry for entry in page.entries if not _is_found(store, entry)]
        # What was changed since the page was read is not there any more as it was.
        still = store._page(kind, Where(), after).entries if wrong else []
        for entry in wrong:
            if entry in still:
                place = f"{entry.name[:200]!r} of {(entry.sender or '')[:200]!r}"
                yield (
                    f"{kind.name} {place} is listed, and not found when it is looked up: what "
                    "leads to it is damaged; set it anew, or restore a copy"
                )
        after = page.after
        if after is None:
            return


def _is_found(store: Backend, entry: Entry) -> bool:
    try:
        return bool(store._find(*entry[:3]) == entry.value)
    except StorageUnavailable:
        raise
    except StorageError:
        return False


def _damage(store: Backend, error: Exception) -> str:
    """Returns what is damaged; raises what is not damage."""
    explained = error if isinstance(error, StorageError) else store._explain(error)
    if isinstance(error, NotImplementedError) or isinstance(explained, StorageUnavailable):
        store._raise(error)
    return store._mask(str(explained))
