"""TLS options of an upstream, and the context made from them."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """`ca`, `cert`, `key`: paths of PEM files. `ca` replaces the system's authorities. `sni`: the name asked for and
    checked, where it differs from the host. `verify: false` trusts anybody, and is logged whenever a context is made.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    sni: str | None = None
    verify: bool = True


def make_context(options: TlsOptions | None, name: str) -> ssl.SSLContext:
    """A client context for the upstream called `name`. Reads files (10-30 ms): keep it off the event loop.

    Raises ValueError that names the file when one is missing or is not what it should be.
    """
    options = options or TlsOptions()
    for label, path in (("ca", options.ca), ("cert", options.cert), ("key", options.key)):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"tls.{label} of {name}: there is no file {path}")
    if options.key is not None and options.cert is None:
        raise ValueError(
            f"tls.key of {name} is given without tls.cert: give both, or a cert file that holds the key too"
        )
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except ssl.SSLError as error:
        raise ValueError(
            f"tls.ca of {name}: {options.ca} holds no readable PEM certificate ({error.reason})"
        ) from error
    if options.cert is not None:
        try:
            # The password callback keeps OpenSSL from asking on the terminal; an encrypted key fails instead.
            context.load_cert_chain(options.cert, options.key, password=lambda: b"")
        except ssl.SSLError as error:
            raise ValueError(
                f"tls.cert of {name}: {options.cert} and its key cannot be used together ({error.reason or error})"
            ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not options.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        logger.warning("tls.verify is false for %s: its certificate is not checked, anybody may answer for it", name)
    return context
