"""``train-mdlm``: the masked diffusion base (method section 2)."""

from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diladiff_cli.config import BASE_NETWORK, MdlmConfig
from diladiff_cli.core.masking import apply_mask, draw_mask, elbo_weight
from diladiff_cli.core.objectives import masked_nll
from diladiff_cli.core.times import low_discrepancy
from diladiff_cli.data.tokens import TokenData, open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.likelihood import masked_figures
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.notes import say
from diladiff_cli.runtime.folders import restore
from diladiff_cli.runtime.isolation import isolated_run
from diladiff_cli.runtime.locks import exclusive_out
from diladiff_cli.runtime.loop import train
from diladiff_cli.runtime.precision import settled_for_device
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.run import LossFn, Run
from diladiff_cli.runtime.session import Session
from diladiff_cli.stages.common import (
    compile_method,
    data_record,
    linear_flops,
    plan,
    row_order,
    seeded,
    validation_batches,
)
from diladiff_cli.stages.initial_base import InitialBase, initial_base
from diladiff_cli.stages.masked_logits import base_logits
from diladiff_cli.tokenizer_files import read_tokenizer

MEANS = "loss is a mean over all tokens, nll of validation over the masked ones"


def network_arguments(config: MdlmConfig, data: TokenData) -> dict[str, Any]:
    """The base's keyword arguments."""
    shape = {name: getattr(config, name) for name in BASE_NETWORK}
    return shape | {"vocab_size": data.vocab_size, "mask_id": data.mask_id, "length": data.length}


def with_network(config: MdlmConfig, initial: InitialBase) -> MdlmConfig:
    """The configuration with the network of the base to begin with."""
    usual = signature(TokenDenoiser).parameters  # what an artifact need not spell
    shape = {name: initial.network.get(name, usual[name].default) for name in BASE_NETWORK}
    size = "width {width}, {layers} layers, {heads} heads, {positions} positions".format(**shape)
    say(f"beginning with the weights of {initial.source}, and with its network: {size}")
    return replace(config, **shape)


def denoiser_flops(model: TokenDenoiser) -> float:
    """Operations of a training forward pass per text: all blocks, and the vocabulary head at half of the places."""
    return linear_flops(model.blocks, model.length) + 2.0 * model.vocab_size * model.width * model.length / 2


def mdlm_flops(model: TokenDenoiser) -> float:
    """Operations of a training step per text."""
    return 3 * denoiser_flops(model)


def masked_batch(x: Tensor, rng: BatchRng, mask_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, is_masked (B, L) and t (B,), with low-discrepancy times over the global batch."""
    t = low_discrepancy(rng.shared_uniform(), rng.positions, rng.batch_size)
    is_masked = draw_mask(t, rng.uniform(x.shape[1]))
    return apply_mask(x, is_masked, mask_id), is_masked, t


def mdlm_loss(mask_id: int, exact: bool) -> LossFn:
    """Cross-entropy of the masked tokens, with constant or exact ELBO weight (method section 2)."""

    def loss_fn(model: nn.Module, x: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
        x_t, is_masked, t = masked_batch(x, rng, mask_id)
        nll = model(x_t, select=is_masked, targets=x[is_masked])  # (M,)
        weight = elbo_weight(t) if exact else t.new_ones(len(t))
        weights = weight[:, None].expand(x.shape)[is_masked]
        return masked_nll(nll, weights, x.numel()), {}

    return loss_fn


@exclusive_out
@isolated_run
def train_mdlm(
    config: MdlmConfig,
    *,
    data: Path | str,
    init: Path | str | None = None,
    out: Path | str,
    resume: bool | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train the base on a token data set and write its artifact.

    Args:
        config: Network and optimisation.
        data: Token data set made by ``encode``.
        init: A base to begin with, see :func:`diladiff_cli.stages.initial_base.initial_base`, whose network counts
            instead of the configuration's; None to begin from scratch.
        out: Folder of the artifact.
        resume: Continue, start over, or (None) continue an unfinished identical run.
        dry_run: Only check the inputs.

    Returns:
        The last validation's figures, or the plan of a dry run.

    Raises:
        UserError: Unusable data, base or output folder.
    """
    data, out = Path(data), Path(out)
    restore(data)
    tokens = open_tokens(data)
    if init is not None and out.resolve() == Path(init).expanduser().resolve():
        raise UserError(f"--init {init} is the folder of --out, which would replace it", "choose another --out")
    initial = None if init is None else initial_base(init, tokens)
    if initial is not None:
        config = with_network(config, initial)
    config = settled_for_device(config, out, resume)
    network = network_arguments(config, tokens)
    artifact = {
        "stage": "mdlm",
        "network": network,
        "parents": {},
        "data": data_record(tokens, out),
        "tokenizer": read_tokenizer(tokens.path),
    }
    if initial is not None:
        artifact["also"] = {"init": {"source": initial.source, "hash": initial.digest}}
    if dry_run:
        return plan(artifact, config, out, resume)
    session = Session(config, out)
    with seeded(config.seed):
        model = TokenDenoiser(**network)
    if initial is not None:
        model.load_state_dict(initial.weights)
    split = tokens.split("train")
    batches = validation_batches(tokens, config, session.device)
    run = Run(
        model=model,
        loss_fn=mdlm_loss(tokens.mask_id, config.elbo_weight == "exact"),
        fetch=split.gather,
        tokens_per_row=tokens.length,
        flops_per_row=mdlm_flops(model),
        validate=lambda average: masked_figures(base_logits(average), batches, tokens.mask_id),
        artifact=artifact,
        row_order=row_order(config, len(split)),
        compile_body=partial(compile_method, "body"),
        notes=() if config.elbo_weight == "exact" else (MEANS,),
    )
    return train(run, session, config, out, resume)
