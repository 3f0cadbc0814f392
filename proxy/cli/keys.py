"""``llm-sidecar keys``: make, encrypt, re-encrypt and list keys. A secret is never taken from the command line, which
other users of the machine can read: it comes from standard input, or is typed unseen."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import re
import secrets as random_secrets
import sys
from pathlib import Path
from typing import Any

from proxy.cli import add_config_arguments, say
from proxy.config import ConfigError
from proxy.config.secrets import (
    FILE_VARIABLE,
    KEY_VARIABLE,
    SecretError,
    encrypt,
    generate_master_key,
    master_keys,
    rotate,
)

TOKEN = re.compile(r"(\$\{encrypted:)([^}\s]+)(\})")
_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,100}")


def add_parser(commands: Any) -> None:
    """It has four commands of its own."""
    parser = commands.add_parser("keys", help="generate, encrypt, rotate and list keys")
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    made = what.add_parser(
        "generate",
        help="a new master key, or a virtual key for authenticate",
        description="master: a key for ${encrypted:...} values. virtual: a key to give to a caller, and the line that "
        "lets it in; only its SHA-256 is kept.",
    )
    made.add_argument("kind", nargs="?", choices=("master", "virtual"), default="master")
    made.add_argument("--out", metavar="FILE", help="write the key to a new file of mode 0600 instead of printing it")
    made.add_argument("--id", default="app", help="virtual: name of the key (app)")
    made.add_argument("--principal", help="virtual: who calls with it (its id)")
    made.add_argument("--project", help="virtual: project that pays")
    sealed = what.add_parser(
        "encrypt",
        help="a secret as ${encrypted:...}",
        description=f"Reads the secret from standard input, or asks for it. Needs {KEY_VARIABLE} or {FILE_VARIABLE}.",
    )
    sealed.add_argument("--raw", action="store_true", help="keep the line end at the end of what is read")
    turned = what.add_parser(
        "rotate",
        help="encrypt every ${encrypted:...} in files anew, with the newest master key",
        description="Put the new master key before the old one, rotate, then remove the old one. Files are replaced "
        "whole or not at all; comments and layout stay.",
    )
    turned.add_argument("files", nargs="+", metavar="FILE")
    turned.add_argument("--dry-run", action="store_true", help="only say what would be done")
    listed = what.add_parser("list", help="the provider keys and virtual keys of a configuration, never their secrets")
    add_config_arguments(listed)


def run(args: Any) -> int:
    """0 done; 1 a file could not be rotated; 2 cannot be done as asked."""
    try:
        if args.what == "generate":
            return _generate(args)
        if args.what == "encrypt":
            return _encrypt(args)
        if args.what == "rotate":
            return _rotate(args)
        return _list(args)
    except SecretError as error:
        say(f"keys {args.what}: {error}")
        return 2
    except OSError as error:
        say(f"keys {args.what}: {error.filename}: {error.strerror}")
        return 2


# --- generate ----------------------------------------------------------------------------------------


def _generate(args: argparse.Namespace) -> int:
    if args.kind == "master":
        key = generate_master_key()
        if args.out:
            _write_new(Path(args.out), key)
            say(f"master key written; use it with {FILE_VARIABLE}={args.out}")
        else:
            print(key)
            say(f"keep it out of the configuration: {KEY_VARIABLE}, or a file of mode 0600 named by {FILE_VARIABLE}")
        return 0
    if not _ID.fullmatch(args.id):
        say(f"keys generate: --id {args.id[:100]!r}: letters, digits and _ . : @ - only, 100 at most")
        return 2
    key = f"sk-sidecar-{random_secrets.token_urlsafe(32)}"
    if args.out:
        _write_new(Path(args.out), key)
        say(f"virtual key written to {args.out}")
    else:
        print(key)
        say("give it to the caller now: it is shown this once")
    say("under authenticate: {method: keys, keys: [...]}:")
    print(virtual_line(args.id, key, args.principal, args.project))
    return 0


def virtual_line(name: str, key: str, principal: str | None, project: str | None) -> str:
    """The entry of ``authenticate`` that lets ``key`` in."""
    more = "".join(
        f', {field}: "{_quoted(value)}"' for field, value in (("principal", principal), ("project", project)) if value
    )
    return f'- {{id: "{name}", sha256: "{hashlib.sha256(key.encode()).hexdigest()}"{more}}}'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _write_new(path: Path, text: str) -> None:
    """Mode 0600 from the first moment; an existing file is left alone. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")


# --- encrypt and rotate ------------------------------------------------------------------------------


def _encrypt(args: argparse.Namespace) -> int:
    keys = master_keys(os.environ)
    if sys.stdin.isatty():
        text = getpass.getpass("secret: ")
    else:
        text = sys.stdin.read()
        if not args.raw:
            text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        say("keys encrypt: the secret is empty; give it on standard input")
        return 2
    print(f"${{encrypted:{encrypt(text, keys)}}}")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    keys = master_keys(os.environ)
    failed = 0
    for name in args.files:
        path = Path(name)
        raw = path.read_bytes()
        try:
            before = raw.decode()
            after, count = rotated(before, keys)
        except ValueError as error:
            say(f"{name}: left as it was: {error}")
            failed += 1
            continue
        if count and not args.dry_run:
            _replace(path, after)
        print(f"{name}: {count} secret{'s' if count != 1 else ''} {'to encrypt' if args.dry_run else 'encrypted'} anew")
    return 1 if failed else 0


def rotated(text: str, keys: tuple[str, ...]) -> tuple[str, int]:
    """The text with every token made anew with the newest key, and how many. Raises SecretError with the line."""
    count = 0

    def anew(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        try:
            return found[1] + rotate(found[2], keys) + found[3]
        except SecretError as error:
            line = text.count("\n", 0, found.start()) + 1
            raise SecretError(f"line {line}: {error}") from None

    return TOKEN.sub(anew, text), count


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, with the mode and owner that it had; a link stays a link. Raises OSError."""
    real = path.resolve()
    status = real.stat()
    beside = real.with_name(f".{real.name}.{random_secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(beside, status.st_uid, status.st_gid)
        beside.chmod(status.st_mode & 0o7777)
        beside.replace(real)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


# --- list --------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    from proxy.cli.table import table  # noqa: PLC0415 - only here
    from proxy.load import load_config  # noqa: PLC0415 - not needed to make keys

    try:
        loaded, _ = load_config(args.config, overrides=args.overrides)
    except ConfigError as error:
        for problem in error.problems:
            say(str(problem))
        return 2
    shown = loaded.shown()
    rows = []
    for pool, settings in shown["keys"].items():
        for key in settings["keys"]:
            limits = [f"{key[name]} {name.removeprefix('max_')}" for name in ("max_rpm", "max_tpm") if key[name]]
            state = "enabled" if key["enabled"] in (True, "true") else "disabled"
            if not isinstance(key["enabled"], bool):  # written as a reference: what it came to counts
                found = next(one for one in loaded.config.keys[pool].keys if one.id == key["id"])
                state = "enabled" if found.enabled else "disabled"
            # As written: ${NAME} says where it comes from, a secret in the file itself is hidden.
            rows.append((pool, key["id"], key["tier"], state, ", ".join(limits), key["secret"]))
    print(table(("pool", "key", "tier", "state", "limits", "secret"), rows))
    virtual = [
        (chain, key.id, key.principal or key.id, key.project, key.expires)
        for chain, entries in loaded.config.chains.items()
        for entry in entries
        if entry.policy == "authenticate"
        for key in getattr(entry.options, "keys", ())
    ]
    if virtual:
        print()
        print(table(("chain", "virtual key", "principal", "project", "expires"), virtual))
    return 0
