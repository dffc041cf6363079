"""The TLS context of calls to the REST API and to a proxy: certificates are always verified."""

import ssl
from pathlib import Path

import certifi

from gateway.observability.logging import log


def tls_context() -> ssl.SSLContext:
    """Trust the system's certificate authorities, or certifi's."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    add_missing_authorities(context, ssl.get_default_verify_paths().capath)
    return context


def add_missing_authorities(context: ssl.SSLContext, directory: str | None) -> None:
    """Add certifi's certificate authorities to a context if the system has none (a slim image).

    SSL_CERT_FILE and SSL_CERT_DIR name the system's; OpenSSL reads those of a directory when it needs them.
    """
    if not context.cert_store_stats()["x509_ca"] and not any(Path(directory or "/nowhere").glob("*.[0-9]")):
        log.warning("no_system_certificates", instead="certifi")
        context.load_verify_locations(certifi.where())
