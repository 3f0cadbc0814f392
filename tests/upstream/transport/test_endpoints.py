"""TLS, unix sockets, forward proxies."""

from __future__ import annotations

import asyncio
import datetime
import logging
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy.upstream.transport import ConnectFailed, ConnectTimeout, Endpoint, Timeouts, TlsOptions
from proxy.upstream.transport.proxies import Proxy, bypassed, choose

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def _answer(peer):
    while await peer.request():
        await peer.say(OK)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Paths of `ca.pem`, `server.pem` (for upstream.test), `expired.pem`, `client.pem` and the keys `*.key`."""
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    ca_key = ec.generate_private_key(ec.SECP256R1())

    def write(name, subject, key, ends=now + day, ca=False):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name("Test CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if not ca:
            names = x509.SubjectAlternativeName([x509.DNSName(subject)])
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            certificate = certificate.add_extension(names, critical=False).add_extension(usage, critical=False)
        signed = certificate.sign(ca_key, hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    write("ca", "Test CA", ca_key, ca=True)
    write("server", "upstream.test", ec.generate_private_key(ec.SECP256R1()))
    write("expired", "upstream.test", ec.generate_private_key(ec.SECP256R1()), ends=now - day)
    write("client", "client.test", ec.generate_private_key(ec.SECP256R1()))
    return folder


def _server_context(certificates, name="server"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def _tls(certificates, **options):
    return TlsOptions(**{"ca": str(certificates / "ca.pem"), "sni": "upstream.test", **options})


async def test_tls_with_an_own_authority_and_another_name(world, get, certificates):
    port = await world.upstream(_answer, ssl=_server_context(certificates))
    pool = world.pool(port, scheme="https", tls=_tls(certificates))
    for _ in range(3):
        assert await (await pool.send(get())).read() == b"hello"
    assert world.accepted == 1


@pytest.mark.parametrize(
    ("server", "options"),
    [("server", {"sni": "other.test"}), ("server", {"ca": None}), ("expired", {}), ("server", {"sni": None})],
    ids=["another name", "unknown authority", "expired", "address not in the certificate"],
)
async def test_a_certificate_that_does_not_verify_is_refused(world, get, certificates, server, options):
    port = await world.upstream(_answer, ssl=_server_context(certificates, server))
    pool = world.pool(port, scheme="https", tls=_tls(certificates, **options))
    with pytest.raises(ConnectFailed, match="certificate was refused") as caught:
        await pool.send(get())
    assert caught.value.reason == "tls_verify"
    assert pool.busy == 0


async def test_verify_false_is_logged(world, get, certificates, caplog):
    port = await world.upstream(_answer, ssl=_server_context(certificates, "expired"))
    pool = world.pool(port, scheme="https", tls=TlsOptions(verify=False))
    with caplog.at_level(logging.WARNING):
        assert await (await pool.send(get())).read() == b"hello"
    assert "its certificate is not checked" in caplog.text


async def test_a_client_certificate_is_shown(world, get, certificates):
    context = _server_context(certificates)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates / "ca.pem")
    port = await world.upstream(_answer, ssl=context)
    cert, key = str(certificates / "client.pem"), str(certificates / "client.key")
    pool = world.pool(port, scheme="https", tls=_tls(certificates, cert=cert, key=key))
    assert await (await pool.send(get())).read() == b"hello"


async def test_missing_certificate_files_are_named(world, get, certificates):
    pool = world.pool(1, scheme="https", tls=TlsOptions(ca="/no/such/ca.pem"))
    with pytest.raises(ConnectFailed, match=r"there is no file /no/such/ca\.pem") as caught:
        await pool.send(get())
    assert caught.value.reason == "tls_setup"


async def test_a_hanging_handshake_is_a_connect_timeout(world, get):
    async def script(peer):
        await peer.closed()

    pool = world.pool(await world.upstream(script), scheme="https", timeouts=Timeouts(connect=0.1))
    with pytest.raises(ConnectTimeout):
        await pool.send(get())
    await world.quiet.wait()
    assert pool.busy == 0


async def test_an_upstream_without_tls_is_named(world, get):
    async def script(peer):
        await peer.reader.read(1)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.closed()

    pool = world.pool(await world.upstream(script), scheme="https")
    with pytest.raises(ConnectFailed) as caught:
        await pool.send(get())
    assert caught.value.reason == "tls"


async def test_a_unix_socket(world, get, tmp_path):
    path = str(tmp_path / "upstream.sock")
    await world.upstream(_answer, path=path)
    pool = world.pool(80, unix=path)
    for _ in range(2):
        answer = await pool.send(get())
        assert await answer.read() == b"hello"
    assert answer.remote == path
    assert world.accepted == 1


async def test_a_unix_socket_that_is_not_there(world, get, tmp_path):
    with pytest.raises(ConnectFailed) as caught:
        await world.pool(80, unix=str(tmp_path / "none.sock")).send(get())
    assert caught.value.reason == "no_socket"


def _connect_proxy(seen, to, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
    async def script(peer):
        seen.append(await peer.request())
        await peer.say(answer)
        reader, writer = await asyncio.open_connection("127.0.0.1", to)

        async def copy(source, target):
            while data := await source.read(65536):
                target.write(data)

        forth = asyncio.ensure_future(copy(reader, peer.writer))
        try:
            await copy(peer.reader, writer)
        finally:
            writer.close()
            forth.cancel()
            await asyncio.gather(forth, return_exceptions=True)

    return script


async def test_https_goes_through_a_connect_proxy(world, get, certificates):
    seen = []
    upstream = await world.upstream(_answer, ssl=_server_context(certificates))
    proxy = await world.upstream(_connect_proxy(seen, upstream))
    pool = world.pool(
        443,
        scheme="https",
        host="upstream.test",
        tls=_tls(certificates, sni=None),
        proxy=f"http://me:p%40ss@127.0.0.1:{proxy}",
    )
    assert await (await pool.send(get())).read() == b"hello"
    assert seen == [
        b"CONNECT upstream.test:443 HTTP/1.1\r\nHost: upstream.test:443\r\n"
        b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n"
    ]
    assert "p@ss" not in repr(pool._proxy)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 407 Auth\r\n\r\n", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nextra", b"x" * 20_000]
)
async def test_a_proxy_that_refuses_is_named(world, get, answer):
    async def script(peer):
        await peer.request()
        await peer.say(answer)
        await peer.closed()

    port = await world.upstream(script)
    pool = world.pool(443, scheme="https", host="upstream.test", proxy=f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectFailed) as caught:
        await pool.send(get())
    assert caught.value.reason == "proxy"
    await world.quiet.wait()


async def test_http_is_sent_to_a_proxy_in_absolute_form(world, get):
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        await peer.say(OK)

    port = await world.upstream(script)
    pool = world.pool(80, host="upstream.test", proxy=f"http://127.0.0.1:{port}")
    await (await pool.send(get())).read()
    assert seen[0].startswith(b"GET http://upstream.test/v1/models HTTP/1.1\r\nHost: upstream.test\r\n")


ENVIRON = {"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": "corp.test,.inner.test,10.0.0.0/8,one.test:8443"}


@pytest.mark.parametrize(
    ("host", "port", "direct"),
    [
        ("api.example.com", 443, False),
        ("corp.test", 443, True),
        ("a.corp.test", 443, True),
        ("notcorp.test", 443, False),
        ("a.inner.test", 443, True),
        ("10.1.2.3", 443, True),
        ("11.1.2.3", 443, False),
        ("one.test", 8443, True),
        ("one.test", 443, False),
        ("localhost", 443, True),
        ("127.0.0.1", 443, True),
    ],
)
def test_the_environment_names_the_proxy(host, port, direct):
    chosen = choose(Endpoint("https", host, port), ENVIRON)
    assert chosen == (None if direct else Proxy("proxy.test", 3128))


def test_none_and_a_star_never_use_a_proxy():
    assert choose(Endpoint("https", "a.test", 443, proxy="none"), ENVIRON) is None
    assert choose(Endpoint("https", "a.test", 443, proxy=""), ENVIRON) is None
    assert bypassed("a.test", 443, "*")


def test_a_proxy_url_that_cannot_be_used_is_refused_without_its_password():
    with pytest.raises(ValueError, match="only proxies") as caught:
        choose(Endpoint("https", "a.test", 443, proxy="socks5://me:secret@p.test:1"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("https://a.test/v1", b"a.test"),
        ("http://a.test:8080", b"a.test:8080"),
        ("https://[::1]:9/v1", b"[::1]:9"),
        ("https://bücher.test", b"xn--bcher-kva.test"),
    ],
)
def test_the_host_header_of_an_endpoint(url, header):
    assert Endpoint.from_url(url).host_header == header


@pytest.mark.parametrize("url", ["ftp://a.test", "https://", "https://a b.test"])
def test_a_url_that_is_no_endpoint_is_refused(url):
    with pytest.raises(ValueError, match=r"scheme|host"):
        Endpoint.from_url(url)
