"""Hugging Face architectures into the IR: one module each, found by `config.model_type` (`-` becomes `_`).

A frontend says where the architecture keeps its shape and its weights; `build` does the copying, which is the same for
all. Sizes that every encoder has come from optimum's `NormalizedConfig`, which knows each architecture's own names.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from edgekit.ir.config import EdgekitConfig
    from edgekit.ir.encoder import EdgekitForSequenceClassification

Weights = Mapping[str, "Tensor"]

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "swish": "silu"}
"""Names of transformers' activations that the IR calls otherwise; all others keep their name."""


@dataclass(frozen=True)
class Names:
    """Where an architecture keeps its weights: names of modules, `{}` standing for the layer's index.

    `type` and `projection` are None where the architecture has none; `relative` is the shared relative-bias table.
    """

    word: str
    position: str
    norm: str
    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    ffn_norm: str
    dense: str
    classifier: str
    type: str | None = None
    projection: str | None = None
    relative: str | None = None
    position_offset: int = 0


class Frontend(Protocol):
    """What a module in this folder offers."""

    NAMES: Names

    def shape(self, config: PretrainedConfig) -> dict[str, Any]:
        """Returns the `EdgekitConfig` arguments that this architecture decides, beyond the common sizes."""
        ...


def architectures() -> tuple[str, ...]:
    """Names the model types there is a frontend for, from the files of this folder."""
    modules = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(sorted(name.replace("_", "-") for name in modules))


def check(model_type: str) -> None:
    """Refuses a model type that no frontend serves, listing those there are.

    Raises:
        ModelError: no frontend.
    """
    if model_type not in architectures():
        raise ModelError(f"no frontend for model type {model_type!r}; there are: {', '.join(architectures())}")


def width_of(path: Path) -> tuple[int, int]:
    """Returns hidden size and head_dim of a checkpoint.

    Raises:
        ModelError: no frontend for its architecture.
    """
    from optimum.utils import NormalizedConfigManager
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, local_files_only=True)
    check(config.model_type)
    sizes = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    return int(sizes.hidden_size), int(sizes.hidden_size // sizes.num_attention_heads)


def build(model: PreTrainedModel) -> EdgekitForSequenceClassification:
    """Copies a transformers sequence classifier into the IR; the logits agree to 1e-5.

    Raises:
        ModelError: no frontend for its architecture, or a setting that the IR does not express.
    """
    from edgekit.ir.encoder import EdgekitForSequenceClassification

    check(model.config.model_type)
    style = getattr(model.config, "position_embedding_type", None) or "absolute"
    if style != "absolute":
        raise ModelError(f"position_embedding_type {style!r} is not expressed by edgekit; only 'absolute' is")
    if getattr(model.config, "is_decoder", False):
        raise ModelError(
            "is_decoder is set, so that tokens do not see those after them; edgekit expresses encoders only"
        )
    frontend: Frontend = importlib.import_module(f"{__name__}.{model.config.model_type.replace('-', '_')}")
    names = frontend.NAMES
    config = _config(model.config, frontend)
    result = EdgekitForSequenceClassification(config)
    result.load_state_dict(_state(model.state_dict(), names, config))
    result.eval()
    return result


def _config(config: PretrainedConfig, frontend: Frontend) -> EdgekitConfig:
    from optimum.utils import NormalizedConfigManager

    from edgekit.ir.config import EdgekitConfig

    sizes = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    shape = {
        "vocab_size": sizes.vocab_size,
        "embedding_size": sizes.hidden_size,
        "hidden_size": sizes.hidden_size,
        "head_dim": sizes.hidden_size // sizes.num_attention_heads,
        "heads": [sizes.num_attention_heads] * sizes.num_layers,
        "id2label": config.id2label,
        "label2id": config.label2id,
        "pad_token_id": config.pad_token_id,
    }
    try:
        return EdgekitConfig(**shape | frontend.shape(config))
    except ValueError as error:
        raise ModelError(
            f"the {config.model_type} model has a setting that edgekit does not express: {error}"
        ) from error


def _state(weights: Weights, names: Names, config: EdgekitConfig) -> dict[str, Tensor]:
    import torch

    state: dict[str, Tensor] = {}

    def copy(target: str, source: str) -> None:
        state[f"{target}.weight"], state[f"{target}.bias"] = weights[f"{source}.weight"], weights[f"{source}.bias"]

    state["embeddings.word.weight"] = weights[f"{names.word}.weight"]
    state["embeddings.position.weight"] = weights[f"{names.position}.weight"][names.position_offset :]
    if names.type is not None:
        state["embeddings.token_type.weight"] = weights[f"{names.type}.weight"]
    copy("embeddings.norm", names.norm)
    if config.embedding_size != config.hidden_size and names.projection is not None:
        copy("embeddings.projection", names.projection)
    for i in range(len(config.heads)):
        for part in ("weight", "bias"):
            packed = [weights[f"{name.format(i)}.{part}"] for name in (names.query, names.key, names.value)]
            state[f"layers.{i}.qkv.{part}"] = torch.cat(packed)
        for part in ("output", "attention_norm", "up", "down", "ffn_norm"):
            copy(f"layers.{i}.{part}", getattr(names, part).format(i))
        if names.relative is not None:
            state[f"layers.{i}.relative.weight"] = weights[f"{names.relative}.weight"]
    copy("head.dense", names.dense)
    copy("head.classifier", names.classifier)
    return state
