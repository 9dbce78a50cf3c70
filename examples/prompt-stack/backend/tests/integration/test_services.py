"""The services that a pipeline may put beside the tests."""

import os

import pytest
import redis


@pytest.mark.skipif("REDIS_URL" not in os.environ, reason="no Redis beside the tests")
def test_redis_answers() -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        assert client.ping()
