"""schemathesis against the running API: no 5xx, and answers match the schema."""

from __future__ import annotations

import asyncio

import pytest
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import JsonSchemaError

from api_checks import check_api
from serve_fake import FakeMarket, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("token", [None, "k" * 40])
def test_the_api_keeps_its_schema(token: str | None) -> None:
    async def scenario() -> int:
        async with running(FakeMarket(["AAPL", "BTC"], minutes=30), api_token=token) as (server, _):
            return await asyncio.to_thread(check_api, server.url, token=token)

    assert asyncio.run(scenario()) > 12


def test_an_answer_that_breaks_the_schema_is_noticed() -> None:
    """The canary: a store that gives a price as text."""

    class Wrong(FakeMarket):
        async def stocks(self) -> list[dict[str, object]]:
            return [{**row, "ma_5min": "high"} for row in await super().stocks()]

    async def scenario() -> None:
        async with running(Wrong(["AAPL"], minutes=5)) as (server, _):
            await asyncio.to_thread(check_api, server.url, examples=5)

    with pytest.raises(FailureGroup) as caught:
        asyncio.run(scenario())
    assert [type(e) for e in caught.value.exceptions] == [JsonSchemaError]
