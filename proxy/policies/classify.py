"""classify: gives a call its tags (task, domain, urgency, any others) from what it says and what it looks like.

What is declared wins: the client's `x-sidecar-task` and `x-sidecar-tags`, and the caller's own tags; then the body's
`metadata`; then the rules. Of the rules that match, the one with the highest confidence decides each tag, the first
listed among equals. A rule's confidence is what it says, or follows from what it looks at:

    words     1 - 0.5^n for n different words found: 0.5, 0.75, 0.88, ...
    pattern   0.8
    neither   0.6: the shape of the call alone (when, stream, tools, images)

Deterministic and linear: all words and patterns are one RE2 set, run once over the newest text of the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Texts
from proxy.config.match import When
from proxy.config.units import PositiveSize, Ratio
from proxy.match import compile_match
from proxy.policy import Policy, PolicyOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.exchange import Exchange
    from proxy.match import Rule as Test
    from proxy.services import Services

ROLES: Final = frozenset({"user", "system", "developer", "input", "instructions", "prompt"})
TagName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,59}$")]
TagValue = Annotated[str, Field(min_length=1, max_length=200)]
_MEMORY: Final = 32 * 1024 * 1024


class ClassifyRule(PolicyOptions):
    """One rule: all that it asks for must hold."""

    name: str | None = Field(default=None, description="What explain and the log call the rule. Default: its number.")
    when: When | None = Field(default=None, description="Conditions on the call, as for a policy.")
    words: Texts = Field(
        default=(), description="Whole words or phrases, in any case; at least `min_words` different ones must occur."
    )
    min_words: int = Field(default=1, ge=1, description="How many different words must occur.")
    pattern: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="A regular expression (RE2: linear time) that must be found in the text."
    )
    stream: bool | None = Field(default=None, description="Whether the answer is asked for as a stream.")
    tools: bool | None = Field(default=None, description="Whether the request offers tools.")
    images: bool | None = Field(default=None, description="Whether it carries images, audio or files.")
    confidence: Ratio | None = Field(default=None, description="0 to 1. Default: follows from what the rule looks at.")
    tags: dict[TagName, TagValue] = Field(min_length=1, description="Tags that the call gets.")

    @model_validator(mode="after")
    def _asks(self) -> ClassifyRule:
        if self.when is None and not self.words and self.pattern is None:
            if self.stream is None and self.tools is None and self.images is None:
                raise PydanticCustomError(
                    "rule", "a rule needs at least one of when, words, pattern, stream, tools, images"
                )
        elif self.words and self.min_words > len(self.words):
            raise PydanticCustomError("rule", "min_words is larger than the number of words")
        if self.pattern is not None:
            problem = _wrong(self.pattern)
            if problem is not None:
                raise PydanticCustomError("rule", f"pattern is no RE2 expression: {problem.replace('{', '{{')}")
        return self


class ClassifyOptions(PolicyOptions):
    """Options of `classify`."""

    rules: tuple[ClassifyRule, ...] = Field(default=(), description="The rules; the most confident one decides.")
    metadata: Texts = Field(
        default=("task", "domain", "urgency"), description="Keys of the body's `metadata` that become tags."
    )
    default: dict[TagName, TagValue] = Field(default={}, description="Tags for calls that nothing else has tagged.")
    min_confidence: Ratio = Field(default=0.0, description="Rules less confident than this decide nothing.")
    scan: PositiveSize = Field(default=32 * 1024, description="How much text is looked at, the newest first.")


class Decision(NamedTuple):
    """Why a tag has its value. rule: the deciding rule's name, or `declared`, `metadata`, `default`."""

    value: str
    confidence: float
    rule: str


class _Compiled(NamedTuple):
    name: str
    rule: ClassifyRule
    test: Test | None
    words: frozenset[int]
    pattern: int | None
    reads: bool


class Classify(Policy):
    """Tags calls. `decisions(exchange)` says why."""

    name = "classify"
    Options: ClassVar[type[PolicyOptions]] = ClassifyOptions
    steers: ClassVar[bool] = True

    options: ClassifyOptions

    def __init__(self, options: Any, services: Services, *, label: str | None = None, observe: bool = False) -> None:
        super().__init__(options, services, label=label, observe=observe)
        expressions: dict[str, int] = {}
        self._rules = tuple(
            self._compile(number, rule, expressions) for number, rule in enumerate(self.options.rules, 1)
        )
        self._set = _search_set(expressions) if expressions else None
        self._shapes = any(rule.rule.images is not None for rule in self._rules)

    @staticmethod
    def _compile(number: int, rule: ClassifyRule, expressions: dict[str, int]) -> _Compiled:
        words = frozenset(expressions.setdefault(_word(word), len(expressions)) for word in rule.words if word.strip())
        pattern = None if rule.pattern is None else expressions.setdefault(rule.pattern, len(expressions))
        test = compile_match(rule.when) if rule.when is not None else None
        return _Compiled(rule.name or f"#{number}", rule, test, words, pattern, bool(words) or pattern is not None)

    def on_request(self, exchange: Exchange) -> None:
        decided: dict[str, Decision] = {name: Decision(value, 1.0, "declared") for name, value in exchange.tags.items()}
        tree = exchange.tree if exchange.request.body is not None else None
        if tree is not None and self.options.metadata:
            self._from_metadata(tree.get("metadata"), decided)
        if self._rules:
            self._from_rules(exchange, tree, decided)
        for name, value in self.options.default.items():
            decided.setdefault(name, Decision(value, 0.0, "default"))
        exchange.local[self] = decided
        for name, decision in decided.items():
            if decision.rule != "declared":
                said = f"{name}={decision.value} ({decision.rule}, confidence {decision.confidence:.2f})"
                if self.observe:
                    exchange.note(self.label, f"would tag {said}")
                else:
                    exchange.tags[name] = decision.value
                    exchange.note(self.label, said)

    def decisions(self, exchange: Exchange) -> dict[str, Decision]:
        """Each tag's value, confidence and deciding rule; empty before the policy has run."""
        found: dict[str, Decision] = exchange.local.get(self, {})
        return found

    def _from_metadata(self, metadata: Any, decided: dict[str, Decision]) -> None:
        if not isinstance(metadata, dict):
            return
        for name in self.options.metadata:
            value = metadata.get(name)
            if isinstance(value, str) and 0 < len(value) <= 200 and name not in decided:
                decided[name] = Decision(value, 1.0, "metadata")

    def _from_rules(self, exchange: Exchange, tree: dict[str, Any] | None, decided: dict[str, Decision]) -> None:
        best: dict[str, Decision] = {}
        found: frozenset[int] | None = None
        images: bool | None = None
        for name, rule, test, words, pattern, reads in self._rules:
            if all(tag in decided for tag in rule.tags):
                continue
            if rule.stream is not None and rule.stream != exchange.streaming:
                continue
            if rule.tools is not None and rule.tools != _has_tools(tree):
                continue
            if test is not None and not test(exchange):
                continue
            if rule.images is not None:
                if images is None:
                    images = _has_images(exchange, tree)
                if rule.images != images:
                    continue
            confidence = 0.6
            if reads:
                if found is None:
                    found = self._search(exchange, tree)
                hits = len(words & found)
                if (words and hits < rule.min_words) or (pattern is not None and pattern not in found):
                    continue
                confidence = 1 - 0.5**hits if words else 0.0
                if pattern is not None:
                    confidence = max(confidence, 0.8)
            if rule.confidence is not None:
                confidence = rule.confidence
            if confidence < self.options.min_confidence:
                continue
            for tag, value in rule.tags.items():
                if tag not in decided and (tag not in best or confidence > best[tag].confidence):
                    best[tag] = Decision(value, confidence, name)
        decided.update(best)

    def _search(self, exchange: Exchange, tree: dict[str, Any] | None) -> frozenset[int]:
        if self._set is None or tree is None or exchange.dialect is None:
            return frozenset()
        return frozenset(self._set.Match("\n".join(self._newest(exchange, tree))) or ())

    def _newest(self, exchange: Exchange, tree: dict[str, Any]) -> Iterator[str]:
        """What the caller says, from the end, up to `scan` characters in all."""
        left = self.options.scan
        assert exchange.dialect is not None
        for slot in reversed([slot for slot in exchange.dialect.texts(tree) if slot.role in ROLES]):
            text = slot.text
            yield text[-left:]
            left -= len(text)
            if left <= 0:
                return


def _has_tools(tree: dict[str, Any] | None) -> bool:
    return tree is not None and bool(tree.get("tools") or tree.get("functions"))


def _has_images(exchange: Exchange, tree: dict[str, Any] | None) -> bool:
    if tree is None or exchange.dialect is None:
        return False
    return any(opaque.kind != "tokens" for opaque in exchange.dialect.opaque(tree))


def _word(word: str) -> str:
    """A whole word or phrase in any case. RE2's `\\b` knows ASCII only, so it stands only beside ASCII letters."""
    import re2  # noqa: PLC0415 - 15 ms, only for chains that classify

    word = " ".join(word.split())
    pattern = r"\s+".join(re2.escape(part) for part in word.split(" "))
    before = r"\b" if word[0].isascii() and (word[0].isalnum() or word[0] == "_") else ""
    after = r"\b" if word[-1].isascii() and (word[-1].isalnum() or word[-1] == "_") else ""
    return f"(?i){before}{pattern}{after}"


def _wrong(pattern: str) -> str | None:
    import re2  # noqa: PLC0415

    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else error
        return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return None


def _search_set(expressions: dict[str, int]) -> Any:
    """All expressions as one automaton; `Match` gives the places of those that occur. Raises ValueError."""
    import re2  # noqa: PLC0415

    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    found = re2.Set.SearchSet(options)
    for expression in expressions:
        found.Add(expression)
    found.Compile()
    return found
