"""Weights shared out over processes (FSDP2), and whole again where they are needed."""

import torch
from torch import Tensor, nn


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave each process a part of every parameter, in place; gradients and optimiser state follow.

    The parameters are one unit, whole from the forward pass to the end of the backward pass: stages call parts of
    their networks by themselves, and the networks here are small beside their optimiser's state. Buffers stay whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor; all of one that is not shared out."""
    own = getattr(value, "to_local", None)
    return value if own is None else own()


def whole(value: Tensor) -> Tensor:
    """All of a tensor. Where it is shared out, every process has to ask."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def shared_like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor shared out as ``example`` is, whose shape it has; as it is where ``example`` is whole."""
    mesh = getattr(example, "device_mesh", None)
    if mesh is None:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(example, DTensor)
    return distribute_tensor(value.to(example.device), mesh, example.placements)
