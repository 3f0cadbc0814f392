"""The `[ner]` extra: a spaCy or GLiNER model from a local folder adds PERSON, LOCATION and ORGANIZATION."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import BARE, NER_TYPES, Found, resolve

_SPACY = {"PERSON": "PERSON", "PER": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION",
          "ORG": "ORGANIZATION"}  # fmt: skip
_GLINER = {"person": "PERSON", "location": "LOCATION", "organization": "ORGANIZATION"}
_LONGEST = 20_000
"""Characters given to the model at once."""

Tagger = Callable[[str], Iterable[tuple[int, int, str]]]


class NerUnavailableError(ValueError):
    """The model or its library is not there; the message says which and what to do."""


def load(engine: str, path: str, threshold: float) -> Tagger:
    """The model as a function from a text to (start, end, type). Raises `NerUnavailableError`."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise NerUnavailableError(f"pii.ner: there is no model folder {folder}; copy a {engine} model there")
    try:
        library: Any = importlib.import_module(engine)
    except ImportError:
        raise NerUnavailableError(
            f"pii.ner: the package {engine} is not installed; run: pip install 'llm-sidecar[ner]'"
        ) from None
    try:
        model: Any = library.load(folder) if engine == "spacy" else library.GLiNER.from_pretrained(str(folder))
    except Exception as error:
        raise NerUnavailableError(f"pii.ner: {folder} is no {engine} model: {error}") from error

    def spacy_tags(text: str) -> Iterable[tuple[int, int, str]]:
        for entity in model(text).ents:
            kind = _SPACY.get(entity.label_)
            if kind is not None:
                yield entity.start_char, entity.end_char, kind

    def gliner_tags(text: str) -> Iterable[tuple[int, int, str]]:
        for entity in model.predict_entities(text, list(_GLINER), threshold=threshold):
            yield entity["start"], entity["end"], _GLINER[entity["label"]]

    return spacy_tags if engine == "spacy" else gliner_tags


class NerDetector(Detector):
    """A detector that asks a model as well. What patterns found wins where the two overlap."""

    __slots__ = ("_tag",)

    def __init__(
        self, base: Detector, engine: str, path: str, threshold: float = 0.5, entities: str | Sequence[str] = "all"
    ) -> None:
        for slot in Detector.__slots__:
            setattr(self, slot, getattr(base, slot))
        self._tag = load(engine, path, threshold)
        wanted = frozenset(NER_TYPES) if isinstance(entities, str) else frozenset(NER_TYPES) & frozenset(entities)
        self.types = base.types | wanted

    def clean(self, texts: Sequence[str]) -> int:
        """None: the model has to see them all."""
        return 0

    def detect(self, text: str, context: str | None = None) -> list[Found]:
        """As the base, and what the model finds."""
        found = super().detect(text, context)
        extra = [
            Found(start + at, start + end, kind, BARE)
            for start in range(0, len(text), _LONGEST)
            for at, end, kind in self._tag(text[start : start + _LONGEST])
            if kind in self.types
        ]
        if self._allow is not None:
            extra = [one for one in extra if not self._allow(one.type, text[one.start : one.end])]
        return resolve([*found, *extra]) if extra else found
