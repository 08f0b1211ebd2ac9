"""A random language model of two layers, with a tokenizer, made in memory: enough to see how an evaluator behaves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANIMALS = ("cat", "dog", "cow", "hen", "fox", "owl", "bee", "ant", "pig", "rat", "emu", "eel")


def tiny_tokenizer(texts: Sequence[str]) -> Any:
    """Return a byte-level tokenizer of at most 400 tokens, trained on texts, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


def tiny_model(tokenizer: Any, max_positions: int = 256) -> Any:
    """Return a Llama of two layers and width 32 with random weights, the same ones every time.

    The generator of torch is left as it was.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def loaded(change: float = 0.0) -> LoadedModel:
    """Return a tiny model for evaluators, its weights moved by normal noise of this size."""
    import torch

    from evaluators.models import LoadedModel

    tokenizer = _tokenizer()
    model = tiny_model(tokenizer, max_positions=4096)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += change * torch.randn(parameter.shape, generator=generator)
    return LoadedModel(model, tokenizer)


@cache
def _tokenizer() -> Any:
    return tiny_tokenizer([f"the {animal} says hello to you" for animal in ANIMALS])
