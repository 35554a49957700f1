"""A certificate authority of our own, for engines behind TLS on this machine.

Made by the `openssl` command, as an operator makes one for a private network. A gateway trusts it through
SSL_CERT_FILE, which OpenSSL reads in place of the system's list of authorities.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.9")
_DAYS = 3
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def can_certify() -> bool:
    """Return whether the `openssl` command is here."""
    return shutil.which("openssl") is not None


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, both PEM."""

    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """Return what a server needs to show it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """Vouches for servers; it lives in `folder`, and is the same one when that folder is opened again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = self._pair("authority")
        if self._own.certificate.exists():
            return
        _openssl(
            "req", "-x509", *_KEY, "-days", str(_DAYS), "-subj", "/CN=TokenMart test authority",
            "-keyout", self._own.key, "-out", self._own.certificate,
        )  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What a process has in its environment that trusts this authority, and no other."""
        return {"SSL_CERT_FILE": str(self._own.certificate)}

    def _pair(self, name: str) -> Certificate:
        return Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def certify(self, name: str, addresses: tuple[str, ...] = ADDRESSES) -> Certificate:
        """Return a certificate for a server at these addresses."""
        made, asked = self._pair(name), self._folder / f"{name}.csr"
        more = self._folder / f"{name}.ext"
        more.write_text("subjectAltName=" + ",".join(f"IP:{address}" for address in addresses))
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", made.key, "-out", asked)
        _openssl(
            "x509", "-req", "-in", asked, "-days", str(_DAYS), "-CAcreateserial",
            "-CA", self._own.certificate, "-CAkey", self._own.key,
            "-extfile", more, "-out", made.certificate,
        )  # fmt: skip
        return made


def _openssl(*words: str | Path) -> None:
    ran = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"openssl {words[0]} failed: {ran.stderr}")
