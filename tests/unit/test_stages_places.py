"""Claims about which weights `targets` and `layers` mean in a model."""

from __future__ import annotations

import pytest
import torch
from stage_tools import full, lora
from transformers import LlamaConfig, LlamaForCausalLM

from search.errors import StageError
from search.stages.places import full_parameters, lora_modules


def model(**changes: object) -> LlamaForCausalLM:
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "vocab_size": 16,
    }
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes}))


def names(found: LlamaForCausalLM, targets: str, layers: str = "all") -> set[str]:
    chosen = full_parameters(found, full(targets=targets, layers=layers))
    return {name.removeprefix("model.").removesuffix(".weight") for name in chosen}


def test_embeddings_head_and_norms_are_switches_of_their_own() -> None:
    untied = model(tie_word_embeddings=False)
    assert names(untied, "embeddings") == {"embed_tokens"}
    assert names(untied, "head") == {"lm_head"}
    norms = {
        f"layers.{at}.{name}"
        for at in range(4)
        for name in ("input_layernorm", "post_attention_layernorm")
    }
    assert names(untied, "norms") == {"norm", *norms}
    assert names(untied, "embeddings, head") == {"embed_tokens", "lm_head"}


def test_either_end_means_the_weight_that_both_share() -> None:
    tied = model(tie_word_embeddings=True)
    assert names(tied, "head") == names(tied, "embeddings") == {"embed_tokens"}


def test_biases_are_all_biases_and_their_absence_is_an_error() -> None:
    with_bias = model(attention_bias=True)
    found = names(with_bias, "biases", "0")
    assert found == {f"layers.0.self_attn.{name}_proj.bias" for name in "qkvo"}
    with pytest.raises(StageError, match="the model has no biases in these layers"):
        names(model(), "biases")


def test_groups_and_names_may_be_joined_and_layers_united() -> None:
    found = names(model(), "attention,norms,up_proj", "0,3-3")
    assert {name.split(".")[1] for name in found} == {"0", "3"}
    assert {name.split(".", 2)[2] for name in found} == {
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        "mlp.up_proj",
        "input_layernorm",
        "post_attention_layernorm",
    }


def test_upper_and_lower_part_of_a_split_share_no_layer_and_leave_none_out() -> None:
    found = model()
    for percent in range(13, 88):
        upper = names(found, "all", f"{percent}%-100%")
        lower = names(found, "all", f"0%-{percent}%")
        assert not upper & lower
        assert upper | lower == names(found, "all")


def test_ends_of_the_model_are_outside_every_selection_of_layers() -> None:
    with pytest.raises(StageError, match="the model has no embeddings in these layers"):
        names(model(), "embeddings,mlp", "0-1")


def test_excluded_modules_may_be_names_or_paths() -> None:
    found = lora_modules(
        model(), lora(targets="attention", layers="0-1", exclude="q_proj,layers.1.self_attn.o_proj")
    )
    short = {name.removeprefix("model.layers.").replace("self_attn.", "") for name in found}
    assert short == {"0.k_proj", "0.v_proj", "0.o_proj", "1.k_proj", "1.v_proj"}
