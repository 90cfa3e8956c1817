"""``info``: what a folder is, where it came from and how it was made; of weights nothing is read but headers."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError, meant_instead, told_inside, unfinished_folder
from diladiff_cli.integrity import CONFIG_FILE, check_log, read_config, short_hash
from diladiff_cli.runtime.artifacts import COMMANDS, Artifact, linked, load_artifact
from diladiff_cli.runtime.card import TITLES
from diladiff_cli.runtime.folders import METRICS_FILE, is_there, restore
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.tokenizer_files import check_tokenizer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Record = dict[str, Any]
KINDS = "an artifact (of train-mdlm, train-ae, train-prior or distill), a token data set or latents (both of encode)"
STATISTICS = "_moments"  # running statistics lie beside the parameters in the weight files


def describe(path: Path | str) -> Record:
    """What a folder written by ``diladiff`` is.

    Args:
        path: An artifact of any stage, a token data set, or a folder of latents.

    Returns:
        Plain JSON values. Always ``path``, ``stage``, ``title``, ``package_version``, ``format_version``, ``parents``
        (stage to path, hash and state), ``files`` (name to bytes) and ``bytes``. Of an artifact also ``hash``,
        ``ancestors`` (what its unchanged parents were made from in turn, as ``parents``), ``network``, ``parameters``,
        ``training``, ``progress``, ``validation``, and its ``data`` with their state, where it has them ``sampling``
        (settings that ``sample`` takes from it), ``init`` (the base that it began with) and ``export``; of data and
        latents ``fingerprint``, ``splits`` and what they were made with. A state is "unchanged", "changed", "missing"
        or "damaged".

    Raises:
        UserError: The folder is none of these, or is damaged.
    """
    path = Path(resolved(path))
    stage = _stage(path)
    readers: dict[str, Callable[[Path], Record]] = {"data": _describe_data, "latents": _describe_latents}
    record = readers.get(stage, _describe_artifact)(path)
    files = _files(path)
    return {"path": str(path), **record, "files": files, "bytes": sum(files.values())}


def _stage(path: Path) -> str:
    remedy = f"name the folder of {KINDS}"
    restore(path)
    if not path.exists():
        raise UserError(f"there is no folder {path}", meant_instead(path, remedy, Path.is_dir))
    if path.is_file():
        raise UserError(f"{path} is a file", f"{remedy}; samples are measured with: diladiff eval {path}")
    if (unfinished := unfinished_folder(path)) is not None:
        raise unfinished
    config = read_config(path / CONFIG_FILE, "restore it, or make the folder again")
    if config is None:
        what = f"{path} was not written by diladiff: it has no config.json{told_inside(path)}"
        raise UserError(what, remedy)
    stage = config.get("stage")
    if stage not in (*COMMANDS, "data", "latents"):
        raise UserError(f"{path} was not written by diladiff: its config.json has no known stage", remedy)
    return str(stage)


def _describe_artifact(path: Path) -> Record:
    artifact = load_artifact(path)
    check_tokenizer(path)
    check_log(path / METRICS_FILE)
    config = artifact.config
    progress = dict(config["progress"])
    parents = {stage: _parent(path, stage, link) for stage, link in config["parents"].items()}
    validation = progress.pop("validation", {})
    record = {
        "stage": artifact.stage,
        "title": TITLES[artifact.stage],
        "made_by": COMMANDS[artifact.stage],
        "package_version": config.get("package_version"),
        "format_version": config["format_version"],
        "hash": artifact.hash,
        "network": artifact.network,
        "parameters": count_parameters(artifact),
        "training": artifact.training,
        "progress": progress,
        "validation": validation,
        "parents": parents,
        "ancestors": _ancestors(parents),
        "data": artifact.data | _data_state(path, artifact.data.get("path"), artifact.data.get("fingerprint")),
    }
    record |= {name: config[name] for name in ("init", "sampling") if name in config}
    if "export" not in config:
        return record
    if record["data"]["state"] == "missing":
        record["data"] |= {"path": None, "state": "not in the bundle"}
    return record | {"export": config["export"]}


def count_parameters(artifact: Artifact) -> Record:
    """Numbers of parameters from the headers of the weight files.

    Returns:
        ``total``, ``parts`` (first part of the name to number), ``statistics`` (entries of running statistics, not in
        the total) and ``dtypes`` of the parameters.

    Raises:
        UserError: A weight file is missing or truncated.
    """
    parts: Counter[str] = Counter()
    dtypes: set[str] = set()
    statistics = 0
    for name in artifact.config["files"]:
        if not name.endswith(".safetensors"):
            continue
        try:
            with safe_open(artifact.path / name, framework="np") as opened:
                tensors = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
                sizes = {key: math.prod(t.get_shape()) for key, t in tensors.items()}
                kinds = {key: str(t.get_dtype()) for key, t in tensors.items()}
        except (OSError, SafetensorError) as error:
            remedy = f"restore the file or make the artifact again with {COMMANDS[artifact.stage]}"
            raise UserError(f"{artifact.path / name} is missing or damaged ({error})", remedy) from error
        for key, size in sizes.items():
            if STATISTICS in key.split(".")[0]:
                statistics += size
            else:
                parts[key.split(".")[0]] += size
                dtypes.add(kinds[key])
    return {"total": parts.total(), "parts": dict(parts), "statistics": statistics, "dtypes": sorted(dtypes)}


def _parent(path: Path, stage: str, link: Mapping[str, str]) -> Record:
    folder = linked(path, link["path"])
    return {"path": str(folder), "hash": link["hash"], "state": _parent_state(folder, stage, link["hash"])}


def _ancestors(parents: Mapping[str, Record]) -> Record:
    """What unchanged parents were made from in turn, as far as each is of an earlier stage than its child."""
    stages, ancestors, waiting = list(COMMANDS), dict[str, Any](), list(parents.items())
    while waiting:
        child, record = waiting.pop()
        if record["state"] != "unchanged":
            continue
        folder = Path(record["path"])
        for stage, link in load_artifact(folder, child).config["parents"].items():
            if stage in stages[: stages.index(child)] and stage not in (*parents, *ancestors):
                ancestors[stage] = _parent(folder, stage, link)
                waiting.append((stage, ancestors[stage]))
    return ancestors


def _parent_state(folder: Path, stage: str, wanted: str) -> str:
    if not is_there(folder):
        return "missing"
    try:
        parent = load_artifact(folder, stage)
        count_parameters(parent)
    except UserError:
        return "damaged"
    return "unchanged" if parent.hash == wanted else "changed"


def _data_state(path: Path, link: str | None, fingerprint: str | None) -> Record:
    """Where the data set is, and whether it is the one recorded."""
    if link is None:
        return {"state": "missing"}
    folder = linked(path, link)
    if not is_there(folder):
        return {"path": str(folder), "state": "missing"}
    try:
        current = open_tokens(folder).fingerprint
    except UserError:
        return {"path": str(folder), "state": "damaged"}
    return {"path": str(folder), "state": "unchanged" if current == fingerprint else "changed"}


def _describe_data(path: Path) -> Record:
    tokens = open_tokens(path)
    config = dict(tokens.config)
    check_tokenizer(path)
    for name in config["splits"]:
        tokens.split(name)  # every shard is there, with the rows recorded
    config["splits"] = _splits(config["splits"])
    return {"stage": "data", "title": "Token data set", "made_by": "encode", "parents": {}} | config


def _describe_latents(path: Path) -> Record:
    latents = open_latents(path)
    config = dict(latents.config)
    for name in config["splits"]:
        latents.split(name)
    parents = {stage: _parent(path, stage, link) for stage, link in config["parents"].items()}
    data = {"fingerprint": config["fingerprint"]} | _data_state(path, config["data"], config["fingerprint"])
    config |= {"splits": _splits(config["splits"]), "parents": parents, "data": data}
    return {"stage": "latents", "title": "Standardised latents", "made_by": "encode --ae"} | config


def _splits(splits: Mapping[str, Mapping[str, Any]]) -> Record:
    return {name: {**split, "shards": len(split["shards"])} for name, split in splits.items()}


def _files(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()}


def info_table(record: Record) -> "Group":
    """A record of :func:`describe`, for the terminal."""
    from rich.console import Group

    head = {"path": record["path"], "made by": f"{record['made_by']}, diladiff {record['package_version']}"}
    names = ("hash", "fingerprint", "length", "vocab_size", "shape", "sources", "init", "sampling", "export")
    head |= {name: record[name] for name in names if name in record}
    of_text = record["data"] if isinstance(record.get("data"), dict) else {}  # that an artifact was trained on
    head |= {name: of_text[name] for name in ("length", "vocab_size") if name in of_text}
    if "parameters" in record:
        parameters = record["parameters"]
        parts = ", ".join(f"{name} {size:,}" for name, size in parameters["parts"].items())
        head["parameters"] = f"{parameters['total']:,} {'/'.join(parameters['dtypes'])} ({parts})"
    head["files"] = f"{len(record['files'])}, {record['bytes']:,} bytes"
    tables = [_pairs(record["title"], head)]
    links = record["parents"] | record.get("ancestors", {})
    if isinstance(record.get("data"), dict):
        links["data"] = record["data"] | {"hash": record["data"].get("fingerprint")}
    if links:
        tables.append(_links(links, Path(record["path"])))
    for name in ("progress", "validation", "splits", "network", "training", "settings"):
        if record.get(name):
            tables.append(_pairs(name, record[name]))
    return Group(*tables)


def _pairs(title: str, values: Mapping[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, min_width=40)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, _shown(value))
    return table


def _shown(value: Any) -> str:
    """Long tables of numbers belong to the JSON output, not to the terminal."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} rows"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)


def _links(links: Mapping[str, Mapping[str, Any]], folder: Path) -> "Table":
    """The parents and data of ``folder``; … stands for it in the paths of what lies in it, as in a bundle."""
    from rich.table import Table

    table = Table(title="made from", title_justify="left", min_width=40)
    for column in ("what", "path", "hash", "state"):
        table.add_column(column, overflow="fold")
    for name, link in links.items():
        path, inside = Path(link.get("path") or "-"), folder.resolve()
        shown = Path("…", path.relative_to(inside)) if path.is_relative_to(inside) else path
        table.add_row(name, str(shown), short_hash(link["hash"] or "-"), link["state"])
    return table
