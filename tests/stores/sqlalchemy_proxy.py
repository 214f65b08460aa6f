"""A proxy in front of a database server that counts how often the client waits for an answer."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

__all__ = ["CountingProxy"]


class CountingProxy:
    """Passes everything on; `trips` counts what was asked, however many packets that took.

    A round trip begins when the client sends something after the server has spoken, or at first.

    Args:
        port: The port of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.trips = 0
        self.connections = 0
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._server.getsockname()[1]
        self._other: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._asking: set[socket.socket] = set()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> CountingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for each in (self._server, self._wake, self._woken, *self._other):
            each.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if source is self._woken:
                        return
                    if source is self._server:
                        self._connect(selector)
                    elif source in self._other:
                        self._pass_on(selector, source)

    def _connect(self, selector: selectors.BaseSelector) -> None:
        client, _ = self._server.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        self.connections += 1
        self._clients.add(client)
        self._other |= {client: server, server: client}
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(each, selectors.EVENT_READ)

    def _pass_on(self, selector: selectors.BaseSelector, source: socket.socket) -> None:
        other = self._other[source]
        try:
            data = source.recv(1 << 20)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (source, other):
                selector.unregister(each)
                self._other.pop(each)
                self._clients.discard(each)
                self._asking.discard(each)
                with contextlib.suppress(OSError):
                    each.close()
        elif source not in self._clients:
            self._asking.discard(other)
        elif source not in self._asking:
            self._asking.add(source)
            self.trips += 1
