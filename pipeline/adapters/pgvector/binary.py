"""Values in Postgres's binary wire format: a tenth of the CPU of writing numbers as text."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from pipeline.types import Vector

_ARRAY = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i")
_VECTOR = struct.Struct(">hh")
_INT4_OID = 23


class Binary(bytes):
    """A parameter that is already in wire format; Postgres infers its type from the cast around it."""


class _AsItIs(Dumper):
    format = Format.BINARY
    oid = 0

    def dump(self, obj: Buffer) -> Buffer:
        return bytes(obj)


def accept_binary(connection: psycopg.Connection) -> None:
    """Let ``connection`` send :class:`Binary` parameters."""
    connection.adapters.register_dumper(Binary, _AsItIs)


def vector(values: Vector, *, half: bool) -> Binary:
    """One vector (halfvec where ``half``) from an array of shape (dimensions,)."""
    return Binary(_VECTOR.pack(len(values), 0) + values.astype(">f2" if half else ">f4").tobytes())


def array(element_oid: int, items: Sequence[bytes]) -> Binary:
    """A one-dimensional array without nulls of items in wire format."""
    if not items:
        return Binary(struct.pack(">iiI", 0, 0, element_oid))
    parts = [_ARRAY.pack(1, 0, element_oid, len(items), 1)]
    for item in items:
        parts += (_LENGTH.pack(len(item)), item)
    return Binary(b"".join(parts))


def int4_array(values: NDArray[np.int32]) -> Binary:
    """An ``int4[]``; each element is preceded by its length in bytes."""
    if not len(values):
        return array(_INT4_OID, [])
    pairs = np.full((len(values), 2), 4, dtype=">i4")
    pairs[:, 1] = values
    return Binary(_ARRAY.pack(1, 0, _INT4_OID, len(values), 1) + pairs.tobytes())


def read_int4_array(sent: bytes) -> NDArray[np.int32]:
    """The values of a non-empty ``int4[]`` that ``array_send`` wrote."""
    return np.frombuffer(sent, ">i4", offset=_ARRAY.size)[1::2].astype(np.int32)
