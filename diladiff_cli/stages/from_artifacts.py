"""Networks from artifacts, with their weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diladiff_cli.errors import UserError, first_line
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.artifacts import Artifact

CLASSES: dict[str, type[nn.Module]] = {
    "mdlm": TokenDenoiser,
    "ae": AutoEncoder,
    "prior": LatentPrior,
    "student": LatentStudent,
}
MAX_LENGTH = 1 << 24  # rotary positions leave no trace of it in the weights


class _NoStartingValues(TorchFunctionMode):
    """Leaves out the functions of ``nn.init``.

    Some load torch's compiler for a tensor without memory, most draw from the global generator, and all are in vain
    where weights are loaded next.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return kwargs["out"] if "out" in kwargs else func(*args, **kwargs)


def own_arguments(network: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network's class, without those of the feature source beside it."""
    return {name: value for name, value in network.items() if name not in ("features", "features_hash")}


def outline(stage: str, network: Mapping[str, Any]) -> nn.Module:
    """A stage's network without values, which takes no memory; ``network`` as in its config.json."""
    with torch.device("meta"), _NoStartingValues():
        return CLASSES[stage](**own_arguments(network))


def build(artifact: Artifact, device: torch.device | str = "cpu") -> Any:
    """The artifact's network with its weights in float32, frozen, in evaluation mode.

    Nothing is made in the sizes that config.json states before they were compared with the weights.

    Raises:
        UserError: Weights are damaged, of another shape, or of more or less than the network.
    """
    network = own_arguments(artifact.network)
    state: Mapping[str, Tensor] = artifact.state_dict()
    make = CLASSES[artifact.stage]
    try:
        _check_sizes(network, state)
        wanted = {name: value.shape for name, value in outline(artifact.stage, network).state_dict().items()}
    except Exception as error:  # of whatever a constructor makes of values that no network has
        what = f"{artifact.path / 'config.json'} describes no network ({first_line(error)})"
        raise UserError(what, "make it again") from error
    odd = sorted(n for n in wanted.keys() | state.keys() if n not in state or wanted.get(n) != state[n].shape)
    if odd:
        found, needed = (
            tuple(shapes[odd[0]]) if odd[0] in shapes else "nothing" for shapes in (_shapes(state), wanted)
        )
        raise UserError(
            f"the weights of {artifact.path} do not fit its config.json ({odd[0]} is {found}, wanted {needed})",
            "make it again",
        )
    with torch.inference_mode(False):  # whatever mode, device and precision the caller has set
        with torch.device("cpu"), _NoStartingValues():
            model = make(**network).float()
        model.load_state_dict(state)
        return model.requires_grad_(False).eval().to(device)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _check_sizes(network: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse numbers that not even the outline of a network with these weights can have."""
    entries = sum(value.numel() for value in state.values())
    for name, value in network.items():
        if isinstance(value, Mapping):
            _check_sizes(value, state)
        most = len(state) if name == "layers" else max(MAX_LENGTH, entries) if name == "length" else entries
        if type(value) is int and not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, more than the weights can have")
