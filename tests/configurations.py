"""Any valid configuration of a stage, for property tests."""

import json
import math
from dataclasses import fields
from typing import Any, get_type_hints

from hypothesis import strategies as st

from diladiff_cli.config import MAX_LATENT_SCALE, MIN_LATENT_SCALE, BenchConfig
from diladiff_cli.config.use import ADAPTIVE_ORDERS, MAX_CORRECTOR
from diladiff_cli.settings import Settings

STRENGTHS = ("sigma_feat", "p_feat_mask", "p_latent_mask", "p_latent_drop")
LISTS = ("decode_steps", "steps", "prior_steps", "seeds", "temperatures", "vocab_sizes", "lengths", "batch_sizes")


def values_of(kind: type, metadata: Any) -> st.SearchStrategy[Any]:
    """Values that a field of this type and range takes."""
    low, high = metadata["low"], metadata["high"]
    if metadata["choices"]:
        return st.sampled_from(metadata["choices"])
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(math.ceil(low), 10**6 if high is None else int(high))
    if kind is float:
        return st.floats(low, 1e6 if high is None else high)
    return st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip)


@st.composite
def configurations(draw: st.DrawFn, kind: type[Settings]) -> Settings:
    """Any valid configuration of a stage."""
    types = get_type_hints(kind)
    values = {f.name: draw(values_of(types[f.name], f.metadata)) for f in fields(kind)}
    if "grad_accum" in values:
        values["batch_size"] = values["grad_accum"] * draw(st.integers(1, 8))
    if "heads" in values:
        values["width"] = 2 * values["heads"] * draw(st.integers(1, 8))
    if "cross_layers" in values:
        layers = st.sampled_from(["first", "last", " 3 ", "12"])
        values["cross_layers"] = ",".join(draw(st.lists(layers, min_size=1, max_size=4)))
    if kind is BenchConfig:
        values |= {"width": 8 * draw(st.integers(1, 8)), "n": values["decodings"] * draw(st.integers(2, 8))}
        for name in LISTS:
            found = draw(st.lists(st.integers(2, 10**6), min_size=1))
            values[name] = ",".join(map(str, found))
        factors = draw(st.lists(st.floats(MIN_LATENT_SCALE, MAX_LATENT_SCALE), min_size=1))
        values["latent_scale"] = ",".join(map(str, factors))
        shares = draw(st.lists(st.floats(0, MAX_CORRECTOR), min_size=1))
        values["corrector"] = ",".join(map(str, shares))
    elif 0 < values.get("latent_scale", 1.0) < MIN_LATENT_SCALE:
        values["latent_scale"] = 0.0
    if 0 < values.get("temperature", 1.0) < 1e-4:
        values["temperature"] = 0.0
    if values.get("order") in ADAPTIVE_ORDERS:
        values["latent_until"] = 0.0
    if values.get("positions") == "local" and "qk_norm" in values:
        values["qk_norm"] = True
    for name in STRENGTHS:
        if -1 < values.get(name, 0) < 0:  # -1 alone stands for the preset's
            values[name] += 1
    return kind(**values)


def to_toml(values: dict[str, Any]) -> str:
    """Plain values as TOML, whose numbers, booleans and basic strings are spelled as in JSON."""
    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items())
