"""Random damage to files, and what came of it."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diladiff_cli.errors import UserError
from diladiff_cli.settings import ConfigError


def flip_bit(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :]


def other_byte(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + bytes([(raw[place] + rng.randrange(1, 256)) % 256]) + raw[place + 1 :]


def cut_end(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def cut_middle(raw: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(raw))
    return raw[:start] + raw[start + rng.randint(1, 64) :]


def blank_out(raw: bytes, rng: random.Random) -> bytes:
    """As a block that never reached the disk."""
    start, count = rng.randrange(len(raw)), rng.randint(1, 512)
    part = raw[start : start + count]
    return raw[:start] + bytes(len(part)) + raw[start + len(part) :]


KINDS = (flip_bit, other_byte, cut_end, cut_middle, blank_out)


@dataclass
class Tally:
    """What came of all tries, by kind of file."""

    tried: Counter[str] = field(default_factory=Counter)
    detected: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        """A table."""
        yield f"{'file':28}{'tried':>8}{'detected':>10}{'harmless':>10}"
        for name in [*sorted(self.tried), "all"]:
            found = [c.total() if name == "all" else c[name] for c in (self.tried, self.detected, self.harmless)]
            yield f"{name:28}{found[0]:8}{found[1]:10}{found[2]:10}"


def spoil(file: Path, use: Callable[[], Any], positions: int, seed: str, tally: Tally, kind: str) -> None:
    """Damage a file in many ways, one at a time, and use it each time.

    Asserts that it is either refused by one line that names it, or gives the very same result as undamaged. The file is
    whole again afterwards.
    """
    rng = random.Random(seed)
    raw, wanted = file.read_bytes(), use()
    for number in range(positions):
        damage = KINDS[number % len(KINDS)]
        damaged = damage(raw, rng)
        if damaged == raw:
            continue
        file.write_bytes(damaged)
        tally.tried[kind] += 1
        message = found = None
        try:
            found = use()
        except (UserError, ConfigError) as error:
            message = str(error)
        finally:
            file.write_bytes(raw)
        what = f"{damage.__name__} number {number} of {file}"
        if message is None:
            assert found == wanted, f"{what} went unnoticed"
            tally.harmless[kind] += 1
        else:
            assert file.name in message, f"{what}: {message}"
            assert "\n" not in message
            tally.detected[kind] += 1
