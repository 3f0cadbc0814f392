"""ADDRESS: a street with its number, and the place, region and postal code that follow it; labelled address fields."""

from __future__ import annotations

import re

from proxy.policies.pii.found import BARE, CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.scan import Scan

_STREETS = (
    rb"Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Circle|Cir|Place|Pl|Square|Sq|Terrace"
    rb"|Ter|Parkway|Pkwy"
    rb"|Highway|Hwy|Trail|Trl|Way|Alley|Crescent|Close|Grove|Gardens|Walk|Row|Mews|Plaza|Loop|Pike|Turnpike|Ridge"
    rb"|Hill|Hills|Heights"
    rb"|View|Views|Park|Point|Cove|Bridge|Brook|Creek|Crossing|Expressway|Extension|Extensions|Fork|Freeway|Glen"
    rb"|Green|Harbor|Haven"
    rb"|Island|Islands|Isle|Junction|Key|Keys|Knoll|Knolls|Lake|Landing|Manor|Meadow|Meadows|Mill|Mission|Mount"
    rb"|Mountain|Mountains"
    rb"|Orchard|Oval|Overpass|Pass|Passage|Path|Pine|Pines|Plain|Plains|Port|Prairie|Ranch|Rapids|Rest|River|Route"
    rb"|Rue|Run|Shoal"
    rb"|Shoals|Shore|Shores|Spring|Springs|Spur|Station|Stream|Summit|Track|Tunnel|Union|Valley|Via|Viaduct"
    rb"|Village|Ville|Vista|Well"
    rb"|Wells|Forge|Forges|Fords|Ford|Forest|Brooks|Burg|Bypass|Camp|Canyon|Cape|Causeway|Center|Centers|Cliff"
    rb"|Cliffs|Club|Common"
    rb"|Corner|Corners|Course|Curve|Dale|Dam|Divide|Estate|Estates|Falls|Ferry|Field|Fields|Flat|Flats|Garden"
    rb"|Gateway|Inlet|Lights"
    rb"|Lodge|Lock|Locks|Mall|Motorway|Neck|Parks|Radial|Ramp|Roads|Skyway|Squares|Stravenue|Streets|Throughway"
    rb"|Trace|Trafficway"
    rb"|Underpass|Unions|Wall|Ways"
)
_STATES = (
    rb"A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]"
    rb"|W[AIVY]|Alabama|Alaska"
    rb"|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana"
    rb"|Iowa|Kansas|Kentucky"
    rb"|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New"
    rb" Hampshire"
    rb"|New Jersey|New Mexico|New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island"
    rb"|South Carolina"
    rb"|South Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|West Virginia|Wisconsin|Wyoming"
)
_CAP = rb"[A-Z\xc3-\xc5][A-Za-z.'\x80-\xff-]{0,24}"
_CITY_WORD = _CAP + rb"(?![A-Za-z0-9\x80-\xff])"  # not the letters of a British postcode
_TAIL = re.compile(
    rb"(?: (?:N|S|E|W|NE|NW|SE|SW)\b\.?)?"
    rb"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|#)\.? ?[0-9A-Za-z-]{1,6})?"
    rb"(?:[ ]?(?:,|\n)[ ]?" + _CITY_WORD + rb"(?: " + _CITY_WORD + rb"){0,3})?"
    rb"(?:,? (?:" + _STATES + rb")\b)?"
    rb"(?:,? (?:[A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2}\b|[A-Z]{0,2}[0-9]{4,5}(?:-[0-9]{4})?\b(?!-[0-9])"
    rb"(?: " + _CAP + rb"(?:[ -]" + _CAP + rb"){0,2})?))?"
    rb"(?:, [A-Z][a-z]+(?:'s)?(?: (?:[A-Z][a-z']+|&|of|and|the)){0,5})?"
)


_STREET = re.compile(
    rb"[0-9]{1,5}[A-Za-z]? (?:(?:N|S|E|W|North|South|East|West)\.? )?"
    rb"(?:[A-Z0-9\xc3-\xc5][A-Za-z0-9.'\x80-\xff-]{0,20} ){1,3}"
    rb"(?:" + _STREETS + rb")s?\b"
)
_RUE = re.compile(
    rb"[0-9]{1,4},? (?:rue|avenue|boulevard|place|chemin|all\xc3\xa9e) (?:de |du |des |la |l'){0,3}"
    rb"[A-Z][A-Za-z\x80-\xff-]{0,24}"
)
_SOUTHERN = re.compile(
    rb"[A-Za-z.]{2,8} (?:(?:de|da|do|del|della|dei|di|dos|la|las|los|d'|San|Santa) ?){0,3}"
    + _CAP
    + rb"(?: (?:(?:de|da|do|del|di|la) )?"
    + _CAP
    + rb"){0,3},? (?:n[.\xc2\xba]{0,3} ?)?[0-9]{1,4}[a-z]?\b"
)
"""`Via Roma 12`, `Calle de Alcal\xe1 45`: the kind of street first, its number last."""
_FLAT = re.compile(rb"(?:Flat|Apt\.?|Apartment|Unit|Suite) [0-9A-Za-z-]{1,5}, ?$")
_CITY = re.compile(rb"(?:[A-Z][a-z]{1,20} ){0,2}[A-Z][a-z]{1,20}$")
_NUMBER = re.compile(rb"[0-9]{1,4}[a-z]?\b")
_LETTERS = bytes(range(0x80, 0x100)) + b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _examine(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 250
    first = data[start]
    if 0x30 <= first <= 0x39:
        if start and data[start - 1] in b"-.:/$#":
            return end - 1
        street = _STREET.match(data, start, start + 120) or _RUE.match(data, start, start + 80)
        if street is None:
            return end - 1
        flat = _FLAT.search(data[max(scan.floor, start - 20) : start])
        return _with_tail(scan, start - (len(flat[0]) if flat else 0), street.end())
    if first == 0x2C:  # `, TX 75001` behind a city
        low = max(scan.floor, start - 64)
        city = _CITY.search(data[low:start])
        if city is not None:
            scan.add(low + city.start(), end, "ADDRESS", CONTEXT)
        return end
    if first == 0x50 and data[start : start + 6].translate(None, b". ").startswith(b"POBox"[:3]):
        return _with_tail(scan, start, end)
    if data[end - 1 : end].isalpha() or data[end - 1] >= 0x80:
        street = _SOUTHERN.match(data, start, start + 100)
        return _with_tail(scan, start, street.end()) if street is not None else end - 1
    # `Hauptstraße 12`: the candidate is the ending and the first digit; the word before it is read back.
    window = data[max(scan.floor, start - 40) : start]
    word = window[len(window.rstrip(_LETTERS)) :]
    number = _NUMBER.match(data, end - 1, end + 5)
    if len(word) >= 2 and word[:1].isupper() and number is not None:
        return _with_tail(scan, start - len(word), number.end())
    return end


def _with_tail(scan: Scan, start: int, end: int) -> int:
    tail = _TAIL.match(scan.data, end, end + 120)
    stop = tail.end() if tail else end
    scan.add(start, stop, "ADDRESS", CONTEXT)
    return stop


def _examine_field(scan: Scan, start: int, end: int) -> int:
    """`Address: ...` up to the end of the line or field, if it holds a digit."""
    window = scan.data[end - 1 : end + 120]
    scan.work += 300
    stop = _FIELD_END.search(window)
    value = window[: stop.start()] if stop else window
    if len(value) < 6 or _ALONE.search(value) is None or b"@" in value or b"://" in value:
        return end
    scan.add(end - 1, end - 1 + len(value.rstrip()), "ADDRESS", BARE)
    return end


_ALONE = re.compile(rb"\b[0-9]{1,5}[A-Za-z]?\b")
_FIELD_END = re.compile(rb"[\n\"<>|;]|\.(?:\s|$)|, (?:[A-Z][a-z]+ ){0,2}[A-Z][a-z]+:| [A-Z][a-z]+:")
_TYPES = frozenset({"ADDRESS"})
ADDRESS = Recognizer(
    "address",
    _TYPES,
    rb"\b[0-9]{1,5}[A-Za-z]?,? (?:[A-Z\xc3-\xc5]|[0-9]{1,3}(?:st|nd|rd|th) "
    rb"|rue |avenue |boulevard |place |chemin |all\xc3\xa9e )"
    rb"|(?:stra(?:\xc3\x9f|ss)e|str\.|weg|platz|allee|gasse|ufer|straat|laan|plein|gracht|kade|gatan?|veien|vegen|stien"
    rb"|v\xc3\xa4gen|vej|gade|katu| utca| \xc3\xbat| t\xc3\xa9r) [0-9]"
    rb"|\b(?:Via|Viale|Piazza|Corso|Largo|Calle|Carrer|Avenida|Av\.|Avda\.|Plaza|Paseo|Rua|Travessa|ul\.|ulica|Strada)"
    rb" (?:[A-Z\xc3-\xc5]|d[aeio]|la |los )"
    rb"|, [A-Z]{2} [0-9]{5}\b|\bP\.?O\.? Box [0-9]{1,6}\b",
    b"0123456789swpaglukv,PVCLART S ",
    _examine,
)
ADDRESS_FIELD = Recognizer(
    "address_field",
    _TYPES,
    rb"(?i:\b(?:street |home |mailing |billing |shipping |delivery |postal )?(?:address|anschrift|adresse"
    rb"|direcci\xc3\xb3n)[\"']?)"
    rb"[ \t]{0,2}[:=][ \t]{0,2}\n?[\"']?[0-9A-Z]",
    both_cases("shmbdpa"),
    _examine_field,
)
