"""Where a Weaviate listens: REST and gRPC are two addresses, the second mostly follows from the first."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

from weaviate.connect.base import ProtocolParams

from pipeline.errors import BadSettings

GRPC_PORT: Final = 50051
_EXAMPLE: Final = "It looks like http://host:8080 or https://name.weaviate.cloud."
_GRPC_EXAMPLE: Final = "It looks like host:50051, grpc://host:50051 or grpcs://host:443."


def rest_address(url: str) -> ProtocolParams:
    """The address in WEAVIATE_URL. Raises BadSettings."""
    parts = _split(url, "WEAVIATE_URL", _EXAMPLE)
    if parts.scheme not in {"http", "https"}:
        raise BadSettings("WEAVIATE_URL must start with http:// or https://.", _EXAMPLE)
    if parts.path.strip("/"):
        raise BadSettings("WEAVIATE_URL has a path, which Weaviate's client can't use.", _EXAMPLE)
    secure = parts.scheme == "https"
    return ProtocolParams(host=_host(parts), port=parts.port or (443 if secure else 80), secure=secure)


def grpc_address(grpc_url: str | None, rest: ProtocolParams) -> ProtocolParams:
    """The address in WEAVIATE_GRPC_URL, or without one what follows from REST's.

    That is port 50051 of the same host; or, where REST is https on port 443 as in Weaviate Cloud,
    port 443 of ``grpc-<host>``. Raises BadSettings.
    """
    if not grpc_url:
        if rest.secure and rest.port == 443:
            return ProtocolParams(host=f"grpc-{rest.host}", port=443, secure=True)
        return ProtocolParams(host=rest.host, port=GRPC_PORT, secure=rest.secure)
    bare = "://" not in grpc_url
    parts = _split(f"//{grpc_url}" if bare else grpc_url, "WEAVIATE_GRPC_URL", _GRPC_EXAMPLE)
    if parts.scheme not in {"", "grpc", "grpcs", "http", "https"}:
        raise BadSettings("WEAVIATE_GRPC_URL must start with grpc:// or grpcs://.", _GRPC_EXAMPLE)
    secure = rest.secure if bare else parts.scheme in {"grpcs", "https"}
    return ProtocolParams(host=_host(parts), port=parts.port or (443 if secure else GRPC_PORT), secure=secure)


def _split(url: str, name: str, example: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise BadSettings(f"{name} is not a URL with a host and a valid port.", example)
    return parts


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return f"[{host}]" if ":" in host else host
