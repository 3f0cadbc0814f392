"""What the tests of policies share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.errors import ProxyError

Refusal = Callable[[Awaitable[Any]], Awaitable[ProxyError]]


@pytest.fixture
def refusal() -> Refusal:
    """Awaits what must refuse and returns the error."""

    async def run(what: Awaitable[Any]) -> ProxyError:
        with pytest.raises(ProxyError) as caught:
            await what
        return caught.value

    return run
