"""DRIVER_LICENSE: a licence number after its label."""

from __future__ import annotations

from proxy.policies.pii.recognizers.labelled import labelled

DRIVER_LICENSE = labelled(
    "DRIVER_LICENSE",
    rb"driver'?s?[ _-]?licen[cs]e|driving[ _-]?licen[cs]e|driver'?s? lic\.?|dl ?#|dl|dln|f\xc3\xbchrerscheinnummer"
    rb"|f\xc3\xbchrerschein|permis de conduire|licencia de conducir|patente di guida|rijbewijs(?:nummer)?",
    "dfplr",
    rb"[A-Za-z]{0,2}[0-9][A-Za-z0-9]{1,4}(?:[ -][A-Za-z0-9]{2,6}){1,4}|[A-Za-z]{1,5}[0-9A-Za-z]{5,18}|[0-9]{6,14}",
    digits=5,
)
