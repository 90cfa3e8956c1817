"""SplitMix64 (Steele, Lea and Flood, 2014) on tensors of int64, which stand for 64 bits without a sign."""

from torch import Tensor

GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # as signed numbers


def splitmix64(key: Tensor | int, places: Tensor) -> Tensor:
    """The numbers at ``places``, from 0, of the stream of a key, which is broadcast."""
    return mixed(key + (places + 1) * GOLDEN)  # integers wrap around


def mixed(state: Tensor) -> Tensor:
    """The number of a state, each of which is the one before it and GOLDEN."""
    state = (state ^ shifted(state, 30)) * MIX_1
    state = (state ^ shifted(state, 27)) * MIX_2
    return state ^ shifted(state, 31)


def shifted(bits: Tensor, by: int) -> Tensor:
    """Shifted right without the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
