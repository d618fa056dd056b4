"""Cuts the word table to the rows that the training data and the special tokens need.

Half of a small encoder's parameters are its word table, and a task's texts use a tenth of it. Rows of their own keep
the special tokens, the pieces that the training split uses at least `min_count` times, and, of WordPiece, every single
character (at the start of a word and inside it) of the scripts that it is written in. A small training split knows few
of the words that users will say. Vocabularies are ordered by frequency, so a small remainder is filled up from the
front of the original one: the words most likely to be met. How many that takes dev says, whose texts training has not
seen either: rows are added until nearly all of its tokens have their own.

Every other token reads the row of the one whose embedding is nearest: a word that users say and training does not is
then taken for one like it. Without `share` it goes from the vocabulary, and the word is cut into smaller pieces, as
WordPiece does with any unknown one; of two thousand rows' students that costs up to three points (docs/log.md). A
WordPiece vocabulary loses the tokens of other scripts either way; other kinds of tokenizers stay as they are.

Ref: Ushio et al. 2023, VocabTrimmer (2305.15020), for what is cut away. Sharing rows is vector quantization of the
table whose code book are the rows that stay (Gray 1984).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgekit import data
from edgekit.artifact import FACTS, LabelledData, Teacher, Vocabulary, write_json
from edgekit.checkpoint import embedding_width, position_limit
from edgekit.errors import DataError, ModelError, RecipeError
from edgekit.quant.findings import Finding
from edgekit.search.limits import ROW_BYTES, SMALLER
from edgekit.search.request import wanted
from edgekit.stage import INTERNAL, Context, Inputs, Pass
from edgekit.stages._word_rows import covering, other_candidates, row_owners, special_ids, wordpiece_candidates
from edgekit.target import Target

LENGTH_STEP = 16
"""The longest input is rounded up to a multiple of this many tokens: room for rows longer than training's."""

MOST_TOKENS = 512
"""Of an input: what the encoders that are read here were trained with."""

TABLE_SHARE = 0.6
"""Share of a file's limit that the word table may take: layers need the rest, and the search cuts the table further
where they need more."""


@dataclass(frozen=True)
class Trim(Pass):
    """Makes the student's tokenizer, and says which rows of the word table it keeps.

    Attributes:
        enabled: whether to cut; None cuts for targets that limit the file's size.
        min_count: uses in the training split from which a token keeps its row.
        min_tokens: where fewer do, tokens from the front of the vocabulary keep theirs up to this many.
        coverage: share of dev's tokens that have rows of their own; where it is less, more from the front get some, as
            far as the target's limit of the file's size leaves room for them.
        share: whether the others read the row of the nearest token; otherwise WordPiece loses them, and tokenizers of
            another kind keep all rows.
        max_length: longest input in tokens; 0 takes it from the training split, at most 256.
        strict: whether rows longer than that are refused; otherwise they are cut there, and counted.
        word_form: of the table (`edgekit.search.limits.ROW_BYTES`), filled in by `knowing`: the one that the recipe
            names, else the smallest that there may be.
    """

    enabled: bool | None = None
    min_count: int = 1
    min_tokens: int = 6000
    coverage: float = 0.99
    share: bool = True
    max_length: int = 0
    strict: bool = False
    word_form: str = dataclasses.field(default="int8", metadata=INTERNAL)

    NAME: ClassVar[str] = "trim"
    VERSION: ClassVar[int] = 7
    IN: ClassVar = (Teacher, LabelledData)
    OUT: ClassVar = Vocabulary
    READS: ClassVar[tuple[str, ...]] = ("budget.file_bytes",)
    TOOLS: ClassVar = ("torch", "tokenizers", "transformers", "optimum", "numpy")

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}; it must be at least 1")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens}; it must not be negative")
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"coverage is {self.coverage}; it must lie between 0 and 1")
        if self.max_length != 0 and not 8 <= self.max_length <= MOST_TOKENS:
            raise ValueError(f"max_length is {self.max_length}; it must be 0, or 8 to {MOST_TOKENS} tokens")

    def knowing(self, options: Mapping[str, Mapping[str, Any]]) -> Trim:
        """Returns the stage knowing the form of the table that the recipe names, or that a search may take."""
        named = options.get("quantize", {}).get("embedding", SMALLER if wanted(options) else self.word_form)
        return dataclasses.replace(self, word_form=named) if named in ROW_BYTES else self

    def resolved(self, target: Target) -> Trim:
        """Returns the stage with `enabled` decided by a limit of the file's size, and a fixed input length taken over.

        Raises:
            RecipeError: `max_length` contradicts the target's fixed length.
        """
        enabled = target.budget.file_bytes is not None if self.enabled is None else self.enabled
        fixed = target.shape.sequence_length
        if not isinstance(fixed, int):
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
        """Writes tokenizer/, teacher_ids.json, row_owners.json and facts.

        Raises:
            ModelError: the teacher's tokenizer cannot be loaded.
            DataError: rows are longer than the longest input, and `strict` refuses them.
        """
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
        kind, special = description["model"]["type"], special_ids(description)
        # Up to the last id, not as many as there are tokens: some vocabularies have gaps.
        ids = list(range(max(original.get_vocab(with_added_tokens=True).values()) + 1))
        owned, trimmed, note = ids, original, ""
        counts = Counter(token for e in encoded for token in e.ids)
        asked = [token for e in original.encode_batch(dev) for token in e.ids]
        limit = ctx.target["budget.file_bytes"]
        row = ROW_BYTES[self.word_form](embedding_width(teacher))
        room = len(ids) if limit is None else int(TABLE_SHARE * limit / row)
        if kind == "WordPiece":
            candidates = wordpiece_candidates(description, counts, self.min_count, train)
        else:
            candidates = other_candidates(ids, special, counts, self.min_count)
        if not self.enabled:
            note = "the target does not limit the file's size"
        elif kind != "WordPiece":
            note = f"{kind} vocabularies keep their tokens; only WordPiece's are cut so far"
        if self.enabled and (self.share or kind == "WordPiece"):
            owned = covering(candidates, asked, self.coverage, self.min_tokens, room)
        if self.enabled and kind == "WordPiece":
            ids = candidates.all if self.share else owned
            renamed = renumbered(description, {old: new for new, old in enumerate(ids)})
            trimmed = Tokenizer.from_str(json.dumps(renamed))
        owners = row_owners(teacher, ids, owned, special)

        splits = {"train": train, "dev": dev, "test": [text for text, _ in dataset.test]}
        lengths = {name: [len(e.ids) for e in trimmed.encode_batch(texts)] for name, texts in splits.items()}
        found = rows_cut(lengths, max_length, position_limit(teacher))
        if found is not None and self.strict:
            raise DataError(f"{found.detail} without --strict; {found.cure}")

        folder = out_dir / "tokenizer"
        folder.mkdir()
        trimmed.save(str(folder / "tokenizer.json"))
        write_json(folder / "tokenizer_config.json", _tokenizer_config(source, max_length))
        write_json(out_dir / "teacher_ids.json", ids)
        write_json(out_dir / "row_owners.json", owners)
        rates = {
            "unknown_rate_dev_before": unknown_rate(original, dev, source.unk_token_id),
            "unknown_rate_dev_after": unknown_rate(trimmed, dev, trimmed.token_to_id(source.unk_token or "")),
            "resegmented_rate_dev": _resegmented(original, trimmed, dev),
            "shared_rate_dev": _sharing(trimmed, dev, owners),
        }
        facts = {
            "tokenizer": kind,
            "tokens_before": len(original.get_vocab(with_added_tokens=True)),
            "tokens_after": len(ids),
            "table_rows": len(owned),
            "max_length": max_length,
            "longest_train_row": longest,
            **{f"{name}_rows_cut": sum(row > max_length for row in rows) for name, rows in lengths.items()},
            "findings": [] if found is None else [dataclasses.asdict(found)],
            "pad_token_id": trimmed.token_to_id(source.pad_token) if source.pad_token else 0,
        }
        if note:
            facts["left_whole"] = note
        write_json(out_dir / FACTS, facts | rates)


def rows_cut(lengths: Mapping[str, Sequence[int]], max_length: int, positions: int) -> Finding | None:
    """Finds rows that are longer than the longest input.

    Args:
        lengths: of the rows of each split, in tokens.
        max_length: of the longest input.
        positions: that the teacher has.
    """
    longer = {name: sum(row > max_length for row in rows) for name, rows in lengths.items()}
    if not any(longer.values()):
        return None
    longest = max(max(rows) for rows in lengths.values() if rows)
    counted = ", ".join(f"{count:,} of {len(lengths[name]):,} rows of {name}" for name, count in longer.items())
    most = min(positions, MOST_TOKENS)
    cure = f"--set trim.max_length={min(longest, most)}" if max_length < most else "a teacher that reads more"
    return Finding(
        "rows-cut",
        "input",
        f"{counted} have more than {max_length} tokens, the longest {longest:,}, and are cut there",
        "what stands behind is not read",
        f"{cure}, or shorter texts",
    )


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


def _sharing(tokenizer: Any, texts: Sequence[str], owners: Sequence[int]) -> float:
    """Returns the share of rows with a token that reads another's row of the word table."""
    rows = [e.ids for e in tokenizer.encode_batch(list(texts))]
    return sum(any(owners[token] != token for token in row) for row in rows) / max(len(rows), 1)


def _tokenizer_config(source: Any, max_length: int) -> dict[str, Any]:
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token", "eos_token")
    special = {name: getattr(source, name, None) for name in names}
    return {k: v for k, v in special.items() if v is not None} | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }
