"""Holds a running server to its own `/openapi.json`, with requests that schemathesis makes up.

check_api("http://127.0.0.1:8787/")  raises with the request that was answered wrongly.
"""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


def check_api(url: str, examples: int = 40, token: str | None = None) -> int:
    """No 5xx, and every answer is what the schema says. Returns how many operations were asked."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # The stream never ends, so it is tested by reading it.
    schema = schemathesis.openapi.from_url(f"{url}openapi.json", headers=headers).exclude(path="/api/v1/stream")
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            response = case.call(headers=headers, timeout=120)
            case.validate_response(response, checks=CHECKS, headers=headers)

        ask()
        asked += 1
    return asked
