"""The `[ner]` extra: clear errors without it, and what a model adds with it."""

import sys
from pathlib import Path

import pytest

from proxy.policies.pii.detector import Detector
from proxy.policies.pii.ner import NerDetector, NerUnavailableError, load

# A library of gliner's shape that knows one name, as a real package on disk.
LIBRARY = """
class GLiNER:
    @classmethod
    def from_pretrained(cls, path):
        return cls()

    def predict_entities(self, text, labels, threshold):
        at = text.find("Zork")
        return [{"start": at, "end": at + 4, "label": "organization"}] if at >= 0 else []
"""


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(NerUnavailableError, match="no model folder /nowhere"):
        load("spacy", "/nowhere", 0.5)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gliner", None)
    with pytest.raises(NerUnavailableError, match=r"pip install 'llm-sidecar\[ner\]'"):
        load("gliner", str(tmp_path), 0.5)


def test_a_model_adds_its_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gliner.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gliner", raising=False)
    detector = NerDetector(Detector(), "gliner", str(tmp_path))
    text = "é Zork wrote to ann@x.io"
    assert [(f.type, text[f.start : f.end]) for f in detector.detect(text)] == [
        ("ORGANIZATION", "Zork"),
        ("EMAIL", "ann@x.io"),
    ]
    sys.modules.pop("gliner", None)
