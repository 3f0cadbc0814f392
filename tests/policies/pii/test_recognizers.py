"""Each recognizer: what it must find, what looks alike and is not, and what context decides."""

from collections.abc import Callable

import pytest

Finds = Callable[..., list[tuple[str, str]]]

FOUND = [
    ("EMAIL", "write to ann.lee+x@mail.example.co.uk today", "ann.lee+x@mail.example.co.uk"),
    ("EMAIL", "Bitte an jörg.müller@bücher-welt.de senden", "jörg.müller@bücher-welt.de"),
    ("EMAIL", "联系 li@例え.jp。谢谢", "li@例え.jp"),
    ("EMAIL", "<ann@x.io>", "ann@x.io"),
    ("EMAIL", "mailto:12345@qq.com?subject=x", "12345@qq.com"),
    ("EMAIL", "a@xn--d1acufc.xn--p1ai", "a@xn--d1acufc.xn--p1ai"),
    ("PHONE", "call me at +49 30 901820", "+49 30 901820"),
    ("PHONE", "(415) 555-2671 is mine", "(415) 555-2671"),
    ("PHONE", "ring 415.555.2671", "415.555.2671"),
    ("PHONE", "Tel. 06 12 34 97 80", "06 12 34 97 80"),
    ("PHONE", "0044 20 7946 0958", "0044 20 7946 0958"),
    ("PHONE", "my mobile: 5551234", "5551234"),
    ("PHONE", "电话：13812345678", "13812345678"),
    ("PHONE", "+41 (0)44 668 18 00", "+41 (0)44 668 18 00"),
    ("PHONE", "on 2024-05-06 +1 415 555 2671 rang", "+1 415 555 2671"),
    ("CREDIT_CARD", "card 4111 1111 1111 1111 ok", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "5500005555555559", "5500005555555559"),
    ("CREDIT_CARD", "amex 3782 822463 10005", "3782 822463 10005"),
    ("CREDIT_CARD", "in 2020 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "4111111111111111/5500005555555559", "4111111111111111"),
    ("IBAN", "IBAN DE89 3704 0044 0532 0130 00.", "DE89 3704 0044 0532 0130 00"),
    ("IBAN", "gb29nwbk60161331926819", "gb29nwbk60161331926819"),
    ("US_SSN", "her number is 219-09-9999", "219-09-9999"),
    ("US_SSN", "SSN 219099999", "219099999"),
    ("US_SSN", "social security no: 219 09 9999", "219 09 9999"),
    ("IP_ADDRESS", "from 81.2.69.142 port 22", "81.2.69.142"),
    ("IP_ADDRESS", "port 22 81.2.69.142 up", "81.2.69.142"),
    ("IP_ADDRESS", "net 10.2.0.0/16", "10.2.0.0/16"),
    ("IP_ADDRESS", "at 2a02:26f0:9c00::17d4:1", "2a02:26f0:9c00::17d4:1"),
    ("IP_ADDRESS", "[2a02:26f0:9c00:1:2:3:17d4:1]:443", "2a02:26f0:9c00:1:2:3:17d4:1"),
    ("MAC_ADDRESS", "eth0 3c:22:fb:4a:90:1e up", "3c:22:fb:4a:90:1e"),
    ("MAC_ADDRESS", "3C-22-FB-4A-90-1E", "3C-22-FB-4A-90-1E"),
    ("CRYPTO", "to 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"),
    ("CRYPTO", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
    ("CRYPTO", "0x52908400098527886E0F7030069857D2E4169EE7", "0x52908400098527886E0F7030069857D2E4169EE7"),
    ("CRYPTO", "0xde709f2102306220921060314715629080e2fb77", "0xde709f2102306220921060314715629080e2fb77"),
    ("PASSPORT", "Passport No: C01X00T47", "C01X00T47"),
    ("PASSPORT", "Reisepass C01234565 ausgestellt", "C01234565"),
    ("DRIVER_LICENSE", "driver's license: D1234567", "D1234567"),
    ("NATIONAL_ID", "PESEL 44051401359", "44051401359"),
    ("NATIONAL_ID", "soy X1234567L, hola", "X1234567L"),
    ("NATIONAL_ID", "CPF 390.533.447-05", "390.533.447-05"),
    ("TAX_ID", "VAT number DE136695976", "DE136695976"),
    ("TAX_ID", "NIP is 526-10-40-828", "526-10-40-828"),
    ("BANK_ACCOUNT", "account number: 0532013000", "0532013000"),
    ("MEDICAL_ID", "MRN 00195217 admitted", "00195217"),
    ("MEDICAL_ID", "Patient ID: PAT-9806-0315", "PAT-9806-0315"),
    ("MEDICAL_ID", "Medicare Beneficiary Identifier 1EG4-TE5-MK73", "1EG4-TE5-MK73"),
    ("BANK_ACCOUNT", "acct 12345678", "12345678"),
    ("MEDICAL_ID", "NHS no 943 476 5919", "943 476 5919"),
    ("DATE_OF_BIRTH", "DOB: 1972-04-26", "1972-04-26"),
    ("DATE_OF_BIRTH", "born on 3 March 1981 in Rome", "3 March 1981"),
    ("DATE_OF_BIRTH", "Date of birth November 25, 1970", "November 25, 1970"),
    ("DATE_OF_BIRTH", "geboren am 04.05.1960", "04.05.1960"),
    ("USERNAME", "username: jdoe42", "jdoe42"),
    ("PASSWORD", "password: hunter2!x", "hunter2!x"),
    ("PASSWORD", "my password is Tr0ub4dor&3", "Tr0ub4dor&3"),
    ("PASSWORD", "postgres://app:s3cr3t@db:5432/x", "s3cr3t"),
    ("PASSWORD", 'DB_PASSWORD="correct horse"'.replace(" ", "-"), "correct-horse"),
    ("SECRET", "use ghp_0odVmMKQ5NAKIVEp6lfFrE7nHqyb1dqq8Jdn", "ghp_0odVmMKQ5NAKIVEp6lfFrE7nHqyb1dqq8Jdn"),
    ("SECRET", "key AKIA76KH36JAC4JIXCUN", "AKIA76KH36JAC4JIXCUN"),
    ("SECRET", "glpat-euDPWrgsM4iF5vL9PUqe", "glpat-euDPWrgsM4iF5vL9PUqe"),
    ("SECRET", "api_key: 9sOL4gj3Utn0gaWW22065OUv2Ici", "9sOL4gj3Utn0gaWW22065OUv2Ici"),
    ("SECRET", "Authorization: Basic YXBpOmtleM8uJ3UwWDJ1Kl", "YXBpOmtleM8uJ3UwWDJ1Kl"),
    ("SECRET", "curl -u bob:gP0mNov4Ex https://x.io", "bob:gP0mNov4Ex"),
    ("PERSON", "My name is Ann Lee and", "Ann Lee"),
    ("PERSON", "from Ann Lee <ann@x.io>", "Ann Lee"),
    ("PERSON", "Jennifer date of birth is 1979-05-02", "Jennifer"),
    ("ADDRESS", "Springfield, IL 62704", "Springfield, IL 62704"),
    ("PHONE", "1 2 3 then call 030 901820", "030 901820"),
    ("PERSON", "see Dr. Wei Zhang", "Dr. Wei Zhang"),
    ("PERSON", "Patient Name: Émile Zola, 52", "Émile Zola"),
    ("PERSON", "Sincerely,\nRobert Green", "Robert Green"),
    ("ADDRESS", "lives at 123 Maple Street, Springfield, IL 62704.", "123 Maple Street, Springfield, IL 62704"),
    ("ADDRESS", "Hauptstraße 12 in Bonn", "Hauptstraße 12"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "value"), FOUND, ids=[f"{k}-{v[:24]}" for k, _, v in FOUND])
def test_finds(finds: Finds, kind: str, text: str, value: str) -> None:
    assert (kind, value) in finds(text)


NEAR_MISSES = [
    ("EMAIL", "@property and pkg@1.2.3"),
    ("EMAIL", "not-an-email@"),
    ("EMAIL", "git@github.com:group/repo.git"),
    ("EMAIL", "logo@2x.png"),
    ("PHONE", "ids: 3159865109,4322641543"),
    ("PHONE", "Part number: 555-123-4567-A"),
    ("PHONE", "ISBN 978-3-16-148410-0"),
    ("PHONE", "epoch 1706797470906"),
    ("PHONE", "build 22621.3960.1"),
    ("PHONE", "2024-05-06 12:30:11"),
    ("PHONE", "order 8806211827"),
    ("PHONE", "call us, open 1995-2011"),
    ("CREDIT_CARD", "card 4111 1111 1111 1112"),
    ("CREDIT_CARD", "part no 978531572852723"),
    ("CREDIT_CARD", "shipped with 627564467438"),
    ("IBAN", "IBAN DE89 3704 0044 0532 0130 01"),
    ("US_SSN", "000-12-3456 and 666-12-3456 and 123-00-4567 and 123-45-0000"),
    ("US_SSN", "zip 123456789"),
    ("IP_ADDRESS", "version 1.2.3.4 and 1.2.3.4.5 and 300.1.1.1"),
    ("IP_ADDRESS", "localhost 127.0.0.1 and ::1"),
    ("IP_ADDRESS", "a[::-1] std::map<a::b, c::d> 12:30:45"),
    ("MAC_ADDRESS", "aa:bb:cc:dd:ee:ff"),
    ("MAC_ADDRESS", "fingerprint 3c:22:fb:4a:90:1e:77:01:02:03"),
    ("CRYPTO", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"),
    ("CRYPTO", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdz"),
    ("CRYPTO", "0x52908400098527886e0F7030069857D2E4169EE7"),  # the case is that of no checksum
    ("CRYPTO", "commit 406acb67286752cd8b79f7283c179b3d0a98514a"),
    ("PASSPORT", "passport renewal takes weeks"),
    ("DRIVER_LICENSE", "license: Apache-2.0"),
    ("DATE_OF_BIRTH", "released on 2024-05-06"),
    ("DATE_OF_BIRTH", "the company was born. 2024-01-01 it moved"),
    ("PASSWORD", "password=<redacted> password: ${DB_PASSWORD} password: ******"),
    ("PASSWORD", "Password: required. The password is incorrect."),
    ("PASSWORD", "password = os.environ['X']"),
    ("SECRET", "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
    ("SECRET", 'CLOUD_APIKEY: "insert_key_here"'),
    ("SECRET", "secretKey: api-key and key: my-secrets-manager-secret"),
    ("SECRET", "key_length = XSalsa20.key_length"),
    ("SECRET", '"token3": "xoxp-1234-1234-1234-4ddbc191d40ee098cbaae6f3523ada2d"'),
    ("SECRET", "sha512-Cb6ZGB86y0rqTzZW5pg5JJRR9a6sJWSYekl9uKdbVO3XrUgLc2D+G9yP3I0QgIQJvLJu+s75ElMa02dglD7gaw=="),
    ("SECRET", "report_access_id: e8e4df51-2054-49b0-ab1c-516ac95c691d"),
    ("JWT", "eyJBB.eyJCC.eyJDDDD"),
    ("PRIVATE_KEY", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"),
    ("DATE", "2024-05-06"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), NEAR_MISSES, ids=[f"{k}-{t[:24]}" for k, t in NEAR_MISSES])
def test_leaves_alone(finds: Finds, kind: str, text: str) -> None:
    assert finds(text, only=kind) == []


CONTEXT = [
    ("client_ip", "10.20.30.40", "IP_ADDRESS"),
    ("ssn", "219099999", "US_SSN"),
    ("phoneNumber", "5551234567", "PHONE"),
    ("password", "plainword", "PASSWORD"),
    ("patientName", "Ann Lee", "PERSON"),
    ("dateOfBirth", "1980-02-03", "DATE_OF_BIRTH"),
    ("passport_number", "C01X00T47", "PASSPORT"),
    ("accountNumber", "0532013000", "BANK_ACCOUNT"),
    ("mrn", "8812345", "MEDICAL_ID"),
]


@pytest.mark.parametrize(("key", "value", "kind"), CONTEXT, ids=[k for k, _, _ in CONTEXT])
def test_a_json_key_decides(finds: Finds, key: str, value: str, kind: str) -> None:
    assert (kind, value) in finds(value, context=key)


@pytest.mark.parametrize("key", ["order_id", "version", "count", "sku"])
def test_a_json_key_that_says_otherwise_keeps_a_bare_number(finds: Finds, key: str) -> None:
    assert finds("3159865109", context=key) == []


def test_a_csv_head_decides(finds: Finds) -> None:
    rows = "id;mail;tel\n1;ann@x.io;612 37 85 87\n"
    assert ("PHONE", "612 37 85 87") in finds(rows)
    assert finds(rows.replace("tel", "sku"), only="PHONE") == []


def test_a_jwt_is_found_whole(finds: Finds) -> None:
    token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
    assert finds(f"Bearer {token}.") == [("JWT", token)]


def test_a_private_key_is_found_whole_and_cut_off(finds: Finds) -> None:
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"] * 5)
    whole = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    assert finds(f"key:\n{whole}\nend") == [("PRIVATE_KEY", whole)]
    cut = f"-----BEGIN EC PRIVATE KEY-----\n{body}"
    assert finds(cut) == [("PRIVATE_KEY", cut)]
