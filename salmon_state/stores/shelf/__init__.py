"""ShelveStorage: Python's shelve, for the processes of one machine."""

from salmon_state.stores.shelf.store import ShelveStorage

__all__ = ["ShelveStorage"]
