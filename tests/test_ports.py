"""`tapewatch.ports`: which port a server of our own is given."""

from __future__ import annotations

import socket

import pytest

from tapewatch import ports
from tapewatch.errors import MachineError
from tapewatch.ports import free_port


def test_it_is_the_wanted_one_where_it_is_free() -> None:
    port = free_port()
    assert free_port(port) == port


def test_it_is_another_where_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)


def test_it_is_below_those_of_connections_that_go_out() -> None:
    assert {free_port() in ports._PORTS for _ in range(20)} == {True}


def test_that_there_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError("Address already in use")

    monkeypatch.setattr(socket, "socket", Full)
    with pytest.raises(MachineError, match="There is no free port on this machine for a server of our own"):
        free_port()
