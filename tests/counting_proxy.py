"""A TCP proxy that counts round trips: how often the client spoke after the server had spoken."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class CountingProxy:
    """Stands between a client and a server on loopback, for one connection or for many.

    Attributes:
        port: Where it listens.
        trips: How many round trips there were on all connections.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.trips = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open += [client, server]
                answered = threading.Event()
                answered.set()
                for pump in (
                    threading.Thread(target=self._up, args=(client, server, answered)),
                    threading.Thread(target=self._down, args=(server, client, answered)),
                ):
                    self._threads.append(pump)
                    pump.start()

    def _up(self, client: socket.socket, server: socket.socket, answered: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if answered.is_set():  # more of the same request is no new round trip
                    answered.clear()
                    self.trips += 1
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(
        self, server: socket.socket, client: socket.socket, answered: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                answered.set()
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)

    def break_connections(self) -> None:
        """Cuts every connection in the middle, as a network that fails does."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> CountingProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_connections()
        for thread in self._threads:
            thread.join(60)
        for end in self._open:
            end.close()
