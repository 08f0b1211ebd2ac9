"""How many parameters an adapter trains in a model of which only config.json is read. No torch.

Names and shapes are those that transformers gives the parameters of each family; what an adapter selects among them
follows the rules of `search.stages.places`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice, product
from typing import Any

from pydantic import TypeAdapter

from spaces.adapter import AdaLora, Adapter, Full, Lora, LowRank, by_module
from spaces.adapter_spec import AnyAdapterSpec, adapter_data, adapter_values
from spaces.params import Choice, Parameter, ParamValue
from spaces.place import FULL_TARGETS, layer_numbers, target_modules

Shapes = dict[str, tuple[int, ...]]
"""Parameter name to shape; weights of linear modules are (out, in)."""

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""`model_type` of the configurations whose parameters are known here."""
MAX_SETTINGS = 2000
"""Settings of one adapter to count, of those that a study may draw."""
_ADAPTER: TypeAdapter[Full | LowRank] = TypeAdapter(Adapter)
_COUNTS = ("rank", "init_rank", "dora", "targets", "layers", "exclude")
"""Fields of adapters that decide how many parameters train, beside ranks of their own."""


def base_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the parameters of a model, each that is shared once.

    Args:
        config: Content of config.json.

    Raises:
        ValueError: The family is not one of `FAMILIES`, or a number is missing; the text says which.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type {family!r} is not one of {', '.join(FAMILIES)}")
    try:
        hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
        n_layers, n_heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        n_words = int(config["vocab_size"])
        width = int(config.get("head_dim") or hidden // n_heads)
        n_pairs = int(config.get("num_key_value_heads") or n_heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"config.json has no usable {error}") from None
    own_bias = bool(config.get("attention_bias")) and family != "mistral"
    linear = {
        "self_attn.q_proj": (n_heads * width, hidden, own_bias or family == "qwen2"),
        "self_attn.k_proj": (n_pairs * width, hidden, own_bias or family == "qwen2"),
        "self_attn.v_proj": (n_pairs * width, hidden, own_bias or family == "qwen2"),
        "self_attn.o_proj": (hidden, n_heads * width, own_bias and family != "qwen2"),
    }
    has_bias = bool(config.get("mlp_bias")) and family in ("llama", "smollm3")
    for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden))):
        linear[f"mlp.{name}_proj"] = (*shape, has_bias)
    linear["mlp.down_proj"] = (hidden, inner, has_bias)
    shapes: Shapes = {"model.embed_tokens.weight": (n_words, hidden)}
    for layer in range(n_layers):
        start = f"model.layers.{layer}"
        for name, (n_out, n_in, is_biased) in linear.items():
            shapes[f"{start}.{name}.weight"] = (n_out, n_in)
            if is_biased:
                shapes[f"{start}.{name}.bias"] = (n_out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{start}.{name}.weight"] = (hidden,)
        for name in ("q_norm", "k_norm") if family == "qwen3" else ():
            shapes[f"{start}.self_attn.{name}.weight"] = (width,)
    shapes["model.norm.weight"] = (hidden,)
    # transformers ties the two for SmolLM3 unless the file says otherwise, and for no other family here.
    if not config.get("tie_word_embeddings", family == "smollm3"):
        shapes["lm_head.weight"] = (n_words, hidden)
    return shapes


def n_parameters(shapes: Shapes) -> int:
    """Return how many parameters there are."""
    return sum(math.prod(shape) for shape in shapes.values())


def n_trained(adapter: Full | LowRank, shapes: Shapes) -> int:
    """Return how many parameters a stage with this adapter trains; of AdaLoRA at its beginning.

    Raises:
        ValueError: Layers select nothing or too much of such a model.
    """
    numbers = {_layer(name) for name in shapes} - {None}
    layers = layer_numbers(adapter.layers, len(numbers))
    inside = {
        name: shape
        for name, shape in shapes.items()
        if adapter.layers == "all" or _layer(name) in layers
    }
    if isinstance(adapter, Full):
        return _n_full(adapter, inside)
    return sum(_n_low_rank(adapter, name, shape) for name, shape in inside.items())


def trained_range(spec: AnyAdapterSpec, shapes: Shapes) -> tuple[int, int]:
    """Return the fewest and the most parameters that an adapter of a study may train.

    Raises:
        ValueError: No setting fits such a model.
    """
    values = adapter_values("adapter", spec)
    options = {field: _options(field, value) for field, value in values.items()}
    counts: list[int] = []
    reason = "it trains nothing"
    for chosen in islice(product(*options.values()), MAX_SETTINGS):
        try:
            decided = _ADAPTER.validate_python(
                adapter_data(dict(zip(options, chosen, strict=True)))
            )
            counts.append(n_trained(decided, shapes))
        except ValueError as error:  # Settings that exclude each other; `check` speaks of them.
            reason = str(error)
    if not counts:
        raise ValueError(reason)
    return min(counts), max(counts)


def _options(field: str, value: Parameter | ParamValue) -> tuple[ParamValue, ...]:
    """Return the values of a field at which the number of parameters may be smallest or largest."""
    if not isinstance(value, Parameter):
        return (value,)
    ends = value.choices if isinstance(value, Choice) else (value.low, value.high)
    is_counted = field in _COUNTS or field.startswith(("ranks.", "layers."))
    return tuple(dict.fromkeys(ends)) if is_counted else (ends[0],)


def _n_full(adapter: Full, shapes: Shapes) -> int:
    if adapter.targets == "everything":
        return n_parameters(shapes)
    names = set(target_modules(adapter.targets))
    chosen = {
        name: shape
        for name, shape in shapes.items()
        if names & set(name.split(".")) or names & _groups(name, shapes)
    }
    return n_parameters(chosen)


def _groups(name: str, shapes: Shapes) -> set[str]:
    """Return the groups of `FULL_TARGETS` that a parameter belongs to."""
    is_in = dict.fromkeys(FULL_TARGETS, False)
    is_in["embeddings"] = ".embed_tokens." in name
    is_in["head"] = name == "lm_head.weight" or (
        "lm_head.weight" not in shapes and is_in["embeddings"]
    )
    is_in["norms"] = "norm." in name
    is_in["biases"] = name.endswith(".bias")
    return {group for group, is_member in is_in.items() if is_member}


def _n_low_rank(adapter: LowRank, name: str, shape: tuple[int, ...]) -> int:
    module = name.removesuffix(".weight")
    is_linear = len(shape) == 2 and ".embed_tokens" not in name
    if not is_linear or not _is_named(module, set(target_modules(adapter.targets))):
        return 0
    if adapter.exclude and _is_named(module, set(target_modules(adapter.exclude))):
        return 0
    n_out, n_in = shape
    if isinstance(adapter, AdaLora):
        return adapter.init_rank * (n_out + n_in + 1)
    last = module.rsplit(".", 1)[-1]
    rank = _own_rank(adapter, module, last)
    return rank * (n_out + n_in) + (n_out if adapter.dora else 0)


def _own_rank(adapter: Lora, module: str, last: str) -> int:
    own = by_module(adapter.ranks)
    paths = [name for name in own if "." in name and f".{module}".endswith(f".{name}")]
    return own[paths[0]] if paths else own.get(last, adapter.rank)


def _is_named(path: str, names: set[str]) -> bool:
    return any(f".{path}".endswith(f".{name}") for name in names)


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None
