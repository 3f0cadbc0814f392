"""PASSPORT: a passport number after its label."""

from __future__ import annotations

from proxy.policies.pii.recognizers.labelled import labelled

PASSPORT = labelled(
    "PASSPORT",
    rb"passports?|passeports?|reisep(?:ass|\xc3\xa4ss)e?(?:nummer)?|pasaportes?|passaportos?|passaporto"
    rb"|paspoort(?:nummer)?"
    rb"|pass(?:nummer|[ -]nr)|travel document",
    "prt",
    rb"[A-Za-z]{0,3}[ ]?[0-9][A-Za-z0-9]{5,9}|[A-Z][A-Z0-9]{5,9}",
    digits=3,
)
