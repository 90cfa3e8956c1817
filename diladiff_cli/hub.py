"""Names of what lies on the Hugging Face Hub."""

ON_HUB = "hf://"  # before the id of a model, where a folder is asked for


def hub_parts(source: str) -> tuple[str, str | None, str | None]:
    """Id, configuration and revision of a Hub data set, written ``id@revision:configuration``."""
    name, _, configuration = source.partition(":")
    name, _, revision = name.partition("@")
    return name, configuration or None, revision or None


def names_a_path(source: str) -> bool:
    """Whether a name that is no file and no folder was meant for one: it cannot be that of something on the Hub."""
    return source.startswith((".", "/", "~")) or source.endswith("/") or hub_parts(source)[0].count("/") > 1
