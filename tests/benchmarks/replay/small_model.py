"""Train a small chat model from scratch, so that thousands of trainings on top of it are cheap.

    python tests/benchmarks/replay/small_model.py FOLDER

writes FOLDER/model (Llama, safetensors, byte-level BPE with a ChatML template) and prints the loss as it falls. Equal
packages, seed and threads give equal bytes. Takes some minutes on one core.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from texts import base_texts, taught_replies
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 0
VOCABULARY = 1536
HIDDEN, INNER, LAYERS, HEADS = 128, 320, 3, 4
ROWS, LENGTH, STEPS = 16, 96, 600
LEARNING_RATE, WARMUP_STEPS = 3e-3, 40
CHAT_PASSES = 6
"""Passes over the exchanges for each pass over the prose, which is ten times longer."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, n_steps: int = STEPS) -> list[float]:
    """Train tokenizer and model and save them; return the loss of each step, in nats per token."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    chats, passages = base_texts()
    replies = taught_replies()
    tokenizer = train_tokenizer([*passages, *replies, *(" ".join(chat) for chat in chats)])
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    losses = pretrain(model, batches(tokenizer, chats, passages), n_steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return losses


def train_tokenizer(texts: list[str]) -> Any:
    """Return a byte-level BPE tokenizer with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


def batches(
    tokenizer: Any, chats: list[tuple[str, str]], passages: list[str]
) -> Iterator[torch.Tensor]:
    """Yield token ids (ROWS, LENGTH) without end, texts shuffled and joined anew on each pass."""
    rendered = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            tokenize=False,
        )
        for question, answer in chats
    ]
    texts = rendered * CHAT_PASSES + [passage + tokenizer.eos_token for passage in passages]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    shuffle = random.Random(SEED)
    stream: list[int] = []
    while True:
        shuffle.shuffle(ids)
        stream += [token for text in ids for token in text]
        while len(stream) >= ROWS * LENGTH:
            yield torch.tensor(stream[: ROWS * LENGTH]).view(ROWS, LENGTH)
            stream = stream[ROWS * LENGTH :]


def pretrain(model: Any, stream: Iterator[torch.Tensor], n_steps: int) -> list[float]:
    """Train on every token with AdamW, a linear warm-up and a cosine decay."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step in range(n_steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / n_steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * decay
        ids_BT = next(stream)
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 0 or step == n_steps - 1:
            print(f"step {step} loss {loss:.3f} {time.monotonic() - started:.0f} s", flush=True)
    return losses


if __name__ == "__main__":
    write_model(Path(sys.argv[1]) / "model")
