"""The policy ``defaults``: what a call says when it leaves it out, may not exceed, or is told to say.

Rules are tried in order and every rule whose ``when`` holds acts: a later one sees what an earlier one did. Within a
rule: ``default``, then ``set``, then ``clamp``, then ``system``; ``upstream`` and ``model`` choose the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from proxy.config.base import Text, UpstreamName
from proxy.config.match import When
from proxy.exchange import Target
from proxy.match import compile_when
from proxy.policy import Policy, PolicyOptions

if TYPE_CHECKING:
    from proxy.exchange import Answer, Exchange
    from proxy.services import Services

Json = Any
Path = tuple[str, ...]

OUTPUT_BOUNDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NOT_HERE: Final = {"model": "use `model:` of the rule", "stream": "the client decides how it reads the answer"}


def _bounds(value: Any) -> Any:
    """``[min, max]`` or ``{min, max}``, either end may be null or left out; a number alone is the max."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = [None, value]
    if isinstance(value, dict) and value and set(value) <= {"min", "max"}:
        value = [value.get("min"), value.get("max")]
    if isinstance(value, list | tuple) and len(value) == 2:
        right = all(
            end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in value
        ) and any(end is not None for end in value)
        if right and (None in value or value[0] <= value[1]):
            return tuple(value)
    raise PydanticCustomError(
        "clamp", "must be [min, max], the max alone, or a map with min, max or both, and min at most max"
    )


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    for name in value:
        top = name.partition(".")[0]
        if top in _NOT_HERE or not all(name.split(".")):
            raise PydanticCustomError(
                "field",
                '"{name}" cannot stand here: {why}',
                {"name": name[:60], "why": _NOT_HERE.get(top, "a dotted path has no empty parts")},
            )
    return value


_NUMBER_OR_NULL: Final = {"type": ["number", "null"]}
Bounds = Annotated[
    tuple[int | float | None, int | float | None],
    BeforeValidator(_bounds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "array", "minItems": 2, "maxItems": 2, "items": _NUMBER_OR_NULL},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "properties": {"min": _NUMBER_OR_NULL, "max": _NUMBER_OR_NULL},
                },
            ]
        }
    ),
]
Fields = Annotated[dict[str, Any], AfterValidator(_fields)]


class Rule(PolicyOptions):
    """What happens to calls of one kind."""

    when: When | None = Field(None, description="Which calls. Default: every call.")
    default: Fields = Field(
        {}, description="Body fields for calls that leave them out (or send null). Dots lead into objects."
    )
    set: Fields = Field(
        {}, description="Body fields to set whatever the call says; null removes the field. Dots lead into objects."
    )
    clamp: Annotated[dict[str, Bounds], AfterValidator(_fields)] = Field(
        {},
        description="Bounds of numbers: {temperature: [0, 1], max_tokens: 2000}; {max: 2000} says the same. A field "
        "that the call leaves out stays out. Bounds for max_tokens, max_completion_tokens or max_output_tokens hold "
        "for whichever of the three the call uses.",
    )
    system: Text | None = Field(None, description="System prompt to put before what the call says.")
    upstream: UpstreamName | None = Field(None, description="Send the call to this upstream.")
    model: Text | None = Field(None, description="Ask the upstream for this model instead.")

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        if not (self.default or self.set or self.clamp or self.system or self.upstream or self.model):
            raise PydanticCustomError("rule", "does nothing: give default, set, clamp, system, upstream or model")
        return self


class DefaultsOptions(PolicyOptions):
    """What calls say by default, at most, or in any case."""

    rules: tuple[Rule, ...] = Field(min_length=1, description="Tried in order; every rule whose `when` holds acts.")


class _Compiled:
    """One rule, ready to act."""

    __slots__ = ("applies", "clamp", "default", "edits", "model", "set", "system", "upstream")

    def __init__(self, rule: Rule) -> None:
        self.applies: Callable[[Exchange], bool] | None = compile_when(rule.when) if rule.when is not None else None
        self.default: list[tuple[Path, Json]] = [(_path(name), value) for name, value in rule.default.items()]
        self.set: list[tuple[Path, Json]] = [(_path(name), value) for name, value in rule.set.items()]
        self.clamp: list[tuple[Path, float | None, float | None]] = []
        for name, (least, most) in rule.clamp.items():
            same = OUTPUT_BOUNDS if name in OUTPUT_BOUNDS else (name,)
            self.clamp += [(_path(one), least, most) for one in same]
        self.system = rule.system
        self.upstream = rule.upstream
        self.model = rule.model
        self.edits = bool(self.default or self.set or self.clamp or self.system)


class Defaults(Policy):
    """Fills in, sets and bounds parameters, adds system prompts, and may choose the target."""

    name: ClassVar[str] = "defaults"
    Options = DefaultsOptions
    edits_request: ClassVar[bool] = True
    options: DefaultsOptions

    def __init__(
        self, options: DefaultsOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self._rules = tuple(_Compiled(rule) for rule in options.rules)

    def on_request(self, exchange: Exchange) -> Answer | None:
        done: list[str] = []
        for rule in self._rules:
            if rule.applies is None or rule.applies(exchange):
                if rule.edits:
                    self._edit(exchange, rule, done)
                if rule.upstream is not None or rule.model is not None:
                    self._aim(exchange, rule, done)
        if done and self.observe:
            exchange.note(self.label, "would change: " + "; ".join(done))
        elif done and exchange.explain is not None:
            exchange.explain(self.label, "; ".join(done))
        return None

    def _aim(self, exchange: Exchange, rule: _Compiled, done: list[str]) -> None:
        old = exchange.target
        target = Target(rule.upstream or old.upstream, rule.model or old.model)
        if target != old:
            done.append(f"target {target}")
            if not self.observe:
                exchange.target = target

    def _edit(self, exchange: Exchange, rule: _Compiled, done: list[str]) -> None:
        body, tree = exchange.body, exchange.tree
        if body is None or tree is None:
            return
        before = len(done)
        for path, value in rule.default:
            if _at(tree, path) is None and value is not None:
                self._put(tree, path, value, done)
        for path, value in rule.set:
            if not _same(_at(tree, path), value) or (value is None and _holds(tree, path)):
                self._put(tree, path, value, done)
        for path, least, most in rule.clamp:
            value = _at(tree, path)
            if type(value) is int or type(value) is float:
                if least is not None and value < least:
                    self._put(tree, path, least, done)
                elif most is not None and value > most:
                    self._put(tree, path, most, done)
        if rule.system is not None and exchange.dialect is not None:
            done.append("a system prompt")
            if not self.observe:
                exchange.dialect.add_system(tree, rule.system)
                exchange.estimated_input = None
        if len(done) > before and not self.observe:
            body.touch()

    def _put(self, tree: dict[str, Json], path: Path, value: Json, done: list[str]) -> None:
        done.append(f"{'.'.join(path)} removed" if value is None else f"{'.'.join(path)} = {_shown(value)}")
        if self.observe:
            return
        holder = tree
        for part in path[:-1]:
            inner = holder.get(part)
            if type(inner) is not dict:
                if value is None:
                    return
                inner = holder[part] = {}
            holder = inner
        if value is None:
            holder.pop(path[-1], None)
        else:
            # A copy: the tree is the call's own to edit, the rule is everybody's.
            holder[path[-1]] = _copy(value)


def _path(name: str) -> Path:
    return tuple(name.split("."))


def _at(tree: Json, path: Sequence[str]) -> Json:
    """What stands at a path, None when there is nothing."""
    for part in path:
        if type(tree) is not dict:
            return None
        tree = tree.get(part)
    return tree


def _holds(tree: Json, path: Sequence[str]) -> bool:
    holder = _at(tree, path[:-1])
    return type(holder) is dict and path[-1] in holder


def _same(one: Json, other: Json) -> bool:
    return type(one) is type(other) and bool(one == other)  # 1 == True, and JSON tells them apart


def _copy(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(inner) for inner in value]
    return value


def _shown(value: Json) -> str:
    return (
        "an object" if isinstance(value, dict) else "an array" if isinstance(value, list | tuple) else str(value)[:40]
    )
