"""Custom entities from YAML: a pattern, words that must stand near it, a validator, and examples to prove it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.policies.pii.found import BARE, CHECKSUM, CONTEXT
from proxy.policies.pii.program import written
from proxy.policies.pii.recognizers import stdnum_check
from proxy.policies.pii.recognizers.iban import mod_97
from proxy.policies.pii.recognizers.luhn import luhn
from proxy.policies.pii.scan import Scan

_WINDOW = 64


def _luhn(text: str) -> bool:
    digits = "".join(c for c in text if c.isascii() and c.isdigit())
    return len(digits) > 1 and luhn(digits.encode())


def _iban(text: str) -> bool:
    compact = "".join(c for c in text.upper() if c.isascii() and c.isalnum())
    return len(compact) >= 15 and mod_97(compact.encode()) == 1


_OWN: dict[str, Callable[[str], bool]] = {"luhn": _luhn, "mod97": _iban}


def validator(name: str) -> Callable[[str], bool]:
    """`luhn`, `mod97`, or any `python-stdnum` module as `de.idnr`. Raises ValueError for an unknown name."""
    own = _OWN.get(name)
    if own is not None:
        return own
    if not all(part.isidentifier() for part in name.split(".")) or not stdnum_check.exists(name):
        raise ValueError(f"unknown validator {name!r}: luhn, mod97 or a python-stdnum module such as de.idnr")
    return lambda text: stdnum_check.valid(name, text)


@dataclass(frozen=True, slots=True)
class CustomEntity:
    """One custom entity, as under `custom:` in the YAML.

    `pattern`: RE2, over the text (UTF-8); if it has a group, the first one is the value. `context`: words of which one
    must stand within 64 bytes before the value, or in the JSON key. `validator`: see `validator`. `examples`: texts in
    which the entity must be found; `check` verifies them. `counter_examples`: texts in which it must not.
    """

    type: str
    pattern: str
    context: tuple[str, ...] = ()
    validator: str | None = None
    examples: tuple[str, ...] = ()
    counter_examples: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is wrong with it, in words; empty when it compiles and its examples hold."""
        name = self.type
        if (
            not name
            or not name.replace("_", "").isalnum()
            or not name.isupper()
            or not name.isascii()
            or name[0] == "_"
        ):
            return [f"custom entity {name!r}: the type must be upper-case letters, digits and _, such as EMPLOYEE_ID"]
        try:
            entities = CustomEntities((self,))
        except ValueError as error:
            return [str(error)]
        found = []
        for text, wanted in (*((e, True) for e in self.examples), *((e, False) for e in self.counter_examples)):
            scan = Scan(text.encode("utf-8", "surrogatepass"))
            entities.run(scan)
            if bool(scan.found) != wanted:
                what = "is not found in its example" if wanted else "is found in its counter example"
                found.append(f"custom entity {name}: it {what} {text!r}")
        return found


class CustomEntities:
    """The enabled custom entities, compiled. Raises ValueError if a pattern or a validator name is bad."""

    __slots__ = ("_rows",)

    def __init__(self, entities: tuple[CustomEntity, ...]) -> None:
        rows = []
        for one in entities:
            try:
                pattern = written(one.pattern)
            except ValueError as error:
                raise ValueError(f"custom entity {one.type}: the pattern does not compile: {error}") from None
            if pattern.match("") is not None:
                raise ValueError(f"custom entity {one.type}: the pattern matches the empty text")
            context = tuple(word.lower().encode() for word in one.context)
            rows.append((one.type, pattern, context, validator(one.validator) if one.validator else None))
        self._rows = tuple(rows)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def run(self, scan: Scan) -> None:
        """Add what the custom entities find. Each is a pass of its own, linear in the text."""
        for kind, pattern, context, check in self._rows:
            for match in pattern.finditer(scan.data):
                start, end = match.span(1) if pattern.groups and match.span(1)[0] >= 0 else match.span()
                if end == start or start < scan.floor:
                    continue
                scan.spend(end - start + 16)
                rank = BARE
                if context:
                    before = scan.before(start, _WINDOW)
                    if not any(word in before for word in context):
                        continue
                    rank = CONTEXT
                if check is not None:
                    if not check(scan.data[start:end].decode("utf-8", "replace")):
                        continue
                    rank = CHECKSUM
                scan.add(start, end, kind, rank)
