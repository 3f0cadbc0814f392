"""The demo upstream: a provider that needs no account, no network and no model.

It is a real HTTP server on loopback that speaks chat completions, completions, embeddings, responses, Anthropic
messages, models, moderations, audio, files and realtime sessions (texts over a websocket) well enough for the
providers' own SDKs. Its answers are deterministic and quote what it received, so that a user sees what masking did: the
last thing the user said, the system prompt if there is one, what a tool answered. When tools are offered it calls the
first one (or the one that ``tool_choice`` names) with arguments that quote the user; in JSON mode the quote stands in
JSON that follows the schema.

Every model name is accepted. ``n``, ``max_tokens`` (answers are cut with ``finish_reason: length``), ``stop``,
``stream_options.include_usage`` and ``encoding_format`` do what they say. A token is four characters or less, which
cuts words in the middle on purpose.

Headers ask for trouble, so that anyone can watch breakers, retries and timeouts work:

    x-demo-latency: 200ms          wait before the head of the answer
    x-demo-delay: 50ms             wait before each event of a stream
    x-demo-status: 429             answer with this error status
    x-demo-retry-after: 2          and this Retry-After (as it is: seconds or a date)
    x-demo-code: quota_exceeded    and this error code
    x-demo-fail: orders=2          the first 2 requests of the series ``orders`` fail (with x-demo-status, else 503)
    x-demo-cut: 3                  break the connection after 3 events of a stream, or in the middle of a whole body
    x-demo-stall: 3                go silent after 3 events of a stream, or before a whole answer
    x-demo-tokens: 500             an answer of this many tokens
    x-demo-usage: none             leave token counts out

Run it in a process of its own with ``llm-sidecar demo --port N``.
"""

from proxy.demo.server import Demo

__all__ = ["Demo"]
