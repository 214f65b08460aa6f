"""A server in between that loses replies, for what no real server does when asked to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Passes everything on, until told to let go of a connection.

    Attributes:
        port: Where it listens.
        cut: What decides, for each portion from the server, whether the connection ends before
            it is passed on; it is given the client's last portion and the server's.
        connections: How many connections there were.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut: Callable[[bytes, bytes], bool] = lambda asked, answered: False
        self.connections = 0
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends it and all its connections."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                asked: list[bytes] = [b""]
                threading.Thread(target=self._up, args=(client, server, asked), daemon=True).start()
                threading.Thread(
                    target=self._down, args=(client, server, asked), daemon=True
                ).start()

    def _up(self, client: socket.socket, server: socket.socket, asked: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                asked[0] = data
                server.sendall(data)
        self._end(client, server)

    def _down(self, client: socket.socket, server: socket.socket, asked: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.cut(asked[0], data):
                    break
                client.sendall(data)
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
