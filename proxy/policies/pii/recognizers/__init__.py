"""The built-in recognizers, in the order in which the combined pattern tries them at one place of a text."""

from __future__ import annotations

from proxy.policies.pii.recognizers import credit_card, phone, us_ssn
from proxy.policies.pii.recognizers.address import ADDRESS, ADDRESS_FIELD
from proxy.policies.pii.recognizers.bank_account import BANK_ACCOUNT
from proxy.policies.pii.recognizers.base import Recognizer
from proxy.policies.pii.recognizers.crypto import BASE58, BECH32, ETHEREUM
from proxy.policies.pii.recognizers.date import DATE
from proxy.policies.pii.recognizers.date_of_birth import DATE_OF_BIRTH
from proxy.policies.pii.recognizers.digits import Judge
from proxy.policies.pii.recognizers.driver_license import DRIVER_LICENSE
from proxy.policies.pii.recognizers.email import EMAIL
from proxy.policies.pii.recognizers.iban import IBAN
from proxy.policies.pii.recognizers.ip_address import IPV4, IPV6
from proxy.policies.pii.recognizers.jwt import JWT
from proxy.policies.pii.recognizers.mac_address import MAC_ADDRESS
from proxy.policies.pii.recognizers.medical_id import MEDICAL_ID
from proxy.policies.pii.recognizers.national_id import NATIONAL_ID, NATIONAL_ID_BARE
from proxy.policies.pii.recognizers.number import number
from proxy.policies.pii.recognizers.passport import PASSPORT
from proxy.policies.pii.recognizers.person import (
    PERSON_BEFORE,
    PERSON_BEHIND,
    PERSON_BLOCK,
    PERSON_FIELD,
    PERSON_SAID,
    PERSON_SPEAKER,
    PERSON_TITLE,
)
from proxy.policies.pii.recognizers.plain_number import PHONE_BEHIND, SIGNS
from proxy.policies.pii.recognizers.private_key import PRIVATE_KEY
from proxy.policies.pii.recognizers.secret import SECRET, SECRET_INSIDE
from proxy.policies.pii.recognizers.secret_context import (
    BEARER,
    CURL_USER,
    PASSWORD,
    PASSWORD_OPTION,
    PASSWORD_PAIR,
    SECRET_CONTEXT,
)
from proxy.policies.pii.recognizers.tax_id import TAX_ID
from proxy.policies.pii.recognizers.url_credentials import URL_CREDENTIALS
from proxy.policies.pii.recognizers.username import USERNAME

__all__ = ["Recognizer", "enabled"]

_BEFORE_NUMBERS = (
    PRIVATE_KEY,
    URL_CREDENTIALS,
    JWT,
    SECRET,
    SECRET_INSIDE,
    EMAIL,
    IPV6,
    MAC_ADDRESS,
    IPV4,
    IBAN,
    ETHEREUM,
    BECH32,
    BASE58,
    NATIONAL_ID_BARE,
    ADDRESS,
    PHONE_BEHIND,
)
_AFTER_NUMBERS = (
    PASSWORD_PAIR,
    PASSWORD,
    PASSWORD_OPTION,
    SECRET_CONTEXT,
    BEARER,
    CURL_USER,
    DATE_OF_BIRTH,
    MEDICAL_ID,
    PASSPORT,
    DRIVER_LICENSE,
    TAX_ID,
    NATIONAL_ID,
    BANK_ACCOUNT,
    USERNAME,
    PERSON_TITLE,
    PERSON_BEFORE,
    PERSON_FIELD,
    PERSON_SAID,
    PERSON_SPEAKER,
    PERSON_BEHIND,
    PERSON_BLOCK,
    ADDRESS_FIELD,
    # Last: whatever else begins with such a word is that.
    *SIGNS,
)
_JUDGES: tuple[tuple[str, Judge, range], ...] = (
    ("CREDIT_CARD", credit_card.judge, range(12, 20)),
    ("US_SSN", us_ssn.judge, range(9, 10)),
    ("PHONE", phone.judge, range(7, 16)),
)


def enabled(types: frozenset[str]) -> tuple[Recognizer, ...]:
    """The recognizers that any of `types` needs, in the order of the alternation."""
    judges = tuple((judge, sizes) for kind, judge, sizes in _JUDGES if kind in types)
    chosen = [r for r in _BEFORE_NUMBERS if r.types & types]
    if "DATE" in types:
        chosen.append(DATE)
    if judges:
        said = phone.named if "PHONE" in types else None
        cards = credit_card.named if "CREDIT_CARD" in types else None
        address = IPV4.examine if "IP_ADDRESS" in types else None
        chosen.append(number(frozenset(kind for kind, *_ in _JUDGES) & types, judges, said, cards, address))
    chosen.extend(r for r in _AFTER_NUMBERS if r.types & types)
    return tuple(chosen)
