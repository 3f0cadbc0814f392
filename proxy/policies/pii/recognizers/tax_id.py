"""TAX_ID: tax and VAT numbers after their label; `python-stdnum` confirms what it knows."""

from __future__ import annotations

from proxy.policies.pii.recognizers.labelled import VALUE, labelled
from proxy.policies.pii.recognizers.stdnum_check import known

TAX_ID = labelled(
    "TAX_ID",
    rb"tax(?:payer)?[ _-]?(?:id(?:entification)?|no|nr|number|code|reference)(?: number)?(?: nip)?|nip|tin|ein"
    rb"|itin|vat|utr"
    rb"|fein|abn|gstin|pan|steuer-?(?:id|nr|nummer|identifikationsnummer)|id-?nr|ust-?id(?:-?nr)?|ustid|siren|siret|nif"
    rb"|cif|partita iva|p\.? ?iva|cnpj|kvk|btw|inn",
    "tnievufagpscrkb",
    rb"[0-9]{2}\.[0-9]{3}\.[0-9]{3}/[0-9]{4}-[0-9]{2}|[0-9]{2}(?: [0-9]{3}){3}|" + VALUE,
    known(
        {
            9: ("us.ein", "es.nif"),
            10: ("pl.nip", "gb.utr"),
            11: ("de.idnr", "au.abn", "it.iva"),
            14: ("br.cnpj", "fr.siret"),
        },
        prefixed="eu.vat",
    ),
    digits=6,
)
