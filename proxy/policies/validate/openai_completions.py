"""What a legacy completions request must look like. Source: OpenAI's API reference, "Create completion"."""

from __future__ import annotations

from typing import Final

from proxy.policies.validate import checks
from proxy.policies.validate.checks import Check, Json
from proxy.policies.validate.limits import Limits
from proxy.policies.validate.openai_chat import SAMPLING

FIELDS: Final[dict[str, Check]] = {
    **SAMPLING,
    "max_tokens": checks.output_tokens(0),  # with echo, 0 asks for the prompt's log probabilities
    "best_of": checks.choices,
    "echo": checks.boolean,
    "logprobs": checks.integer(0, 100),
    "suffix": checks.text,
}


def body(tree: dict[str, Json], limits: Limits) -> int:
    """The prompt, which has a default at the provider. Returns its characters; raises ProxyError."""
    prompt = tree.get("prompt")
    return 0 if prompt is None else checks.many_inputs(prompt, "prompt", limits)
