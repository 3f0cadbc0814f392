"""The options of ``validate``; their descriptions are its reference."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from proxy.config.base import Texts
from proxy.policy import PolicyOptions


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise PydanticCustomError("range", "must be [lowest, highest]")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Count = Annotated[int, Field(ge=1, le=2**53)]


class Limits(PolicyOptions):
    """What a request may ask for. The defaults refuse what no provider accepts; lower them to your needs."""

    max_messages: Count = Field(10_000, description="Messages of a conversation, or items of a responses input.")
    max_input_chars: Count | None = Field(
        None, description="Characters of all texts together (messages, prompt, input, instructions). Default: no limit."
    )
    max_output_tokens: Count | None = Field(
        None, description="Highest max_tokens, max_completion_tokens or max_output_tokens. Default: no limit."
    )
    max_tools: Count = Field(512, description="Tools or functions offered to the model.")
    max_choices: Count = Field(128, description="Highest n (and best_of): answers asked for at once.")
    max_inputs: Count = Field(2048, description="Inputs of one embeddings call, or prompts of one completions call.")
    max_stop: Count = Field(64, description="Stop sequences.")
    temperature: Range = Field((0.0, 2.0), description="Lowest and highest temperature.")
    top_p: Range = Field((0.0, 1.0), description="Lowest and highest top_p.")
    extra_roles: Texts = Field((), description="Roles that messages may have besides those of the API.")
