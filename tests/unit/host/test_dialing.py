"""Connecting to a host: what each connection of ours is like."""

import socket

import pytest

from vmkeep.clock import unwatched
from vmkeep.host.dialing import dial

pytestmark = pytest.mark.quick


def test_a_connection_sends_at_once_what_it_is_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with dial("127.0.0.1", port, 5.0, unwatched) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.gettimeout() == 5.0
