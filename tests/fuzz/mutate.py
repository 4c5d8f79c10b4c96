"""Mutations of bytes and of plain data that every subject shares."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

_INTERESTING = (0, 1, 2, 7, 8, 10, 13, 32, 34, 39, 45, 58, 63, 64, 91, 123, 127, 128, 254, 255)


def bytes_level(rng: random.Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """`data` with one to eight changes: bits, bytes, blocks moved, doubled, cut or replaced."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(result)
        at = rng.randrange(size + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 64, 1024)), size - at)
        match rng.randrange(9):
            case 0 if at < size:
                result[at] ^= 1 << rng.randrange(8)
            case 1 if at < size:
                result[at] = rng.choice(_INTERESTING)
            case 2:
                del result[at : at + length]
            case 3:
                other = rng.randrange(size + 1)
                result[other:other] = result[at : at + length]
            case 4:
                result[at:at] = rng.randbytes(length or 1)
            case 5:
                result[at : at + length] = rng.randbytes(length)
            case 6 if words:
                result[at : at + length] = rng.choice(words)
            case 7:
                number = rng.choice(
                    (0, 1, 255, 1 << 15, 1 << 16, 1 << 31, 1 << 63)
                ) - rng.randrange(2)
                raw = (number % (1 << 64)).to_bytes(8, rng.choice(("little", "big")))
                count = rng.choice((1, 2, 4, 8))
                result[at : at + count] = raw[:count]
            case _:
                del result[at if rng.randrange(4) else rng.randrange(min(size, 64) + 1) :]
    return bytes(result)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside nested dicts and lists, but not of the whole."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found: list[tuple[Any, ...]] = []
    for key, child in items:
        found.append((*path, key))
        found += places(child, (*path, key))
    return found


def misspell(rng: random.Random, word: str) -> str:
    """`word` with a letter dropped, doubled, swapped or replaced."""
    if not word:
        return "x"
    at = rng.randrange(len(word))
    letter = word[at]
    match rng.randrange(4):
        case 0:
            return word[:at] + word[at + 1 :]
        case 1:
            return word[:at] + letter + word[at:]
        case 2:
            return word[:at] + word[at + 1 : at + 2] + letter + word[at + 2 :]
        case _:
            return word[:at] + rng.choice("abz_-.0") + word[at + 1 :]
