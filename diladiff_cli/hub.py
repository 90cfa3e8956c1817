"""Names of what lies on the Hugging Face Hub."""

ON_HUB = "hf://"  # before the id of a model, where a folder is asked for


def hub_parts(source: str) -> tuple[str, str | None, str | None]:
    """Id, configuration and revision of a Hub data set, written ``id@revision:configuration``."""
    name, _, configuration = source.partition(":")
    name, _, revision = name.partition("@")
    return name, configuration or None, revision or None


def names_a_path(source: str) -> bool:
    """Whether a name that is neither a file nor a folder was meant for one: nothing on the Hub can have it."""
    return source.startswith((".", "/", "~")) or source.endswith("/") or hub_parts(source)[0].count("/") > 1
