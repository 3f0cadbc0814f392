"""The `pii` policy: personal data masked on the way out, put back in the answer, streams included.

    request   every text the dialect names is judged; what is found is replaced in the tree that is sent
    answer    what the provider leaks is masked first, then the request's placeholders are put back

The originals live in a `Vault` on this call's exchange and nowhere else.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

from proxy.errors import ProxyError
from proxy.place import place
from proxy.policies.pii.actions import Actions
from proxy.policies.pii.allow import Allow
from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import Found
from proxy.policies.pii.inspect import Inspected, Part, inspect, texts_of, write
from proxy.policies.pii.options import PiiOptions
from proxy.policies.pii.scan import WorkExceededError
from proxy.policies.pii.stage import PiiStage
from proxy.policies.pii.vault import Vault, new_nonce
from proxy.policy import Policy, Stage

if TYPE_CHECKING:
    from proxy.dialects.base import Dialect, Slot
    from proxy.exchange import Answer, Exchange
    from proxy.services import Services

_WHOLE_HASHED = frozenset({"user", "safety_identifier", "metadata"})


def detector_of(options: PiiOptions) -> Detector:
    """The detector that these options describe. Raises `NerUnavailableError` if their model is not there."""
    custom = tuple(c.entity() for c in options.custom)
    detector = Detector(_without_ner(options.entities), Allow(options.allow), custom)
    if options.ner is None:
        return detector
    from proxy.policies.pii.ner import NerDetector  # noqa: PLC0415 - heavy, and only for those who ask

    return NerDetector(detector, options.ner.engine, options.ner.path, options.ner.threshold, options.entities)


def actions_of(options: PiiOptions) -> Actions:
    """The actions of these options; without a key of their own, hashes hold for this process only."""
    key = options.hash_key.encode() if options.hash_key else secrets.token_bytes(32)
    return Actions(options.action, dict(options.actions), key)


class Pii(Policy):
    """Finds, masks and restores; see `PiiOptions`."""

    name: ClassVar[str] = "pii"
    Options = PiiOptions
    protects: ClassVar[bool] = True
    edits_request: ClassVar[bool] = True
    edits_answer: ClassVar[bool] = True
    body_alone: ClassVar[bool] = True

    def __init__(
        self, options: PiiOptions, services: Services, *, label: str | None = None, observe: bool = False
    ) -> None:
        super().__init__(options, services, label=label, observe=observe)
        self.detector = detector_of(options)
        self.actions = actions_of(options)
        self._requests = "request" in options.direction
        self._answers = "response" in options.direction
        self._restores = options.restore
        self._types = self.detector.types

    def on_request(self, exchange: Exchange) -> Answer | None:
        """Judge every text, then refuse or replace."""
        body, dialect = exchange.body, exchange.dialect
        if not self._requests or body is None or dialect is None:
            if exchange.request.upgrade is not None:
                self._opaque(exchange, ("a websocket, in either direction",))
            elif self._requests and (exchange.request.stream is not None or exchange.request.raw_body):
                self._opaque(exchange, ("upload",))
            return None
        tree = body.strict()
        clean: int | None = None
        if not self.options.described:
            prose = body.prose(dialect)
            if prose is not None:
                clean = self.detector.clean(prose)
                if clean == len(prose):
                    exchange.seen_through(self)
                    return None
                clean = sum(map(bool, prose[:clean]))  # `texts` leaves out empty ones
        opaque = list(dialect.opaque(tree))
        if opaque:
            self._opaque(exchange, [f"{one.kind} at {place(one.path)}" for one in opaque])
        slots: list[Slot] = list(dialect.texts(tree))
        hashed: list[Slot] = []
        if self.options.described:
            for slot in dialect.described(tree):
                (hashed if slot.path and slot.path[0] in _WHOLE_HASHED else slots).append(slot)
        judged = self._judge(slots, clean)
        if not judged and not hashed:
            if not opaque:
                exchange.seen_through(self)
            return None
        hits = [(one, part) for one in judged for part in one.parts if part.found]
        self._report(exchange, hits)
        if self.observe:
            return None
        self._refuse(hits)
        nonce = new_nonce() if dialect.stateful(tree) else None
        if dialect.operation == "embeddings":
            # Each input is a document of its own: its vector must not depend on its neighbours.
            for _, item in groupby(judged, _item):
                self._replace(list(item), Vault(nonce))
        else:
            vault = Vault(nonce)
            if judged:
                self._reserve_rest(slots, judged, vault)
            self._replace(judged, vault)
            if vault and self._restores:
                exchange.local[self] = vault
        for slot in hashed:
            slot.text = f"[{str(slot.path[0]).upper()}:{self.actions.digest(str(slot.path[0]), slot.text)}]"
        body.touch()
        return None

    def _judge(self, slots: Sequence[Slot], clean: int | None = None) -> list[Inspected]:
        """What was found, slot by slot; slots without a finding are left out. clean: how many of the first are known
        to have none."""
        detector = self.detector
        judged: list[Inspected] = []
        try:
            if clean is None:
                clean = self._clean(slots) if len(slots) > 1 else 0
            for slot in slots[clean:]:
                one = inspect(slot, detector)
                if one is not None:
                    judged.append(one)
        except WorkExceededError:
            raise ProxyError(
                "pii_refused",
                f"The text at {slot.place} holds more things that look like personal data than can be verified.",
                param=slot.place,
                policy=self.label,
            ) from None
        return judged

    def _clean(self, slots: Sequence[Slot]) -> int:
        """How many slots, from the first on, hold nothing: a long conversation is looked at in one piece."""
        texts = []
        for slot in slots:
            if slot.kind != "text":
                break
            texts.append(slot.holder[slot.key])
        return self.detector.clean(texts)

    def _reserve_rest(self, slots: Sequence[Slot], judged: Sequence[Inspected], vault: Vault) -> None:
        """Look-alikes count wherever they stand, also in texts that hold nothing else."""
        if "mask" not in self.actions.used:
            return
        done = {id(one.slot) for one in judged}
        for slot in slots:
            if id(slot) not in done:
                for text in texts_of(slot):
                    vault.reserve(text, [], self._types)

    def _replace(self, judged: Sequence[Inspected], vault: Vault) -> None:
        if "mask" in self.actions.used:
            for one in judged:
                for part in one.parts:
                    vault.reserve(part.text, part.found, self._types)
        for one in judged:
            edits = []
            for part in one.parts:
                if part.found:
                    text = self.actions.apply(part.text, part.found, vault)
                    if text is not part.text:
                        edits.append((part, text))
            write(edits)
            if edits and one.tree is not None:
                one.slot.text = one.written()

    def _opaque(self, exchange: Exchange, what: Sequence[str]) -> None:
        if not what:
            return
        exchange.note(self.label, f"opaque={len(what)}")
        exchange.count_finding("opaque", self._done(self.options.on_opaque), len(what))
        if self.options.on_opaque == "block" and not self.observe:
            raise ProxyError(
                "pii_refused",
                f"The request holds content that cannot be searched for personal data: {', '.join(what[:8])}.",
                policy=self.label,
            )

    def _done(self, action: str) -> str:
        return f"would {action}" if self.observe else action

    def _refuse(self, hits: list[tuple[Inspected, Part]]) -> None:
        places = [
            f"{one.type} at {inspected.slot.place}"
            for inspected, part in hits
            for one in self.actions.blocked(part.found)
        ]
        if places:
            named = list(dict.fromkeys(places))
            more = f" and {len(named) - 8} more" if len(named) > 8 else ""
            raise ProxyError("pii_refused", f"The request holds {', '.join(named[:8])}{more}.", policy=self.label)

    def _report(self, exchange: Exchange, hits: list[tuple[Inspected, Part]]) -> None:
        counts = Counter((self.actions.of(f.type), f.type) for _, part in hits for f in part.found)
        for (action, kind), count in counts.items():
            exchange.count_finding(kind, self._done(action), count)
        said = " ".join(f"{action}:{kind}={n}" for (action, kind), n in sorted(counts.items()))
        exchange.note(self.label, f"would {said}" if self.observe else said)

    # --- answers -----------------------------------------------------------------------
    def on_response(self, exchange: Exchange, answer: Answer) -> Answer | None:
        """A whole answer: mask what leaks, then put the request's values back."""
        vault: Vault | None = exchange.local.get(self)
        if vault is None and not self._answers:
            return None
        dialect = exchange.dialect
        if dialect is None or answer.body is None:
            return None
        tree = answer.body.lenient()
        if tree is None:
            return None
        changed = False
        if self._answers:
            changed = self._mask_answer(exchange, dialect, tree, vault)
        if vault is not None:
            for slot in dialect.answer_texts(tree):
                text = slot.text
                back = vault.restore(text, escape=slot.kind == "arguments")
                if back is not text:
                    slot.text = back
                    changed = True
        if changed:
            answer.body.touch()
        return None

    def _mask_answer(self, exchange: Exchange, dialect: Dialect, tree: object, vault: Vault | None) -> bool:
        judged = self._judge(list(dialect.answer_texts(tree)))
        if not judged:
            return False
        hits = [(one, part) for one in judged for part in one.parts if part.found]
        self._report(exchange, hits)
        if self.observe:
            return False
        if any(self.actions.blocked(part.found) for _, part in hits):
            raise self.leak([f for _, part in hits for f in part.found])
        self._replace(judged, (vault or Vault()).sibling())
        return True

    def leak(self, found: Iterable[Found]) -> ProxyError:
        """The refusal of an answer that holds what must not be shown."""
        kinds = sorted({one.type for one in found if self.actions.of(one.type) == "block"})
        return ProxyError("pii_refused", f"The answer holds {', '.join(kinds)}.", policy=self.label)

    def open_stream(self, exchange: Exchange, answer: Answer) -> Stage | None:
        """The stage for this call; None when there is nothing to put back and answers are not looked at."""
        vault: Vault | None = exchange.local.get(self)
        masks = self._answers and not self.observe
        dialect = exchange.dialect
        if dialect is None or (vault is None and not masks):
            return None
        return PiiStage(self, dialect, vault, masks=masks)

    def on_done(self, exchange: Exchange) -> None:
        """Forget the originals."""
        exchange.local.pop(self, None)


def _item(one: Inspected) -> tuple[str | int, ...]:
    """Where the input stands that a text is part of."""
    path = one.slot.path
    return path[: 2 if len(path) > 1 and isinstance(path[1], int) else 1]


def _without_ner(entities: str | Sequence[str]) -> str | list[str]:
    """The types that patterns find; LOCATION and ORGANIZATION come from a model alone."""
    if isinstance(entities, str):
        return entities
    return [e for e in entities if e not in ("LOCATION", "ORGANIZATION")]
