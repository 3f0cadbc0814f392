"""Which calls a model works for: only they are estimated, reserved for and charged.

Reading what is stored costs nothing, however much usage stands in it: that was paid when it was made. Neither does what
providers give for nothing (counting tokens, moderations) or only write down (assistants, jobs). A path that nobody
knows is taken for one where a model works: a call must not be free because its path is new.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["works"]

_FREE: Final = re.compile(
    r"/(?:messages/+count_tokens|responses/+input_tokens|responses/+[^/]+/+cancel|moderations|assistants(?:/+[^/]+)?"
    r"|fine_tuning/.*|files(?:/.*)?|uploads(?:/.*)?|vector_stores(?:/.*)?|batches(?:/.*)?|messages/+batches(?:/.*)?)/*$"
)


@lru_cache(maxsize=1_024)
def works(method: str, path: str) -> bool:
    """Whether a model works for a call of this method and path.

    >>> works("POST", "/v1/chat/completions"), works("POST", "/v1/moderations"), works("GET", "/v1/responses/resp_1")
    (True, False, False)
    """
    return method == "POST" and _FREE.search(path) is None
