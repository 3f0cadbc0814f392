"""Answers and errors for several callers: each is given its own, because it is edited on its way up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.document import Document
from proxy.errors import ProxyError
from proxy.exchange import Answer

if TYPE_CHECKING:
    from proxy.stream.fanout import Subscription

__all__ = ["again", "copy", "streaming"]


def copy(answer: Answer) -> Answer:
    body = answer.body
    return Answer(
        answer.status,
        list(answer.headers),
        origin=answer.origin,
        body=None if body is None else Document(body.encode()),
        raw=answer.raw,
        error=None if answer.error is None else again(answer.error),
        encoding=answer.encoding,
        content_length=answer.content_length,
    )


def streaming(answer: Answer, subscription: Subscription) -> Answer:
    return Answer(
        answer.status,
        list(answer.headers),
        origin=answer.origin,
        source=subscription,
        events=answer.events,
        encoding=answer.encoding,
        content_length=answer.content_length,
    )


def again(error: ProxyError) -> ProxyError:
    """The same error for another caller: errors are edited on their way up, so each gets its own."""
    other = ProxyError(
        error.code,
        error.message,
        param=error.param,
        retry_after=error.retry_after,
        policy=error.policy,
        headers=error.headers,
    )
    other.should_retry = error.should_retry
    return other
