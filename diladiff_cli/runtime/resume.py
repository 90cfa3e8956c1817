"""Whether a run may go on from what its folder holds."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from diladiff_cli.config import SECTIONS, StageConfig
from diladiff_cli.errors import UserError, kind_of
from diladiff_cli.integrity import CONFIG_FILE, read_sealed, short_hash
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import linked, load_artifact
from diladiff_cli.runtime.folders import check_replaceable, restore
from diladiff_cli.runtime.processes import from_main
from diladiff_cli.runtime.state import read_progress

# Settings that may differ when a run goes on: they do not change its numbers.
FREE = {"max_minutes", "grad_accum", "compile", "shard", "deterministic"}
FREE |= {"eval_every", "eval_batches", "save_every", "log_every", "log_with"}
# Settings of the optimisation, which an explicit --resume may change: the stored network and optimiser fit them.
CHANGEABLE = {field.name for field in fields(StageConfig)} - {"seed", "optimizer"}

INITIAL, ENCODER = "initial weights", "feature encoder"


def made_from(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers depend on besides its settings: parents, data set, an encoder that features come from, the
    weights that it begins with, and whether its latents are stored ones.

    Args:
        artifact: The fields of the artifact to be, as :class:`diladiff_cli.runtime.run.Run` has them.
    """
    origins = {f"{stage} artifact": short_hash(link["hash"]) for stage, link in artifact["parents"].items()}
    data, encoder = artifact["data"], artifact["network"].get("features_hash")
    origins |= {ENCODER: short_hash(encoder)} if encoder else {}
    initial = artifact.get("also", {}).get("init")
    origins |= {INITIAL: short_hash(initial["hash"])} if initial else {}
    return origins | {"data set": short_hash(data["fingerprint"]), "stored latents": bool(data.get("latents"))}


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str] = frozenset(FREE)
) -> dict[str, str]:
    """Values, by name, that differ between a stored run and the one asked for, but for those that are free to."""
    names = sorted((stored.keys() | wanted.keys()) - {*free})
    return {n: f"{n} {stored.get(n)} -> {wanted.get(n)}" for n in names if stored.get(n) != wanted.get(n)}


def changed_settings(stored: Mapping[str, Any], config: StageConfig) -> dict[str, str]:
    """The settings, by name, in which a run asked for differs from that of a stored progress, see :func:`differences`.

    An option that the run does not record counts as its default. An encoder is what its weights are, see
    :func:`made_from`, however its folder is named.
    """
    before, wanted = type(config)().to_dict() | stored["training"], config.to_dict()
    if ENCODER in stored["made_from"]:
        wanted["features"] = before["features"]
    return differences(before, wanted)


def check_resume(
    out: Path, config: StageConfig, artifact: Mapping[str, Any], resume: bool | None
) -> dict[str, Any] | None:
    """The stored progress to go on from, finished or not, or None to start. Changes nothing in the folder.

    Args:
        out: Folder of the artifact.
        config: The run asked for.
        artifact: The fields of the artifact to be.
        resume: True continues, also with other settings of the optimisation; False starts over; None continues a run of
            the same settings, parents and data. Nothing is trained further where an artifact beside it was made with
            what it has come to.

    Raises:
        UserError: The choice does not fit what is in the folder, or another stage or foreign files are there.
    """
    restore(out)
    stage = check_replaceable(out)
    if stage is not None and SECTIONS.get(stage) is not type(config):
        raise UserError(f"{out} is {kind_of(stage)}, which this run would replace", "choose another --out")
    if resume is False:
        if children := made_with(out):
            say(f"{', '.join(map(str, children))} will not accept the new {out}")
        return None
    stored = read_progress(out / "state")
    if stored is None:
        if resume or (out / "config.json").exists():
            remedy = "use --fresh to start over" if stage else "leave out --resume to begin a run"
            raise UserError(f"{out} holds no training state to resume", f"{remedy}, or give another --out")
        return None
    _check_made_from(out, stored["made_from"], made_from(artifact))
    changed = changed_settings(stored, config)
    changeable = changed.keys() <= CHANGEABLE
    if changeable and stored["step"] < config.max_steps and (children := made_with(out)):
        over = changed and stored["training"]["max_steps"] <= stored["step"]
        state = f"holds a run with other settings ({', '.join(changed.values())})" if changed else "is not finished"
        raise UserError(
            f"{out} {state}, and what was made with it ({', '.join(map(str, children))}) could not use it trained "
            "further",
            f"{'repeat its settings, ' if over else ''}delete those first, or go on with a copy of it: "
            f"cp -r {out} {out}-longer, then {'--resume ' if changed else ''}--out {out}-longer",
        )
    if changed and not (resume and changeable):
        raise UserError(
            f"{out} holds a run with other settings ({', '.join(changed.values())})",
            f"repeat its settings to continue, {'use --resume to go on with the new ones, ' if changeable else ''}"
            "use --fresh to start over, or give another --out",
        )
    if config.max_steps < stored["step"] and not _is_finished(stored, config):
        raise UserError(f"{out} is at step {stored['step']}, beyond --max-steps {config.max_steps}", "give more steps")
    return stored


def check_agreement(
    out: Path, config: StageConfig, artifact: Mapping[str, Any], stored: Mapping[str, Any] | None
) -> None:
    """Refuse processes that would not train the same run, as those of machines whose folders are not the same.

    Also settings that change no numbers must agree: a validation or checkpoint of one process alone waits for ever.

    Args:
        out: Folder of the artifact.
        config: The run asked for.
        artifact: The fields of the artifact to be.
        stored: What this process has from :func:`check_resume`.

    Raises:
        UserError: This process sees other settings, inputs or progress than the main one.
    """
    state = f"of step {stored['step']} after {stored['seconds']:.3f} s" if stored else "none"
    check_alike(out, config.to_dict() | made_from(artifact) | {"training state": state})


def check_alike(out: Path, mine: Mapping[str, Any]) -> None:
    """Refuse processes of which one has other values by name than the main one; all must call this.

    Args:
        out: The folder that they are about to write.
        mine: What this process has.

    Raises:
        UserError: It is this one.
    """
    if differing := differences(from_main(mine), mine, free=()).values():
        raise UserError(
            f"the processes disagree on {out} (the main one and this one: {', '.join(differing)})",
            "--out and all inputs must lie on a disk that every machine sees, and every process needs the same command",
        )


def _check_made_from(out: Path, stored: Mapping[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a run made from something else: before its settings, since those of a base's network come with --init."""
    others = differences(stored, wanted)
    if not others:
        return
    remedy = "give that as it was"
    if others.keys() == {INITIAL}:
        remedy = "leave out --init" if stored.get(INITIAL) is None else "give --init as it was"
        with suppress(OSError, ValueError, LookupError, TypeError):
            remedy += f", {read_sealed(out / CONFIG_FILE)['init']['source']},"
    raise UserError(
        f"{out} holds a run made from something else ({', '.join(others.values())})",
        f"{remedy} to continue, use --fresh to start over, or another --out",
    )


def made_with(folder: Path) -> list[Path]:
    """The artifacts beside one that were made with it as it is now, by name."""
    try:
        content = load_artifact(folder).hash
    except UserError:  # nothing there yet, or damaged
        return []
    children = []
    place = folder.resolve()
    for file in sorted(place.parent.glob(f"*/{CONFIG_FILE}")):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # of another program, or damaged
            links = read_sealed(file)["parents"].values()
            if any(link["hash"] == content and linked(file.parent, link["path"]) == place for link in links):
                children.append(folder.parent / file.parent.name if folder.name else file.parent)
    return children


def finished_run(out: Path, stored: Mapping[str, Any], config: StageConfig) -> dict[str, Any] | None:
    """What a stored run came to, told as finished; None where it is not over, with its last validation.

    It is over also if the one asked for has fewer steps.

    Raises:
        UserError: It is over, but its weights are damaged, or there is no artifact left.
    """
    if not _is_finished(stored, config):
        return None
    try:
        load_artifact(out).state_dict()
    except UserError as error:
        raise UserError(error.what, "restore it, or train again with --fresh") from error
    say(f"{out} is finished, at step {stored['step']}; --fresh trains it again")
    when = {name: stored[name] for name in ("step", "seconds", "validated_step")}
    return when | dict(stored["validation"])


def _is_finished(stored: Mapping[str, Any], config: StageConfig) -> bool:
    steps = max(config.max_steps, int(stored["training"]["max_steps"]))
    return bool(steps <= stored["step"] == stored["validated_step"])
