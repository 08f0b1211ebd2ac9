"""Recipes trained with TRL's trainers and PEFT as their manuals show, on one model in memory. Used by plain.py.

    model = TrlModel.load(Path("study.yaml"))
    model.train(recipe, seed=0)
    model.measure()                 # score name to value, None where it is missing

Three things are done that a script has to find out first: full DPO precomputes its reference (TRL would load the
untouched base from disk instead), the forward that trainers patch is taken off the model, and weights are trainable
again after an adapter was merged.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, interleave_datasets
from datasets.utils.logging import disable_progress_bar
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from evaluators.models import LoadedModel
from evaluators.suite import Reference, Suite
from search.base_files import resolve_base
from search.sources import Source, read_source
from search.spec import StudySpec
from search.stages.weights import converted_gguf
from search.yaml_file import load_study
from spaces.recipe import Recipe, Stage

TARGETS: dict[str, str | list[str]] = {
    "all": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
}
PARTS = ("restore", "build", "train", "merge", "evaluate")


@dataclass
class TrlModel:
    """A model that recipes are trained on, one after the other."""

    spec: StudySpec
    model: Any
    tokenizer: Any
    base_weights: dict[str, torch.Tensor]
    datasets: dict[str, Dataset]
    """By source, as TRL takes them."""
    row_tokens: dict[str, float]
    """Mean tokens of a row by source; of a pair, prompt and answer twice."""
    suite: Suite
    reference: Reference
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds of the last recipe by part."""
    tokens: int = 0
    """Tokens that the last recipe trained, by the mean of its rows."""

    @classmethod
    def load(cls, study: Path) -> TrlModel:
        """Load base, data and suite of a study."""
        disable_progress_bar()
        warnings.simplefilter("ignore")
        spec, root = load_study(study), study.parent
        torch.set_num_threads(spec.compute.threads_per_trial)
        files = resolve_base(spec.base, root)
        place = files.location
        if files.gguf_file is not None:
            if files.folder is None:
                raise SystemExit("base: a GGUF checkpoint must be in a package or a folder here")
            place = str(converted_gguf(files.folder, files.gguf_file))
        model = AutoModelForCausalLM.from_pretrained(place, dtype=getattr(torch, spec.base.dtype))
        tokenizer = AutoTokenizer.from_pretrained(place)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        sources = {name: read_source(name, source, root) for name, source in spec.sources.items()}
        suite = Suite(spec.full_suite, {name: each.rows for name, each in sources.items()}, root)
        used = {name for influence in spec.influences.values() for name in influence.mix}
        found = cls(
            spec=spec,
            model=model,
            tokenizer=tokenizer,
            base_weights={name: each.clone() for name, each in model.state_dict().items()},
            datasets={name: Dataset.from_list(as_trl(sources[name])) for name in used},
            row_tokens={name: mean_tokens(sources[name], tokenizer) for name in used},
            suite=suite,
            reference=suite.reference(as_loaded(model, tokenizer, spec)),
        )
        return found

    def train(self, recipe: Recipe, seed: int) -> None:
        """Train a recipe from the base on."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.tokens = 0
        began = time.monotonic()
        self.model.load_state_dict(self.base_weights)
        self._spend("restore", began)
        for stage in recipe.stages:
            self._train_stage(stage, seed)

    def measure(self) -> dict[str, float | None]:
        """Score the model as it is now."""
        began = time.monotonic()
        loaded = as_loaded(self.model, self.tokenizer, self.spec)
        found = self.suite.measure(loaded, self.reference)
        self._spend("evaluate", began)
        return {score.name: score.value for each in found.values() for score in each.scores}

    def _train_stage(self, stage: Stage, seed: int) -> None:
        began = time.monotonic()
        # A merged adapter leaves every weight frozen.
        self.model.requires_grad_(True)
        self.model.train()
        trainer = self._trainer(stage, seed)
        trainer.remove_callback(PrinterCallback)
        began = self._spend("build", began)
        trainer.train()
        began = self._spend("train", began)
        if stage.adapter.kind != "full":
            self.model = trainer.model.merge_and_unload()
        # Trainers patch it, and patches nest.
        self.model.__dict__.pop("forward", None)
        self.model.config.use_cache = True
        self.model.eval()
        self._spend("merge", began)

    def _trainer(self, stage: Stage, seed: int) -> Any:
        training = self.spec.training
        dataset, row_tokens = self._data(stage, seed)
        n_steps = steps_of(stage.dose_tokens, row_tokens, training.rows_per_step)
        self.tokens += round(n_steps * training.rows_per_step * row_tokens)
        micro = training.micro_batch_rows or training.rows_per_step
        arguments: dict[str, Any] = {
            "output_dir": "trainer",
            "use_cpu": True,
            "bf16": training.precision == "bfloat16",
            "max_steps": n_steps,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": training.rows_per_step // micro,
            "learning_rate": stage.learning_rate,
            "lr_scheduler_type": SCHEDULES[training.schedule],
            "warmup_steps": training.warmup_steps,
            "weight_decay": training.weight_decay,
            "max_grad_norm": training.max_grad_norm,
            "gradient_checkpointing": training.gradient_checkpointing,
            "max_length": training.max_length,
            "seed": seed,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }
        common: dict[str, Any] = {"model": self.model, "processing_class": self.tokenizer}
        if stage.adapter.kind != "full":
            common["peft_config"] = lora_config(stage.adapter)
        if stage.method == "sft":
            config = SFTConfig(**arguments, completion_only_loss=training.loss_on == "completion")
            return SFTTrainer(args=config, train_dataset=dataset, **common)
        if stage.adapter.kind == "full":
            arguments["precompute_ref_log_probs"] = True
            n_rows = min(len(dataset), n_steps * training.rows_per_step)
            dataset = dataset.shuffle(seed=seed).select(range(n_rows))
        config = DPOConfig(**arguments, beta=stage.beta)
        return DPOTrainer(args=config, train_dataset=dataset, **common)

    def _data(self, stage: Stage, seed: int) -> tuple[Dataset, float]:
        """Return the rows of a mix and their mean tokens."""
        if len(stage.mix) == 1:
            (name,) = stage.mix
            return self.datasets[name], self.row_tokens[name]
        # Shares are of tokens, and interleaving counts rows.
        weights = {name: share / self.row_tokens[name] for name, share in stage.mix.items()}
        total = sum(weights.values())
        mixed = interleave_datasets(
            [self.datasets[name] for name in weights],
            probabilities=[weight / total for weight in weights.values()],
            seed=seed,
            stopping_strategy="all_exhausted",
        )
        return mixed, 1.0 / total

    def _spend(self, part: str, began: float) -> float:
        now = time.monotonic()
        self.seconds[part] += now - began
        return now


SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def as_loaded(model: Any, tokenizer: Any, spec: StudySpec) -> LoadedModel:
    """Return the model as evaluators see it."""
    return LoadedModel(model, tokenizer, "cpu", spec.training.precision)


def as_trl(source: Source) -> list[dict[str, Any]]:
    """Return rows for TRL: chats with one answer become prompt and completion, whose loss needs no special template.

    Raises:
        SystemExit: A format or a chat that this script does not read.
    """
    if source.format in ("preference", "prompt-completion"):
        return source.rows
    if source.format != "messages":
        raise SystemExit(f"source {source.name}: format {source.format} is not read here")
    rows = []
    for row in source.rows:
        *prompt, answer = row["messages"]
        if answer["role"] != "assistant" or any(turn["role"] == "assistant" for turn in prompt):
            raise SystemExit(f"source {source.name}: chats must have one answer, at their end")
        rows.append({"prompt": prompt, "completion": [answer]})
    return rows


def mean_tokens(source: Source, tokenizer: Any) -> float:
    """Return the mean tokens of a row; a pair has its prompt twice."""
    counts = []
    for row in as_trl(source):
        prompt = row["prompt"]
        for name in ("completion", "chosen", "rejected"):
            if name in row:
                whole = prompt + row[name]
                if not isinstance(whole, str):
                    whole = tokenizer.apply_chat_template(whole, tokenize=False)
                counts.append(len(tokenizer(whole, add_special_tokens=False)["input_ids"]))
    return sum(counts) / len(source.rows)


def steps_of(dose_tokens: int, row_tokens: float, rows_per_step: int) -> int:
    """Return the optimizer steps nearest to a dose, at least one."""
    return max(1, round(dose_tokens / (row_tokens * rows_per_step)))


def lora_config(adapter: Any) -> LoraConfig:
    """Return PEFT's configuration of an adapter.

    Raises:
        SystemExit: It asks for what this script does not know.
    """
    if adapter.kind != "lora" or adapter.targets not in TARGETS or adapter.layers != "all":
        raise SystemExit(f"adapter {adapter}: only LoRA on all layers is known here")
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_dora=adapter.dora,
        use_rslora=adapter.rslora,
        target_modules=TARGETS[adapter.targets],
        task_type="CAUSAL_LM",
    )
