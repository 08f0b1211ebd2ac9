"""ResidentBase: the base model, loaded once per process and restored in memory between recipes.

base = ResidentBase.load(spec.base, root, device="cpu", precision="bfloat16", threads=1)
ref = base.fresh()      # a ModelRef; earlier ones are stale from here on
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from search.base_files import BaseFiles, resolve_base
from search.errors import SpecError
from search.messages import one_line
from search.spec import BaseSpec
from search.stages.adapters import adapter_names, remove_adapters
from search.stages.model_ref import ModelRef
from search.stages.places import canonical_name, n_layers
from search.stages.quantised import quantisation
from search.stages.weights import content_hash, converted_gguf, tokenizer_hash


class ResidentBase:
    """A base model in memory.

    There is one copy of each weight, and a second one of those that some recipe has changed, to put them back.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: str, precision: str, name: str, weights_hash: str
    ) -> None:
        """Take over a loaded model; nothing else may train it from now on.

        Args:
            model: A `PreTrainedModel`, on its device.
            tokenizer: Its tokenizer.
            device: `cpu` or `cuda`.
            precision: `float32` or `bfloat16`, of the computations of stages.
            name: Hub id or folder that `from_pretrained` takes, for saved adapters.
            weights_hash: Names the content of the weights.
        """
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.precision = precision
        self.name = name
        self.tokenizer_hash = tokenizer_hash(tokenizer)
        self.fingerprint = f"{weights_hash}:{model.dtype}:{self.tokenizer_hash}"
        self._attributes = [dict(vars(holder)) for holder in self._holders()]
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._originals: dict[str, Tensor] = {}
        self._changed: set[str] = set()

    @classmethod
    def load(
        cls, spec: BaseSpec, root: Path, device: str, precision: str, threads: int
    ) -> ResidentBase:
        """Load a base model.

        Args:
            spec: Where it is.
            root: Folder of the study file.
            device: `cpu` or `cuda`.
            precision: Of the computations of stages.
            threads: torch threads of this process.

        Raises:
            SpecError: It is not there or cannot be read as a causal language model.
        """
        torch.set_num_threads(threads)
        files = resolve_base(spec, root)
        bits = spec.bits
        quantised: dict[str, Any] = {}
        if bits is not None:
            quantised = {"quantization_config": quantisation(bits, device), "device_map": device}
        try:
            folder, revision = pretrained_place(files)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                revision=revision,
                dtype=getattr(torch, spec.dtype),
                use_safetensors=True,
                trust_remote_code=False,
                **quantised,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, revision=revision, trust_remote_code=False
            )
        except Exception as error:  # readers of checkpoints raise whatever a wrong file makes them
            reason = one_line(str(error))[:200]
            raise SpecError(
                f"base: {files.location} cannot be loaded ({reason}); "
                "it must hold a causal language model as safetensors, with its tokenizer"
            ) from error
        if bits is None:
            # Quantised weights are on their device already and refuse to be moved.
            model.to(device)
        model.eval()
        if files.kind == "hub" and files.gguf_file is None:
            weights_hash = f"{files.hub}@{model.config._commit_hash}"
        else:
            weights_hash = content_hash(Path(folder))
        if bits is not None:
            weights_hash += f":{bits}bit"
        return cls(model, tokenizer, device, precision, folder, weights_hash)

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return n_layers(self.model)

    @property
    def kept_names(self) -> set[str]:
        """Names of the parameters that are in memory twice."""
        return set(self._originals)

    @torch.no_grad()
    def fresh(self) -> ModelRef:
        """Return the base as it was loaded, bit for bit. The model object is always the same one."""
        model = self.model
        remove_adapters(model, adapter_names(model))
        parameters = dict(model.named_parameters())
        for name in self._changed:
            parameters[name].copy_(self._originals[name])
        self._changed.clear()
        for name, buffer in model.named_buffers():
            buffer.copy_(self._buffers[name])
        for holder, attributes in zip(self._holders(), self._attributes, strict=True):
            vars(holder).clear()
            vars(holder).update(attributes)
        for parameter in parameters.values():
            parameter.requires_grad_(parameter.is_floating_point())
            parameter.grad = None
        model.eval()
        return ModelRef(
            model=model,
            tokenizer=self.tokenizer,
            device=self.device,
            precision=self.precision,
            base=self,
            base_name=self.name,
            tokenizer_hash=self.tokenizer_hash,
        )

    @torch.no_grad()
    def keep(self, names: Iterable[str]) -> None:
        """Remember these parameters as they are in the base, before a stage changes them."""
        parameters = {
            canonical_name(name): parameter for name, parameter in self.model.named_parameters()
        }
        for name in set(names) - self._changed:
            if name not in self._originals:
                self._originals[name] = parameters[name].detach().clone()
            self._changed.add(name)

    def is_changed(self, name: str) -> bool:
        """Tell whether the recipe so far has changed a parameter, by canonical name."""
        return name in self._changed

    def original(self, name: str) -> Tensor:
        """Return a parameter that some recipe has changed, as it is in the base; on its device, not to be changed."""
        return self._originals[name]

    def _holders(self) -> list[Any]:
        """Return the objects whose attributes training may change."""
        holders = [self.model, self.model.config, self.model.generation_config]
        return [holder for holder in holders if holder is not None]


def pretrained_place(files: BaseFiles) -> tuple[str, str | None]:
    """Return what `from_pretrained` takes, and the revision; a GGUF checkpoint is converted."""
    if files.gguf_file is None:
        return files.location, files.revision
    folder = files.folder
    if folder is None:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(files.location, files.gguf_file, revision=files.revision)
        folder = Path(path).parent
    return str(converted_gguf(folder, files.gguf_file)), None


def skeleton(spec: BaseSpec, root: Path) -> Any:
    """Return a base model without weights: modules and parameters have names and shapes alone.

    Raises:
        SpecError: Its files are not there, or its configuration is of no causal language model.
    """
    folder, revision = pretrained_place(resolve_base(spec, root))
    try:
        config = AutoConfig.from_pretrained(folder, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = one_line(str(error))[:200]
        raise SpecError(
            f"base: the configuration of {folder} cannot be read ({reason}); correct config.json"
        ) from error
