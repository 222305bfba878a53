"""Keys of receipts: one secret of the installation, from which every tenant's are derived.

The secret is ``MEMOS_RECEIPT_KEY`` or, unset, a file that only its owner can read: ``home/receipts/secret``.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

from memos.activation.keys import TenantSecrets, tenant_secret
from memos.config import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = "receipts"


class ReceiptKeys:
    """The keys of an installation. Raises :class:`StoreUnavailable` where the secret can be neither read nor made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._given = settings.receipt_key.get_secret_value()

    def of(self, tenant: str) -> ReceiptKey:
        """Return the key of a tenant."""
        if self._given:
            return ReceiptKey(tenant_secret(bytes.fromhex(self._given), tenant))
        return ReceiptKey(self._kept.of(tenant))

    @cached_property
    def _kept(self) -> TenantSecrets:
        return TenantSecrets(self._settings.home.expanduser() / FOLDER)


class ReceiptKey:
    """Signs a tenant's receipts (Ed25519, RFC 8032), and hides what was deleted behind keyed digests."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def public(self) -> str:
        """What a signature can be checked with, 64 hex digits."""
        return self._signer.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        """Return the signature of some bytes, 128 hex digits."""
        return self._signer.sign(data).hex()

    def signed(self, data: bytes, signature: str) -> bool:
        """Return whether a signature is this key's, over these bytes."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._signer.public_key().verify(bytes.fromhex(signature), data)
        except (InvalidSignature, ValueError):  # ValueError: no hex
            return False
        return True

    def digest(self, content: str) -> str:
        """Return the keyed digest (BLAKE2b, 32 hex digits) of the SHA-256 of a text, which could be guessed from."""
        keyed = hashlib.blake2b(content.encode(), key=self._secret, person=b"memos receipt", digest_size=16)
        return keyed.hexdigest()

    @cached_property
    def _signer(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # 0.1 s, for deletions alone

        seed = hashlib.blake2b(key=self._secret, person=b"memos signing", digest_size=32).digest()
        return Ed25519PrivateKey.from_private_bytes(seed)
