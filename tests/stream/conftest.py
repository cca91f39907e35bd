"""What the tests of the pipeline share."""

import pytest

from stream.publish import free_endpoint


@pytest.fixture
def endpoint() -> str:
    return free_endpoint()
