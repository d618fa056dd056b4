"""A Hugging Face checkpoint on disk, looked at without torch: what it is, whether it is whole, what it can do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifact import Model, Teacher, tree_digest
from edgekit.errors import ModelError
from edgekit.source import is_there, meant, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
_READ = ("*.json", "*.safetensors", "*.txt", "*.model")  # what counts in the digest: no READMEs, no pickles
_CLASSIFIER = re.compile(r"(^|\.)(classifier(\.out_proj)?|score)\.weight$")
_HEADS = {
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForCausalLM": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
}
HUB_ID_LIMIT = 96  # characters, as the hub has it
_NEW_HEAD = re.compile(r"(^|\.)(classifier|pre_classifier|score|pooler)\.")  # what a base model need not have
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """What a model folder holds.

    Attributes:
        path: the folder.
        model_type: `config.model_type`.
        labels: names of the trained head's classes, in order of their ids; empty where there is no trained head.
        config: what config.json says.
    """

    path: Path
    model_type: str
    labels: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def fine_tuned(self) -> bool:
        """Whether it has a trained classification head."""
        return bool(self.labels)

    def artifact(self) -> Model | Teacher:
        """Returns the folder as an input artifact: a teacher where it is fine-tuned, else a base model."""
        files = [p for pattern in _READ for p in self.path.glob(pattern)]
        kind = Teacher if self.fine_tuned else Model
        return kind(self.path, tree_digest(self.path, files))


def locate(location: str, allow_download: bool) -> Path:
    """Returns the folder of a model given as a folder, a hub id, or `package:NAME/PATH`.

    A hub id is looked up in the hub's cache on this machine; the network is used only with `allow_download`.

    Raises:
        ModelError: it is nowhere.
    """
    if location.startswith("package:") or is_there(Path(location).expanduser()):
        return resolve(location, "model")
    if not _HUB_ID.fullmatch(location) or len(location) > HUB_ID_LIMIT:
        raise ModelError(f"model folder {location} does not exist{meant(Path(location).expanduser())}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(location, allow_patterns=list(_READ), local_files_only=not allow_download))
    except LocalEntryNotFoundError as error:
        hint = "the hub cannot be reached" if allow_download else "give --allow-download to fetch it from the hub"
        near = meant(Path(location))
        raise ModelError(
            f"model {location!r} is neither a folder nor in the hub's cache on this machine{near}; {hint}"
        ) from error
    except HFValidationError as error:
        raise ModelError(f"model {location!r} is neither a folder nor a hub id") from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"model {location!r} cannot be fetched from the hub: {error}") from error


def inspect(path: Path, task: str) -> Checkpoint:
    """Checks that a model folder is whole and fits the task.

    Raises:
        ModelError: no config, weights or tokenizer; weights that are truncated or pickled; a head for another task.
    """
    if not path.is_dir():
        raise ModelError(f"model {path} is a file; give the folder that holds config.json")
    config = _read_config(path)
    names = _weight_names(path)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(f"{path} has no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{path}/config.json has no 'model_type'")
    _check_tokenizer(path)
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        raise ModelError(f"{path}/config.json: 'architectures' is {architectures!r}; expected a list of class names")
    for architecture in architectures:
        for suffix, other in _HEADS.items():
            if str(architecture).endswith(suffix):
                raise ModelError(
                    f"{path} is a {architecture}, fine-tuned for {other}; the task is {task}: give a model of that "
                    "task, or a base model"
                )
    if config.get("problem_type") in ("multi_label_classification", "regression"):
        raise ModelError(
            f"{path} is a model of {config['problem_type']}; edgekit builds classifiers of one label a text"
        )
    classifies = any(str(a).endswith("ForSequenceClassification") for a in architectures)
    trained = classifies and any(_CLASSIFIER.search(name) for name in names)
    return Checkpoint(path, model_type, _labels(config) if trained else (), config)


def _check_tokenizer(path: Path) -> None:
    """Refuses tokenizer files that are no JSON, or a tokenizer.json without a vocabulary."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if not (path / name).is_file():
            continue
        try:
            table = json.loads((path / name).read_text(encoding="utf-8-sig"))
        except (ValueError, OSError) as error:
            raise ModelError(f"{path / name} cannot be read: {error}; copy the checkpoint again") from error
        whole = isinstance(table, dict) and (name != "tokenizer.json" or isinstance(table.get("model"), dict))
        if not whole:
            raise ModelError(f"{path / name} is not what a tokenizer saves; copy the checkpoint again")


def read_labels(path: Path) -> tuple[str, ...]:
    """Returns the class names of a checkpoint's head, in the order of their ids."""
    return _labels(_read_config(path))


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"{path} has no config.json; give the folder of a Hugging Face checkpoint")
    try:
        config = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} holds no object")
    return config


def _weight_names(path: Path) -> set[str]:
    files = _weight_files(path)
    names: set[str] = set()
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                names |= set(weights.keys())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is truncated or not a safetensors file: {error}; copy it again") from error
    return names


def _weight_files(path: Path) -> list[Path]:
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / INDEX).is_file():
        try:
            names = {
                str(name) for name in json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
            }
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{path / INDEX} cannot be read: {error!r}") from error
        if not names:
            raise ModelError(f"{path / INDEX} names no weights; copy the checkpoint again")
        missing = sorted(name for name in names if Path(name).name != name or not (path / name).is_file())
        if missing:
            raise ModelError(f"{path / INDEX} names files that are not there: {', '.join(missing)}")
        return [path / name for name in sorted(names)]
    pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in path.glob(pattern))
    if pickled:
        raise ModelError(
            f"{path} has only pickled weights ({', '.join(pickled)}), which can run code when they are loaded; save it "
            "with save_pretrained(..., safe_serialization=True)"
        )
    raise ModelError(f"{path} has no {WEIGHTS}")


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    id2label = config.get("id2label")
    if isinstance(id2label, dict) and id2label:
        try:
            return tuple(str(id2label[key]) for key in sorted(id2label, key=int))
        except ValueError as error:
            raise ModelError(
                f"config.json: the keys of id2label must be integers, are {', '.join(id2label)}"
            ) from error
    return ("LABEL_0", "LABEL_1")  # what transformers writes nothing for


def position_limit(path: Path) -> int:
    """Returns the longest input of a checkpoint in tokens, from the shape of its position table.

    RoBERTa's and MPNet's tables start behind the padding id, so that two of their rows are never read.

    Raises:
        ModelError: config.json does not say.
    """
    config = _read_config(path)
    offset = 2 if config.get("model_type") in {"roberta", "xlm-roberta", "mpnet"} else 0
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= offset:
        raise ModelError(
            f"{path}/config.json: 'max_position_embeddings' is {positions!r}; expected how many tokens it reads"
        )
    return positions - offset


def embedding_width(path: Path) -> int:
    """Returns the columns of a checkpoint's word table.

    Raises:
        ModelError: config.json does not say.
    """
    config = _read_config(path)
    for name in ("embedding_size", "hidden_size", "dim"):  # ELECTRA's, most, DistilBERT's
        if isinstance(width := config.get(name), int) and width > 0:
            return width
    raise ModelError(f"{path / 'config.json'} gives no hidden_size; copy the checkpoint again")


def load_classifier(path: Path, labels: Sequence[str] = ()) -> PreTrainedModel:
    """Loads a checkpoint as transformers' own sequence classifier, in float32.

    Args:
        path: the folder.
        labels: names of the classes of a new head, for a base model; empty demands a trained head.

    Raises:
        ModelError: weights are missing (transformers would fill them at random) or do not fit the configuration.
    """
    from transformers import AutoModelForSequenceClassification

    head = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if labels else {}
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the message can say which: they are refused below
            **head,
        )
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever a damaged config.json makes transformers stumble over
        first = next(iter(str(error).splitlines()), "")
        raise ModelError(f"{path}: transformers cannot load it ({type(error).__name__}: {first})") from error
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, has, wanted = mismatched[0]
        raise ModelError(
            f"{path}: the weights do not fit config.json: {name} has shape {tuple(has)}, the configuration makes it "
            f"{tuple(wanted)}" + (f"; {len(mismatched) - 1} more differ" if len(mismatched) > 1 else "")
        )
    missing = [name for name in sorted(info["missing_keys"]) if not (labels and _NEW_HEAD.search(name))]
    if missing:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        raise ModelError(f"{path} lacks {len(missing)} of its model's weights ({shown}); save the whole model again")
    model = model.float().eval()
    for name, values in model.state_dict().items():
        if not values.isfinite().all():
            raise ModelError(f"{path}: {name} holds values that are not finite; the model is broken there")
    return model
