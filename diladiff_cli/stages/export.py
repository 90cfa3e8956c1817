"""``export``: a chain of artifacts -> one self-contained folder, ready for the Hub.

The artifact itself lies in the folder, its ancestors each once below ``parents/``; all links are relative, so that the
bundle can be moved, and every folder in it is an artifact of its own.
"""

import glob
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diladiff_cli.config import MAX_LATENT_SCALE, MIN_LATENT_SCALE
from diladiff_cli.data.rows import value_rows
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM, CONFIG_FILE, check_log, read_json
from diladiff_cli.runtime.artifacts import COMMANDS, OURS, Artifact, linked, load_artifact, relative, write_artifact
from diladiff_cli.runtime.card import METADATA, metadata_problems
from diladiff_cli.runtime.folders import METRICS_FILE, is_there, recover, replacing
from diladiff_cli.runtime.locks import sole_writer
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.settings import ConfigError, check_value
from diladiff_cli.stages.feature_sources import recorded_feature_source, recorded_features
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.sampling.sampler import LATENT_STEPS
from diladiff_cli.tokenizer_files import PATTERNS, read_tokenizer

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
PARENTS, ENCODER = "parents", "encoder"


def export(
    model: Path | str,
    out: Path | str,
    precision: str = "bf16",
    *,
    license: str | None = None,
    language: str | None = None,
    latent_scale: float | None = None,
) -> dict[str, Any]:
    """Write a self-contained bundle of an artifact and all its ancestors.

    Training state stays behind. A Hugging Face encoder that an auto-encoder takes its features from comes along where
    it is a folder, and stays under its id where it is one of the Hub.

    Args:
        model: Artifact of any stage.
        out: Folder of the bundle. One there is replaced, with reports of ``eval`` in it, but for files of others, as
            those of git or a picture.
        precision: Of the stored weights, "bf16" or "fp32"; running statistics are kept as they are.
        license: Identifier of the licence for the cards, but for parents that have one of an earlier export; None for
            what an earlier export says.
        language: Codes of the text's languages, with commas, likewise.
        latent_scale: The factor on drawn latents that ``sample`` and ``bench`` take for this model unless told
            otherwise; None for what an earlier export says, else 1.

    Returns:
        ``stage``, ``out``, ``precision``, ``hash``, ``parents`` (stages) and ``bytes`` of the bundle, and ``stored``,
        the precision in which the model's own weights lay before.

    Raises:
        ConfigError: An unknown precision, a licence or language that is none, or a factor that does not fit.
        UserError: A part of the chain is missing or damaged, or ``out`` cannot be used.
    """
    if precision not in DTYPES:
        raise ConfigError([f"--precision is {precision!r}; choose one of {', '.join(DTYPES)}"])
    if problems := metadata_problems(license=license, language=language):
        raise ConfigError(problems)
    model, out = Path(resolved(model)), Path(out)
    root = load_artifact(model)
    root = root if latent_scale is None else with_own_factor(root, latent_scale)
    named = license and license.lower()  # as the Hub spells them
    given = {k: v for k, v in {"license": named, "language": language}.items() if v is not None}
    parents = ancestors(root)
    check_place(out, [root, *parents.values()])
    links: dict[str, str] = {}  # stage -> new content hash, parents before their children
    with sole_writer(out):
        recover(out)
        former = [glob.escape(file.name) for file in _records(out) if _reported(file)]
        with replacing(out, ours=(*OURS, ENCODER, *former)) as folder:
            for stage, artifact in parents.items():
                place = Path(PARENTS, stage)
                (folder / place).mkdir(parents=True)
                record = given | _metadata_of(artifact) | {"precision": precision}
                links[stage] = _write(artifact, folder / place, out / place, record, _linked(artifact, "..", links))
            record = _metadata_of(root) | given | {"precision": precision}
            digest = _write(root, folder, out, record, _linked(root, PARENTS, links))
            with (folder / "README.md").open("a", encoding="utf-8") as card:
                card.write(usage(root.stage, precision, list(parents), hub_encoder([root, *parents.values()])))
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    summary = {"stage": root.stage, "out": str(out), "precision": precision, "hash": digest}
    stored = root.config.get("export", {}).get("precision", "fp32")
    return summary | {"parents": list(parents), "bytes": size, "stored": stored}


def ancestors(artifact: Artifact) -> dict[str, Artifact]:
    """All artifacts that one builds on by stage, parents before their children.

    Raises:
        UserError: One is missing or changed, or the chain is inconsistent.
    """
    stages = list(COMMANDS)
    members: dict[str, Artifact] = {}
    for stage in artifact.config["parents"]:
        if stage not in stages[: stages.index(artifact.stage)]:
            raise UserError(f"{artifact.path} names a parent of stage {stage!r}", "restore its config.json")
        parent = artifact.parent(stage)
        for name, member in (ancestors(parent) | {stage: parent}).items():
            if members.setdefault(name, member).hash != member.hash:
                raise UserError(
                    f"{artifact.path} builds on two versions of stage {name}, {members[name].path} and {member.path}",
                    "make the later stages again",
                )
    return members


def check_place(out: Path, chain: list[Artifact]) -> None:
    """Refuse to replace what is not a bundle, or a folder that the bundle is made from.

    Raises:
        UserError: The folder must not be replaced.
    """
    target = out.resolve()
    for artifact in chain:
        source = artifact.path.resolve()
        if target.is_relative_to(source) or source.is_relative_to(target):
            raise UserError(f"--out {out} would overwrite {artifact.path}, which is exported", "choose another --out")
    if not out.exists():
        return
    try:
        config = read_json(out / CONFIG_FILE)
    except (OSError, ValueError):
        config = {}
    empty = out.is_dir() and not any(out.iterdir())
    if not empty and "export" not in config:
        raise UserError(f"--out {out} holds something else than a bundle", "choose another --out, or remove it")


def cast_weights(artifact: Artifact, precision: str) -> dict[str, Tensor]:
    """The weights in the wanted precision, running statistics (the network's buffers) as they are."""
    network = build(artifact)
    kept = {name for name, _ in network.named_buffers()}
    return {k: v if k in kept else v.to(DTYPES[precision]) for k, v in network.state_dict().items()}


def with_own_factor(artifact: Artifact, latent_scale: float) -> Artifact:
    """The artifact with a factor on drawn latents of its own, which 1 takes away.

    Raises:
        ConfigError: It is not a factor, or the artifact draws no latents.
    """
    problem = check_value("latent_scale", latent_scale, float, low=MIN_LATENT_SCALE, high=MAX_LATENT_SCALE)
    if problem is None and artifact.stage not in LATENT_STEPS:
        what = f"{artifact.path} is of stage {artifact.stage} and draws no latents"
        problem = f"--latent-scale is {latent_scale}, but {what}; leave it out"
    if problem is not None:
        raise ConfigError([problem])
    config = {name: value for name, value in artifact.config.items() if name != "sampling"}
    if latent_scale != 1:
        config["sampling"] = {"latent_scale": latent_scale}
    return replace(artifact, config=config)


def _metadata_of(artifact: Artifact) -> dict[str, str]:
    """Licence and languages that an earlier export recorded, where they are some."""
    noted = artifact.config.get("export", {})
    return {name: noted[name] for name in METADATA if name in noted and not metadata_problems(**{name: noted[name]})}


def _linked(artifact: Artifact, prefix: str, hashes: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {stage: {"path": f"{prefix}/{stage}", "hash": hashes[stage]} for stage in artifact.config["parents"]}


def _write(
    artifact: Artifact, folder: Path, final: Path, record: Mapping[str, str], parents: Mapping[str, Mapping[str, str]]
) -> str:
    """One artifact of the bundle, which will lie at ``final``; returns its content hash."""
    data, network = artifact.data, artifact.network
    for name in ("path", "latents"):  # records only: nothing here needs them
        link = data.pop(name, None)
        if link and is_there(place := linked(artifact.path, link)):
            data[name] = relative(place, final)
    if network.get("features", "").startswith("."):
        recorded_feature_source(artifact)  # told here if it is missing or was changed
        _copy_encoder(Path(recorded_features(artifact)), folder / ENCODER)
        network["features"] = f"./{ENCODER}"
    fixed = (CHECKSUM, "stage", "format_version", "network", "training", "parents", "data", "files", "tokenizer", "log")
    own = None if "export" in artifact.config else artifact.hash  # a bundle's reports are of what it was made from
    config = write_artifact(
        folder,
        stage=artifact.stage,
        network=network,
        training=artifact.training,
        state_dict=cast_weights(artifact, record["precision"]),
        parents=parents,
        data=data,
        tokenizer=read_tokenizer(artifact.path),
        progress=artifact.config["progress"],
        extra=lambda target: _copy_records(artifact.path, target, own),
        also={k: v for k, v in artifact.config.items() if k not in (*fixed, "hash")} | {"export": dict(record)},
    )
    return str(config["hash"])


def _copy_encoder(source: Path, target: Path) -> None:
    """What loading a Hugging Face encoder needs: configuration, tokenizer and safetensors."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        if file.suffix in (".json", ".txt", ".model", ".safetensors") and file.is_file():
            shutil.copyfile(file, target / file.name)


def _copy_records(source: Path, target: Path, own: str | None) -> None:
    """Metrics and evaluations, but for those of other weights than the hash ``own`` has, where that is known.

    Links that lead out of the folder stay behind: a bundle is for others to see.
    """
    check_log(source / METRICS_FILE)
    for record in _records(source):
        if (
            not record.name.startswith(("config", "model"))
            and not any(record.match(pattern) for pattern in PATTERNS)
            and (record.resolve().parent == source.resolve() or record.name == METRICS_FILE)
            and not (own and own not in (_reported(record) or {own}))
        ):
            shutil.copyfile(record, target / record.name)


def _records(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in files if file.suffix in (".json", ".jsonl") and file.is_file())


def _reported(record: Path) -> set[str]:
    """The hashes of the artifacts that a file's reports of ``eval`` are of."""
    text = record.read_text(encoding="utf-8", errors="replace")
    try:
        values = [row.values for row in value_rows([text])]
    except ValueError:  # torn somewhere
        values = []
        for line in text.splitlines():
            with suppress(ValueError, RecursionError):
                values.append(json.loads(line))
    reports = [value for value in values if isinstance(value, dict) and value.get("stage") in COMMANDS]
    return {report["hash"] for report in reports if isinstance(report.get("hash"), str)}


def hub_encoder(chain: list[Artifact]) -> str | None:
    """The encoder of the Hub that a chain's auto-encoder takes its features from; None where there is none."""
    encoders = (str(artifact.network["features"]) for artifact in chain if artifact.stage == "ae")
    return next((name for name in encoders if name != "self" and not name.startswith(".")), None)


def usage(stage: str, precision: str, parents: list[str], encoder: str | None) -> str:
    """The part of a bundle's card that shows how to use it."""
    lacking = f", but for the encoder {encoder}, which it needs to encode texts" if encoder else ""
    contents = f", with all that it was made from ({', '.join(parents)}) below `parents/`" if parents else ""
    calls, command = "model.sample(n=4)", "    diladiff sample --model PATH --n 4\n\nor from Python:\n\n"
    if stage == "ae":  # draws no latents of its own
        calls, command = 'model.decode(model.encode(["Some text."]))', ""
    return f"""
## Sample from this folder

It is complete{contents}{lacking}; its weights are stored in {precision}. With PATH being where it lies, or
`hf://OWNER/NAME` on the Hub:

{command}    import diladiff_cli

    model = diladiff_cli.load("PATH")
    for sample in {calls}:
        print(sample["text"])
"""
