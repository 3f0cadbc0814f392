"""Secrets at rest: `${encrypted:...}` values and the master keys that open them.

Fernet with several keys (`MultiFernet`): the newest encrypts, every one decrypts, so master keys can be exchanged
one after the other. The master key comes from the variable `LLM_SIDECAR_MASTER_KEY`, or from the file that
`LLM_SIDECAR_MASTER_KEY_FILE` names, which nobody but its owner may read (mode 0600 or narrower). Both take several
keys, newest first, separated by commas or line ends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

KEY_VARIABLE = "LLM_SIDECAR_MASTER_KEY"
FILE_VARIABLE = "LLM_SIDECAR_MASTER_KEY_FILE"
MAX_FILE = 64 * 1024


class SecretError(ValueError):
    """A secret that cannot be read or opened. The message never holds the secret."""


def read_small(path: Path, *, private: bool = False) -> str:
    """The text of a regular file of at most 64 KiB; with `private` one that only its owner may read.

    Raises `SecretError`.
    """
    try:
        # Non-blocking, so that a pipe or device named by mistake is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise SecretError(f"{path} cannot be read: {_reason(error)}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path} is not a file")
        mode = stat.S_IMODE(status.st_mode)
        if private and mode & 0o177:
            raise SecretError(f"{path} has mode {mode:04o}; a master key file must have 0600: chmod 600 {path}")
        content = os.read(descriptor, MAX_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE:
        raise SecretError(f"{path} is larger than {MAX_FILE // 1024} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8 text") from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def generate_master_key() -> str:
    """A new master key (32 random bytes, base64)."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - 40 ms that only users of encrypted secrets pay

    return Fernet.generate_key().decode()


def master_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """The master keys that the environment names, newest first. Raises `SecretError` when there is none."""
    source = KEY_VARIABLE
    text = env.get(KEY_VARIABLE, "")
    if not text.strip():
        path = env.get(FILE_VARIABLE, "")
        if not path:
            raise SecretError(f"needs a master key: set {KEY_VARIABLE}, or {FILE_VARIABLE} to a file of mode 0600")
        source = path
        text = read_small(Path(path).expanduser(), private=True)
    keys = tuple(key.strip() for key in text.replace("\n", ",").split(",") if key.strip())
    if not keys:
        raise SecretError(f"{source} holds no master key")
    return keys


def encrypt(text: str, keys: tuple[str, ...]) -> str:
    """The token for `${encrypted:TOKEN}`, made with the newest key. Raises `SecretError` for a bad key."""
    return str(_fernet(keys).encrypt(text.encode()).decode())


def decrypt(token: str, keys: tuple[str, ...]) -> str:
    """The text in a token. Raises `SecretError` when no key opens it."""
    from cryptography.fernet import InvalidToken  # noqa: PLC0415

    try:
        return str(_fernet(keys).decrypt(token.strip().encode()).decode())
    except (InvalidToken, UnicodeError, ValueError) as error:
        if isinstance(error, SecretError):
            raise
        raise SecretError(
            "the encrypted value opens with none of the master keys: it is damaged or made with another key"
        ) from None


def rotate(token: str, keys: tuple[str, ...]) -> str:
    """The same secret as a token of the newest key. Raises `SecretError` when no key opens it."""
    return encrypt(decrypt(token, keys), keys)


def _fernet(keys: tuple[str, ...]):  # type: ignore[no-untyped-def]  # its class is imported when first needed
    from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415

    try:
        return MultiFernet([Fernet(key) for key in keys])
    except (ValueError, TypeError):
        raise SecretError(
            "a master key is malformed: it must be 32 bytes in base64, as `llm-sidecar keys generate` makes it"
        ) from None
