"""Ports on loopback that answer, refuse, or keep whoever dials them waiting."""

from __future__ import annotations

import socket


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def port_of_free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return port_of(made)


class full_listener:  # noqa: N801 - it reads as a function
    """A port on loopback that answers no more: what it has room for is taken."""

    def __enter__(self) -> int:
        self.made = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.held: list[socket.socket] = []
        while True:
            client = socket.socket()
            client.settimeout(0.2)
            self.held.append(client)
            try:
                client.connect(self.made.getsockname())
            except TimeoutError:
                return port_of(self.made)

    def __exit__(self, *_: object) -> None:
        for each in (*self.held, self.made):
            each.close()
