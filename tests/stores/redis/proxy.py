"""A server in between that loses replies and delays requests, as no real server does when asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Passes everything on, until told to let go of a connection.

    Attributes:
        port: Where it listens.
        target: The port that new connections lead to.
        cut: What decides, for each portion from the server, whether the connection ends before
            it is passed on; it is given the client's last portion and the server's.
        hold: What decides, for each portion from the client, whether it is kept until `let_go`.
        connections: How many connections there were.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut: Callable[[bytes, bytes], bool] = lambda asked, answered: False
        self.hold: Callable[[bytes], bool] = lambda asked: False
        self.connections = 0
        self._free = threading.Event()
        self._held: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends it and all its connections."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def let_go(self) -> None:
        """Passes on what was held by clients that have gone, and waits until the server is done."""
        self._free.set()
        for connection in self._held:
            connection.join(60)
            assert not connection.is_alive(), "the server did not end a connection"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [client, server]
                asked: list[bytes] = [b""]
                ends = (client, server, asked)
                down = threading.Thread(target=self._down, args=ends, daemon=True)
                threading.Thread(target=self._up, args=(*ends, down), daemon=True).start()
                down.start()

    def _up(
        self,
        client: socket.socket,
        server: socket.socket,
        asked: list[bytes],
        down: threading.Thread,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                asked[0] = data
                if self.hold(data):
                    self._held.append(down)
                    self._free.wait()
                    server.sendall(data)
                    break  # whoever sent it has gone
                server.sendall(data)
        with contextlib.suppress(OSError):  # its answers are still to come
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket, asked: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.cut(asked[0], data):
                    break
                with contextlib.suppress(OSError):  # it has gone, and the server goes on
                    client.sendall(data)
        self._end(client, server)

    def _end(self, *sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
