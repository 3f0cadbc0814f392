"""answer_limit: no answer is longer than so many characters; the model is told so beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from proxy.errors import ProxyError
from proxy.policy import Policy, PolicyOptions, Stage, Stop

if TYPE_CHECKING:
    from proxy.exchange import Answer, Exchange
    from proxy.stream.sse import Event


class AnswerLimitOptions(PolicyOptions):
    """Options of `answer_limit`: what YAML may say, checked when the configuration is loaded."""

    chars: int = Field(default=4000, ge=1, description="Longest answer, in characters.")
    tell: bool = Field(default=True, description="Tell the model with a system prompt.")


class AnswerLimit(Policy):
    """Refuses answers that are too long, and ends streams when they become so."""

    name = "answer_limit"
    Options = AnswerLimitOptions
    edits_request: ClassVar[bool] = True  # part of the cache's key: another limit is another question
    options: AnswerLimitOptions

    def on_request(self, exchange: Exchange) -> Answer | None:
        tree = exchange.tree  # the parsed body; None where it is no JSON that is understood
        if tree is None or exchange.body is None or exchange.dialect is None or not self.options.tell or self.observe:
            return None
        exchange.dialect.add_system(tree, f"Answer in at most {self.options.chars} characters.")
        exchange.body.touch()  # from now on the tree is what is sent, not the bytes received
        return None

    def on_response(self, exchange: Exchange, answer: Answer) -> Answer | None:
        if answer.failed or answer.body is None or exchange.dialect is None:
            return None
        texts = exchange.dialect.answer_texts(answer.body.lenient())
        length = sum(len(slot.text) for slot in texts)
        if length > self.options.chars:
            self._refuse(exchange, length)
        return None

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        return None if answer.failed else Counter(self, exchange)

    def _refuse(self, exchange: Exchange, length: int) -> None:
        if self.observe:
            exchange.note(self.label, f"would refuse an answer of {length} characters")
            return
        raise ProxyError("policy_refused", f"The answer is longer than {self.options.chars} characters.")


class Counter(Stage):
    """Lets a stream pass until it is too long. Holds nothing back and does no I/O."""

    def __init__(self, policy: AnswerLimit, exchange: Exchange) -> None:
        self._policy = policy
        self._exchange = exchange
        self._length = 0

    def feed(self, event: Event) -> Sequence[Event] | Stop:
        assert self._exchange.dialect is not None
        before = self._length
        for piece in self._exchange.dialect.read(event).pieces:
            if not piece.whole:  # the responses API repeats each text when it is complete
                self._length += len(piece.text)
        limit = self._policy.options.chars
        if before <= limit < self._length:  # once, also in observe mode
            try:
                self._policy._refuse(self._exchange, self._length)
            except ProxyError as error:
                return Stop(error)  # the upstream is cancelled, the client sees the error as its last event
        return (event,)
