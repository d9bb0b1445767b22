"""How this program logs: in every process alike, Spark's workers too."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog

from tapewatch.settings import Settings

__all__ = ["start_logging", "start_logging_at"]


def start_logging(settings: Settings) -> None:
    """Lines of key=value on standard error; no local variables, which may hold secrets, in a traceback."""
    start_logging_at(settings.log_level)


def start_logging_at(log_level: str) -> None:
    """The same, for a process that has no settings."""
    level = getattr(logging, log_level.upper())
    render: Callable[..., Any] = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
