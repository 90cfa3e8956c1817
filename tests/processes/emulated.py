"""The worker on a device of its own, whose tensors compute as the CPU's do but refuse to meet those of the CPU.

A command that ends here as it does on the CPU puts every tensor where it belongs; this shows it without a GPU. It says
nothing of a GPU's kernels, memory or speed, and autocast has no effect.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from diladiff_cli.cli.main import run
from tests.processes import worker

KIND = "emulated"
DEVICE = torch.device("cpu")  # until set_up
counts = {"operations": 0}
refused = set[torch.dtype]()  # that the device does not have
aten = torch.ops.aten
ACROSS = (aten.copy_.default, aten._to_copy.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
JOINING = (aten.cat.default, aten.stack.default)


class OtherDeviceError(Exception):
    """Tensors or generators of two devices met."""


class DeviceTensor(torch.Tensor):
    """Stands for a tensor on the device; ``held`` is what it computes with."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "DeviceTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @property
    def data(self) -> torch.Tensor:
        """As of any tensor."""
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        raise TypeError("assigning data would leave what this tensor holds as it was")

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.held})"

    def tolist(self) -> Any:
        """The one way to the host that torch refuses to subclasses."""
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(op, *args, **(kwargs or {}))


def strangers(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors on the CPU that a GPU's operation would refuse.

    It takes single numbers from there, but does not join them, and the places to look at.
    """
    if op in ACROSS:
        return []
    if op in INDEXING and isinstance(args[0], DeviceTensor):
        args = (args[0], *args[2:])
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    return [t for t in tensors if not isinstance(t, DeviceTensor) and (t.dim() or op in JOINING)]


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation of the device on what its tensors hold.

    Raises:
        OtherDeviceError: Of tensors some lie on the CPU.
        TypeError: The result is of a type that the device refuses.
    """
    mine = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, DeviceTensor)]
    if mine and strangers(op, args, kwargs):
        raise OtherDeviceError(f"{op} of tensors on {DEVICE} and the CPU")
    counts["operations"] += 1
    wanted = kwargs.get("device")
    if op is aten.copy_.default:
        here = isinstance(args[0], DeviceTensor)
    else:
        here = bool(mine) if wanted is None else torch.device(wanted).type == KIND
    if wanted is not None and here:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if op is aten._efficientzerotensor.default:
        op = aten.zeros.default  # it holds no memory, which only the layers above this one can deal with
    args, kwargs = tree_map(lambda value: value.held if isinstance(value, DeviceTensor) else value, (args, kwargs))
    known = {id(tensor.held): tensor for tensor in mine}  # what works in place gives back what it was given

    def placed(value: Any) -> Any:
        if not here or not isinstance(value, torch.Tensor) or isinstance(value, DeviceTensor):
            return value
        if value.dtype in refused:
            raise TypeError(f"{op}: {DEVICE} has no {value.dtype}")
        return known[id(value)] if id(value) in known else DeviceTensor(value)

    return tree_map(placed, op(*args, **kwargs))


class Generator(torch.Generator):
    """A generator that knows which device it is of."""

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        made = super().__new__(cls, device="cpu")
        made.kind = torch.device(device).type
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass


class GeneratorsStayAtHome(TorchFunctionMode):
    """Draws only with generators of the device that they are for, as CUDA does."""

    def __torch_function__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            wanted = kwargs.get("device")
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            kind = torch.device(wanted).type if wanted is not None else tensors[0].device.type if tensors else "cpu"
            own = getattr(generator, "kind", "cpu")
            if own != kind:
                raise OtherDeviceError(f"{op} on {kind} with a generator of {own}")
        return op(*args, **kwargs)


class Backend(_DummyBackendModule):
    """What torch asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def synchronize(self, device: Any = None) -> None:
        pass


def from_host(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.tensor and its like, which cannot fill a tensor of this device."""

    def made(data: Any, *, device: torch.device | str | None = None, **options: Any) -> torch.Tensor:
        return make(data, **options) if device is None else make(data, **options).to(device)

    return made


def set_up() -> list[torch.library.Library]:
    """Make the device, and the one that Accelerate gives to everything; the libraries must be kept."""
    global DEVICE
    from accelerate import PartialState

    from diladiff_cli.runtime.processes import process_state

    _setup_privateuseone_for_python_backend(KIND, backend_module=Backend())
    DEVICE = torch.device(KIND, 0)
    library = torch.library.Library("_", "IMPL")
    library.fallback(compute, "PrivateUse1")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    torch.__future__.set_swap_module_params_on_conversion(True)  # or conversions would go through `data`
    torch.Generator = Generator  # type: ignore[misc]
    torch.tensor, torch.as_tensor = from_host(torch.tensor), from_host(torch.as_tensor)
    os.environ.pop("ACCELERATE_USE_CPU", None)
    process_state()
    PartialState._shared_state["device"] = DEVICE
    return [library]


def counted(arguments: list[str]) -> int:
    """Run a command, and say last how much of it ran on the device."""
    counts["operations"] = 0
    status = run(arguments)
    print(f"{counts['operations']} operations on {DEVICE}", file=sys.stderr)
    return status


def main() -> None:
    kept = set_up()
    worker.run = counted
    with GeneratorsStayAtHome():
        worker.main()
    del kept


if __name__ == "__main__":
    main()
