"""Texts as people, programs and clinics write them, every value marked: found whole, and nothing else is.

All values are made up or published examples.
"""

import re

import pytest

from proxy.policies.pii.detector import Detector

MARKED = r"""
Hey, can u ping me on [[PHONE|+44 7911 123456]] or [[PHONE|07911 123456]]? thx
Contact our Paris office: tél. [[PHONE|01 42 68 53 00]], mail [[EMAIL|accueil@mairie-paris.fr]]
Mein Name ist [[PERSON|Jürgen Köhler]], Tel. [[PHONE|0171/2345678]], wohnhaft [[ADDRESS|Lindenallee 14, 80331 München]]
Kontakt: [[PHONE|+43 1 5850 500]] oder [[EMAIL|office@wien-hotel.at]]
{"customer": {"phone": "[[PHONE|(212) 736-5000]]", "email": "[[EMAIL|b.stone@corp.example.org]]"}}
Llámame al [[PHONE|+34 612 345 678]] mañana
Il mio numero è [[PHONE|+39 347 123 4567]], grazie
call [[PHONE|+91 98765 43210]] now
WhatsApp: [[PHONE|+55 11 91234-5678]]
My US cell is [[PHONE|415-555-0198]], ext not needed
Fax: [[PHONE|(030) 2345-6789]]
phone=[[PHONE|2025550143]]&name=x
連絡先: [[PHONE|03-1234-5678]]
Телефон: [[PHONE|+7 495 123-45-67]]
You can text [[PHONE|(646) 555.0147]] anytime
2024-03-01 12:00:01 INFO user [[EMAIL|kim.lee@startup.io]] logged in from [[IP_ADDRESS|88.77.66.55]]
ssh admin@[[IP_ADDRESS|10.42.7.19]] -p 2222
nginx: client [[IP_ADDRESS|2a01:4f8:c17:b8f::2]] request GET /
inet addr:[[IP_ADDRESS|172.20.10.4]] Mask:255.255.255.0
Please charge my card [[CREDIT_CARD|4539 1488 0343 6467]] exp 09/27 cvv 123
mastercard [[CREDIT_CARD|5425233430109903]] declined
amex: [[CREDIT_CARD|3714-496353-98431]]
{"card_number":"[[CREDIT_CARD|6011000990139424]]","exp":"12/26"}
Discover [[CREDIT_CARD|6011 6011 6011 6611]]
wire to [[IBAN|GB82 WEST 1234 5698 7654 32]] please
IBAN: [[IBAN|FR1420041010050500013M02606]]
Konto [[IBAN|AT611904300234573201]]
send to [[IBAN|NL91ABNA0417164300]] (Rabobank)
SSN [[US_SSN|536-22-8726]] on file
social security number: [[US_SSN|078 05 1121]]
"ssn": "[[US_SSN|457558912]]"
Employee [[US_SSN|212-44-9871]], hired 2019
btc: [[CRYPTO|3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy]]
donate [[CRYPTO|bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4]]
eth wallet [[CRYPTO|0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed]]
tx to [[CRYPTO|0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359]]
passport number [[PASSPORT|533380006]], issued in London
Passport: [[PASSPORT|L8988901C]]
Her passport is [[PASSPORT|K12345678]] and visa pending
Reisepass-Nr. [[PASSPORT|C4VK6KX24]]
"passportNo": "[[PASSPORT|YA1234567]]"
passport #[[PASSPORT|A03456781]] expires 2030
Passeport n° [[PASSPORT|09AB12345]]
I lost my passport ([[PASSPORT|GF4567890]]) in Rome
travel document no: [[PASSPORT|XK0987654]]
Pasaporte: [[PASSPORT|AAB123456]]
MRN: [[MEDICAL_ID|4471092]] admitted with chest pain
Patient ID [[MEDICAL_ID|PT-88213]]
NHS Number: [[MEDICAL_ID|943 476 5919]]
medical record number is [[MEDICAL_ID|MR-2291-77]]
Member ID: [[MEDICAL_ID|XQH123456789]] group 4411
Medicare number [[MEDICAL_ID|1EG4-TE5-MK72]]
"patient_id": "[[MEDICAL_ID|88213377]]"
Versichertennummer [[MEDICAL_ID|A123456780]]
DOB [[DATE_OF_BIRTH|03/14/1985]]
born [[DATE_OF_BIRTH|12 May 1990]] in Leeds
D.O.B.: [[DATE_OF_BIRTH|1978-11-02]]
née le [[DATE_OF_BIRTH|4 mars 1969]] à Lyon
geb. [[DATE_OF_BIRTH|17.08.1955]]
Fecha de nacimiento: [[DATE_OF_BIRTH|23/07/1991]]
birthday is [[DATE_OF_BIRTH|June 5th, 1988]]
"birthDate": "[[DATE_OF_BIRTH|1999-12-31]]"
my birthdate: [[DATE_OF_BIRTH|5.6.1974]]
born on [[DATE_OF_BIRTH|1980/01/15]], male
生年月日 [[DATE_OF_BIRTH|1985年3月14日]]
OPENAI_API_KEY=[[SECRET|sk-proj-Xk39vJq0LmTz81Wd7RbYc5NpFa2HgEs4]]
export AWS_SECRET_ACCESS_KEY=[[SECRET|q8XzL1m0VbT4yKc7RwJ2nHfE9sPdA5uGgQo3MiZx]]
aws_access_key_id = [[SECRET|AKIAZ7QK4NDR2WXM5PLT]]
GITHUB_TOKEN: [[SECRET|ghp_Zk3mX9qLw2Rt7VbYc5NpFa8HgEs4Jd1UoTiB]]
Authorization: Bearer [[SECRET|q8XzL1m0VbT4yKc7RwJ2nHfE9sPdA5uG]]
slack token [[SECRET|xoxb-283746510293-481726354092-Zk3mX9qLw2Rt7VbYc5NpFa8H]]
stripe: [[SECRET|sk_live_4eC39HqLyjWDarjtT1zdp7dc]]
password: [[SECRET|Tr33house!42]]
my wifi password is [[SECRET|blue-Fish77]]
"db_password": "[[SECRET|pG9#kL2qz]]"
PGPASSWORD=[[SECRET|s3cr3tPg1]] psql
mysql -u root -p[[SECRET|hunter2x]] db
postgres://svc:[[SECRET|Zx81kLmQ]]@db.internal:5432/app
DATABASE_URL=mysql://root:[[SECRET|toor99!]]@[[IP_ADDRESS|10.0.0.5]]/x
client_secret=[[SECRET|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]]
hf token [[SECRET|hf_Zk3mXqLwRtVbYcNpFaHgEsJdUoTiBQ]]
the api key is [[SECRET|9f8e7d6c5b4a39281706f5e4d3c2b1a0]]
login: admin / [[SECRET|Winter2024!]]
pwd=[[SECRET|qwErty_99]]
secret: [[SECRET|b7d1f09a3c5e48d2a6f1908e7c3b5d4a]]
npm config set //registry.npmjs.org/:_authToken=[[SECRET|npm_Zk3mX9qLw2Rt7VbYc5NpFa8HgEs4Jd1UoTiB]]
sendgrid [[SECRET|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]]
AIza key: [[SECRET|AIzaSyD4Zk3mX9qLw2Rt7VbYc5NpFa8HgEs4Jd1]]
azure: DefaultEndpointsProtocol=https;AccountName=x;AccountKey=[[SECRET|q8XzL1m0VbT4yKc7RwJ2nHfE9sPdA5uGgQo3MiZxq8XzL1m0VbT4yKc7RwJ2nHfE9sPdA5uGgQo3MiZx1234==]]
glpat: [[SECRET|glpat-Zk3mX9qLw2Rt7VbYc5Np]]
token=[[SECRET|eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U]]
MAC [[MAC_ADDRESS|a4:5e:60:d2:11:9f]]
Hi, I'm [[PERSON|Priya Raman]] from support
Dear [[PERSON|Mr. Okafor]], your order shipped
From: [[PERSON|Elena Petrova]] <[[EMAIL|elena@firma.ru]]>
Best regards,\n[[PERSON|Tomás García]]
Patient: [[PERSON|Robert Klein]], age 54
[[PERSON|Dr. Susan Wu]] will see you
my name's [[PERSON|Ahmed Hassan]]
this is [[PERSON|Maria]] calling
contact [[PERSON|John Smith]] at [[PHONE|555-867-5309]]
"firstName": "[[PERSON|Chloe]]"
name=[[PERSON|Wei Chen]]
[[PERSON|Mrs Anna Kowalska]] called
[[PERSON|Liam O'Brien]] ([[EMAIL|liam@obrien.ie]]) asked
Cc: [[PERSON|Fatima Zahra]]
Ship to [[ADDRESS|742 Evergreen Terrace, Springfield, OR 97477]]
I live at [[ADDRESS|221B Baker Street, London NW1 6XE]]
address: [[ADDRESS|10 Rue de Rivoli, 75004 Paris]]
Anschrift: [[ADDRESS|Königstraße 5, 70173 Stuttgart]]
[[ADDRESS|1600 Amphitheatre Parkway, Mountain View, CA 94043]]
[[ADDRESS|Via Roma 12, 00184 Roma]]
[[ADDRESS|Calle Mayor 45, 28013 Madrid]]
billing address: [[ADDRESS|Flat 3, 18 Park Road, Leeds LS1 4AB]]
[[ADDRESS|P.O. Box 4421, Austin, TX 78701]]
driver's license [[DRIVER_LICENSE|D123-4567-8901]]
DL# [[DRIVER_LICENSE|S99988801]]
PESEL: [[NATIONAL_ID|90010112349]]
Aadhaar [[NATIONAL_ID|2345 6789 0124]]
DNI [[NATIONAL_ID|12345678Z]]
personnummer [[NATIONAL_ID|811228-9874]]
account number [[BANK_ACCOUNT|12345678]], sort code [[BANK_ACCOUNT|20-00-00]]
routing number: [[BANK_ACCOUNT|021000021]]
EIN [[TAX_ID|12-3456789]]
Steuer-ID: [[TAX_ID|86095742719]]
VAT [[TAX_ID|GB980780684]]
username: [[USERNAME|dark_phoenix]]
"""

CLEAN = r"""
The order number is 4815162342 and it ships on 2024-05-06.
Version 10.0.19045.3803 fixes CVE-2023-36025.
commit 9fceb02d0ae598e95dc970b74767f19372d61af8 broke the build
UUID 123e4567-e89b-12d3-a456-426614174000 not found
ISBN 978-0-306-40615-7 is out of print
Set password: <your password here> in the form
The password must be at least 8 characters.
const apiKey = process.env.API_KEY;
token = get_token(user)
api_key: YOUR_API_KEY_HERE
Use Bearer <token> in the header
export TOKEN=$(cat /run/secrets/token)
for i in range(1000000): total += i * 3.14159265
Tracking 1Z999AA10123456784 is in transit
EAN 4006381333931 scanned twice
timestamps 1700000000 1700003600 1700007200
latitude 52.520008, longitude 13.404954
10.5 12.25 13.125 99.0001 100.5
SELECT * FROM users WHERE id = 12345678;
HTTP/1.1 200 OK in 1234567 us
Call the function with 3 arguments and return 12345678
The meeting is on 12/05/2024 at 10:30, room 204
I was born to run, said the song of 1975
He was born in a small town near the sea.
password reset link expires in 24 hours
See section 4.3.2.1 of the manual
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
md5 d41d8cd98f00b204e9800998ecf8427e
Invoice INV-2024-000123 total 1,234,567.89 EUR
the fox jumps over 2 dogs; dear reader, best of luck
Please contact Support or the Sales team for details
name: Production Server
user: admin logged out
ticket #1234567 assigned to queue 5
IP 127.0.0.1 and 0.0.0.0 are local
std::vector<int>::iterator it = v.begin();
a::b::c and fe80::1%eth0
color #ff5733 and 0xDEADBEEF
serial number SN-8842-1193-X
The population was 8,336,817 in 2019.
page 12-34, vol 5, 2001-2005
model XJ-900-4521 costs 499.99
2024-05-06T12:30:11.123Z ERROR timeout after 30000 ms
base64: aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Q=
DELETE /v1/items/5551234567 404
Order 4111-2222 for 12 units
Room 1234 5678 are the codes 9012 of the 3456 lockers
my name is on the list
This is Sparta
I am Legend is a film; I am Happy today
Best Regards from the whole team
thanks Everyone
@media (max-width: 600px) {}
user@host:~$ ls -la
git@github.com:org/repo.git
npm i @angular/core@12.0.0
key: value
{"password": null, "token": ""}
secretary: the secretary will call
Passport control was quick; passport renewal takes 6 weeks
The account for March is closed
account of 1848 events
driver license renewal office
tax year 2023/2024
vat rate 19 percent
Decimal('+35236450.6') was rounded
address: An integer representation of an IPv4 address
'pass': ('pass', '') is the default
"""

_MARK = re.compile(r"\[\[([A-Z_]+)\|(.*?)\]\]")
_SAME = {"JWT": "SECRET", "PRIVATE_KEY": "SECRET", "PASSWORD": "SECRET"}


@pytest.mark.parametrize("line", MARKED.strip().split("\n"))
def test_what_is_marked_is_found_and_nothing_else(detector: Detector, line: str) -> None:
    line = line.replace("\\n", "\n")
    text = _MARK.sub(lambda mark: mark[2], line)
    found = [(_SAME.get(one.type, one.type), text[one.start : one.end]) for one in detector.detect(text)]
    assert found == [(mark[1], mark[2]) for mark in _MARK.finditer(line)]


@pytest.mark.parametrize("line", CLEAN.strip().split("\n"))
def test_a_clean_text_stays(detector: Detector, line: str) -> None:
    assert detector.detect(line) == []
