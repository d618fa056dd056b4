"""Cuts the vocabulary to what the training data and the special tokens need.

Half of a small encoder's parameters are its word table, and a task's texts use a tenth of it. Kept are the special
tokens, the pieces that the training split uses at least `min_count` times, and every single character (at the start of
a word and inside it) of the scripts that it is written in. A word whose own piece is gone is then cut into pieces as
WordPiece does with any unknown word: without the characters it would become unknown as a whole.

A small training split knows few of the words that users will say. WordPiece vocabularies are ordered by frequency, so a
small remainder is filled up from the front of the original one: the words most likely to be met.

Only WordPiece is trimmed so far; another kind of tokenizer is left whole, and the facts say so.

Ref: Ushio et al. 2023, VocabTrimmer (2305.15020).
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, Teacher, Vocabulary, write_json
from edgekit.checkpoint import position_limit
from edgekit.errors import ModelError, RecipeError
from edgekit.stage import Context, Inputs, Pass
from edgekit.target import Target

LENGTH_STEP = 16
"""The longest input is rounded up to a multiple of this many tokens: room for rows longer than training's."""


_RESERVED = re.compile(r"\[.*\]")  # [unused0] and its like: no text ever uses them


@dataclass(frozen=True)
class Trim(Pass):
    """Makes the student's tokenizer.

    Attributes:
        enabled: whether to cut; None cuts for targets that limit the file's size.
        min_count: uses in the training split from which a piece is kept.
        min_tokens: a smaller vocabulary is filled up to this many from the front of the original one.
        max_length: longest input in tokens; 0 takes it from the training split, at most 256.
    """

    enabled: bool | None = None
    min_count: int = 1
    min_tokens: int = 6000
    max_length: int = 0

    NAME: ClassVar[str] = "trim"
    VERSION: ClassVar[int] = 1
    IN: ClassVar = (Teacher, LabelledData)
    OUT: ClassVar = Vocabulary
    TOOLS: ClassVar = ("tokenizers", "transformers")

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}; it must be at least 1")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens}; it must not be negative")
        if self.max_length != 0 and not 8 <= self.max_length <= 512:
            raise ValueError(f"max_length is {self.max_length}; it must lie between 8 and 512 tokens, or be 0")

    def resolved(self, target: Target) -> Trim:
        """Returns the stage with `enabled` decided by a limit of the file's size, and a fixed input length taken over.

        Raises:
            RecipeError: `max_length` contradicts the target's fixed length.
        """
        enabled = target.budget.file_bytes is not None if self.enabled is None else self.enabled
        fixed = target.shape.sequence_length
        if fixed == "dynamic":
            return dataclasses.replace(self, enabled=enabled)
        if self.max_length not in (0, fixed):
            raise RecipeError(f"trim.max_length is {self.max_length}, but the target's input has {fixed} tokens")
        return dataclasses.replace(self, enabled=enabled, max_length=int(fixed))

    def requires(self, inputs: Inputs, ctx: Context) -> None:
        """Refuses rows longer than the teacher reads."""
        positions = position_limit(inputs[Teacher].path)
        if self.max_length > positions:
            raise RecipeError(f"trim.max_length is {self.max_length}, but the teacher reads {positions} tokens at most")

    def run(self, inputs: Inputs, out_dir: Path, ctx: Context) -> None:
        """Writes tokenizer/, teacher_ids.json and facts."""
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer

        teacher = inputs[Teacher].path
        dataset = data.read(inputs[LabelledData].path)
        try:
            source = AutoTokenizer.from_pretrained(teacher, local_files_only=True)
            original = Tokenizer.from_str(source.backend_tokenizer.to_str())
        except (MemoryError, OSError):
            raise
        except Exception as error:  # whatever a damaged tokenizer makes the libraries stumble over
            raise ModelError(
                f"{teacher}: its tokenizer cannot be loaded ({type(error).__name__}: {error}); copy it again"
            ) from error
        original.no_padding()
        original.no_truncation()
        train, dev = [text for text, _ in dataset.train], [text for text, _ in dataset.dev]
        encoded = original.encode_batch(train)
        longest = max(len(e.ids) for e in encoded)
        max_length = self.max_length or min(-(-longest // LENGTH_STEP) * LENGTH_STEP, 256, position_limit(teacher))

        description = json.loads(original.to_str())
        kind = description["model"]["type"]
        # Up to the last id, not as many as there are tokens: some vocabularies have gaps.
        ids = list(range(max(original.get_vocab(with_added_tokens=True).values()) + 1))
        trimmed = original
        note = ""
        if not self.enabled:
            note = "the target does not limit the file's size"
        elif kind != "WordPiece":
            note = f"{kind} vocabularies are left whole; only WordPiece is trimmed so far"
        else:
            counts = Counter(token for e in encoded for token in e.ids)
            ids = kept_ids(description, counts, self.min_count, self.min_tokens, train)
            description = renumbered(description, {old: new for new, old in enumerate(ids)})
            trimmed = Tokenizer.from_str(json.dumps(description))

        folder = out_dir / "tokenizer"
        folder.mkdir()
        trimmed.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", _tokenizer_config(source, max_length))
        write_json(out_dir / "teacher_ids.json", ids)
        rates = {
            "unknown_rate_dev_before": unknown_rate(original, dev, source.unk_token_id),
            "unknown_rate_dev_after": unknown_rate(trimmed, dev, trimmed.token_to_id(source.unk_token or "")),
            "resegmented_rate_dev": _resegmented(original, trimmed, dev),
        }
        facts = {
            "tokenizer": kind,
            "tokens_before": len(original.get_vocab(with_added_tokens=True)),
            "tokens_after": len(ids),
            "max_length": max_length,
            "longest_train_row": longest,
            "train_rows_cut": sum(len(e.ids) > max_length for e in encoded),
            "pad_token_id": trimmed.token_to_id(source.pad_token) if source.pad_token else 0,
        }
        if note:
            facts["left_whole"] = note
        write_json(out_dir / FACTS, facts | rates)


def kept_ids(
    description: Mapping[str, Any], counts: Mapping[int, int], min_count: int, min_tokens: int, texts: Sequence[str]
) -> list[int]:
    """Chooses the tokens that stay.

    Args:
        description: parsed tokenizer.json of a WordPiece tokenizer.
        counts: uses of each token id in the training split.
        min_count: uses from which a token stays.
        min_tokens: tokens that stay at least, where there are as many.
        texts: the training split, whose scripts decide which characters stay.

    Returns:
        Old ids in increasing order, so that the new order is the old one.
    """
    model = description["model"]
    prefix = model["continuing_subword_prefix"]
    special = {token["id"] for token in description["added_tokens"]} | {model["vocab"][model["unk_token"]]}
    scripts = {_script(character) for character in set("".join(texts))}
    kept = set(special)
    for token, index in model["vocab"].items():
        bare = token.removeprefix(prefix)
        character = len(bare) == 1 and (bare.isascii() or _script(bare) in scripts)
        if character or counts.get(index, 0) >= min_count:
            kept.add(index)
    for token, index in sorted(model["vocab"].items(), key=lambda item: item[1]):
        if len(kept) >= min_tokens:
            break
        bare = token.removeprefix(prefix)
        if len(bare) > 1 and not _RESERVED.fullmatch(token) and {_script(c) for c in bare} <= scripts:
            kept.add(index)
    return sorted(kept)


def _script(character: str) -> str:
    """Returns the first word of the character's Unicode name, which for letters is their script."""
    return unicodedata.name(character, "UNNAMED").split()[0].split("-")[0]


def renumbered(description: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Returns a WordPiece tokenizer.json with only the tokens in `new_ids`, under their new ids.

    The ids stand in the model's vocabulary, the added tokens, the post-processor and the padding.
    """
    result: dict[str, Any] = json.loads(json.dumps(description))
    vocabulary = result["model"]["vocab"]
    result["model"]["vocab"] = {t: new_ids[i] for t, i in vocabulary.items() if i in new_ids}
    for token in result["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    _renumber_processor(result.get("post_processor"), new_ids)
    if result.get("padding"):
        result["padding"]["pad_id"] = new_ids[result["padding"]["pad_id"]]
    return result


def _renumber_processor(processor: dict[str, Any] | None, new_ids: Mapping[int, int]) -> None:
    if processor is None:
        return
    for part in processor.get("processors", ()):  # a Sequence holds others
        _renumber_processor(part, new_ids)
    special = processor.get("special_tokens")
    if isinstance(special, dict):  # TemplateProcessing
        for entry in special.values():
            entry["ids"] = [new_ids[i] for i in entry["ids"]]
    for end in ("cls", "sep"):  # BertProcessing
        if isinstance(processor.get(end), list):
            token, index = processor[end]
            processor[end] = [token, new_ids[index]]


def unknown_rate(tokenizer: Any, texts: Iterable[str], unknown_id: int | None) -> float:
    """Returns the share of tokens that are unknown, special tokens not counted; 0 for a tokenizer that has none."""
    encoded = [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    total = sum(len(ids) for ids in encoded)
    return sum(ids.count(unknown_id) for ids in encoded) / total if total and unknown_id is not None else 0.0


def _resegmented(original: Any, trimmed: Any, texts: Sequence[str]) -> float:
    """Returns the share of rows that the trimmed tokenizer cuts into other pieces."""
    before, after = original.encode_batch(list(texts)), trimmed.encode_batch(list(texts))
    share: float = sum(a.tokens != b.tokens for a, b in zip(before, after, strict=True)) / max(len(before), 1)
    return share


def _tokenizer_config(source: Any, max_length: int) -> dict[str, Any]:
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
    special = {name: getattr(source, name, None) for name in names}
    return {k: v for k, v in special.items() if v is not None} | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }
