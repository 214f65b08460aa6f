"""SQLAlchemyStorage: states in a SQL database, shared by processes and machines."""

from salmon_state.stores.sqlalchemy.schema import SCHEMA_VERSION, make_metadata
from salmon_state.stores.sqlalchemy.store import SQLAlchemyStorage

__all__ = ["SCHEMA_VERSION", "SQLAlchemyStorage", "make_metadata"]
