"""SplitMix64 (Steele, Lea and Flood, 2014) on int64 tensors, whose 64 bits are read as unsigned."""

from torch import Tensor

GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # the constants as signed numbers
MASK = (1 << 64) - 1


def splitmix64(key: Tensor | int, places: Tensor) -> Tensor:
    """Outputs number ``places`` (counted from 0) of the stream seeded with ``key``; the two broadcast."""
    return mixed(key + (places + 1) * GOLDEN)  # integers wrap around


def mixed(state: Tensor) -> Tensor:
    """The output for a state; successive states of a stream are GOLDEN apart."""
    state = (state ^ shifted(state, 30)) * MIX_1
    state = (state ^ shifted(state, 27)) * MIX_2
    return state ^ shifted(state, 31)


def shifted(bits: Tensor, by: int) -> Tensor:
    """Logical (unsigned) right shift."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mix(*parts: int) -> int:
    """A 63-bit hash of integers (splitmix64 steps)."""
    state = 0
    for part in parts:
        state = (state + part + GOLDEN) & MASK
        state = ((state ^ (state >> 30)) * MIX_1) & MASK
        state = ((state ^ (state >> 27)) * MIX_2) & MASK
        state ^= state >> 31
    return state >> 1
