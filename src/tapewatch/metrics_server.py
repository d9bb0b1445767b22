"""`/metrics` of the processes that have no page: `tapewatch feed` and `tapewatch spark`, on loopback.

Spark's Python workers are processes of their own: what they count is gathered through files in a folder, by the
library's own means for that (prometheus_client's multi-process mode). It has to be chosen before the first metric is
made, so `tapewatch.metrics` is imported here only afterwards.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tapewatch.errors import MachineError

__all__ = ["SHARED", "served", "shared"]

SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The library's name for the folder; set in this process and its children while metrics are shared."""
HOST: Final = "127.0.0.1"


@contextmanager
def served(port: int | None) -> Iterator[None]:
    """Show this process's metrics at that port of loopback; with None nowhere.

    Raises:
        MachineError: the port cannot be listened on.
    """
    with _listening(port, is_shared=False):
        yield


@contextmanager
def shared(port: int | None) -> Iterator[None]:
    """The same, together with those of the processes that this one starts. Before the first metric is made.

    Raises:
        MachineError: the port cannot be listened on.
    """
    if port is None:
        yield
        return
    assert "prometheus_client" not in sys.modules, (
        "the way in which metrics are kept is chosen before the first of them"
    )
    with tempfile.TemporaryDirectory(prefix="tapewatch-metrics-") as folder:
        os.environ[SHARED] = folder
        try:
            with _listening(port, is_shared=True):
                yield
        finally:
            del os.environ[SHARED]


@contextmanager
def _listening(port: int | None, *, is_shared: bool) -> Iterator[None]:
    if port is None:
        yield
        return
    from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = REGISTRY
    if is_shared:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    try:
        server, thread = start_http_server(port, HOST, registry)
    except OSError as error:
        raise MachineError(
            f"METRICS_PORT={port}: {HOST} cannot listen there ({error.strerror}): choose a port of its own for "
            "each process, or leave it out"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
