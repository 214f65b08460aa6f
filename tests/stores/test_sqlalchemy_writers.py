"""What a store does with a server beside which others write."""

from __future__ import annotations

import glob
from collections.abc import Iterator

import pytest

from salmon_state import ConfigurationError, SQLAlchemyStorage
from tests.services import MariaDBServer, Missing, free_port, provide


class GaleraNode(MariaDBServer):
    """The first node of a Galera cluster."""

    def __init__(self) -> None:
        found = glob.glob("/usr/lib*/galera*/libgalera_smm.so")
        if not found:
            raise Missing("galera-4 is not installed")
        self.library = found[0]
        self.group_port = free_port()
        super().__init__(durable=False)

    def command(self) -> list[str]:
        port = self.group_port
        return [
            *super().command(),
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={self.library}",
            "--wsrep-cluster-address=gcomm://",
            f"--wsrep-node-address=127.0.0.1:{port}",
            f"--wsrep-provider-options=base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port}",
        ]


@pytest.fixture
def galera() -> Iterator[MariaDBServer]:
    yield from provide(GaleraNode)


def test_a_node_of_a_galera_cluster_is_refused(galera: MariaDBServer) -> None:
    """The lock of a conversation would be that node's own."""
    with pytest.raises(ConfigurationError, match=r"Galera cluster.*one writable server"):
        SQLAlchemyStorage(galera.fresh_database())
