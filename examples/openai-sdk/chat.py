"""Three calls with the OpenAI SDK; nothing here knows of the proxy but OPENAI_BASE_URL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from openai import OpenAI


def main(say: Callable[[str], Any] = sys.stdout.write) -> None:
    """A whole answer, a streamed one, and the first one again with a look at its headers."""
    client = OpenAI()
    question: Any = [{"role": "user", "content": "Write to jane.doe@example.com"}]
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=question)
    say(f"{whole.choices[0].message.content}\n")

    with client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Call +49 30 901820 before noon"}],
        stream=True,
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                say(choice.delta.content or "")
    say("\n")

    again = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=question)
    say(f"attempts: {again.headers['x-sidecar-attempts']}, cache: {again.headers['x-sidecar-cache']}\n")


if __name__ == "__main__":
    main()
