"""Metadata of .tflite files: how MediaPipe's text classifier gets from raw text to a label by a file alone.

A table after a schema of TensorFlow's lies in one of the model's buffers, and the vocabulary and the labels in a zip
archive behind the model. What little of the schema is needed is written here by its field numbers: the packages that
carry it generated (mediapipe, tflite-support) are a hundred megabytes, or no longer released.

Ref: mediapipe/tasks/metadata/metadata_schema.fbs; the classifier's reader, mediapipe/tasks/cc/metadata.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import _litert_file as file
from edgekit.quant.findings import Finding

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT

VOCABULARY, LABELS = "vocab.txt", "labels.txt"
BUFFER, IDENTIFIER = "TFLITE_METADATA", b"M001"
PARSER = "1.1.0"
"""Oldest parser of the schema that knows BERT's tokenizer."""

LABELS_FILE, VOCABULARY_FILE = 2, 5  # AssociatedFileType
FEATURE, BERT_TOKENIZER = 1, 4  # ContentProperties, ProcessUnitOptions
SPECIAL = ("[UNK]", "[CLS]", "[SEP]")
"""What MediaPipe looks up by these names."""

TENSORS = ("ids", "segment_ids", "mask")
"""MediaPipe's names of the inputs, in the order that the export has."""


def finding_of(tokenizer: Path, labels: Sequence[str]) -> Finding | None:
    """Says why a file ships without metadata, or None where it has some.

    Args:
        tokenizer: folder of tokenizer.json.
        labels: names of the classes.
    """
    settings = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    reason = _unlike_bert(settings) or _unlisted(labels)
    if not reason:
        return None
    return Finding(
        "no-metadata",
        "the .tflite file",
        reason,
        "MediaPipe's text classifier cannot run it; an app tokenises by itself and takes labels.json for names",
        "a teacher with BERT's lower-casing WordPiece, and labels of one line each",
    )


def accents_kept(tokenizer: Path, texts: Sequence[str]) -> Finding | None:
    """Finds texts that MediaPipe cuts into other tokens than BERT's tokenizer: it keeps accents, which that takes off.

    Args:
        tokenizer: folder of tokenizer.json, for which there is metadata.
        texts: of the training rows.
    """
    from tokenizers import Tokenizer

    settings = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    theirs = settings | {"normalizer": settings["normalizer"] | {"strip_accents": False}}
    ours, others = (Tokenizer.from_str(json.dumps(one)).encode_batch(list(texts)) for one in (settings, theirs))
    other = sum(one.ids != another.ids for one, another in zip(ours, others, strict=True))
    if not other:
        return None
    return Finding(
        "accents-kept",
        "the .tflite file",
        f"of {other:,} of {len(texts):,} training rows MediaPipe makes other tokens: it keeps the accents",
        "it answers them as if their words were others",
        "take accents off in the app before it gives MediaPipe the text (Unicode NFD without marks)",
    )


def packed(model: ModelT, tokenizer: Path, labels: Sequence[str]) -> bytes:
    """Returns the file of a model with its metadata, for which there is no finding.

    Args:
        model: its inputs are the token ids, the segment ids and the mask; is changed.
        tokenizer: folder of tokenizer.json.
        labels: names of the classes, in the order of the output.
    """
    from ai_edge_litert import schema_py_generated as schema

    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(_table(len(model.subgraphs[0].inputs)))
    model.buffers.append(buffer)
    entry.name, entry.buffer = BUFFER.encode(), len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
    settings = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    whole = io.BytesIO(file.packed(model))
    with zipfile.ZipFile(whole, "a") as archive:  # stored, not deflated: readers map them into memory
        for name, lines in ((VOCABULARY, _words(settings)), (LABELS, labels)):
            archive.writestr(zipfile.ZipInfo(name), "".join(f"{line}\n" for line in lines))
    return whole.getvalue()


def _unlike_bert(settings: Mapping[str, Any]) -> str:
    """Says in what a tokenizer differs from the one that MediaPipe has, "" where it does not."""
    model, normalizer = settings["model"], settings.get("normalizer") or {}
    pre = settings.get("pre_tokenizer") or {}
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix", "##") != "##":
        return f"the tokenizer is {model.get('type')}, not BERT's WordPiece"
    if normalizer.get("type") != "BertNormalizer" or not normalizer.get("lowercase"):
        return "the tokenizer keeps upper case, or does not normalise as BERT's does"
    if pre.get("type") != "BertPreTokenizer":
        return f"the tokenizer splits words by {pre.get('type')}, not as BERT's does"
    words = _words(settings)
    if sorted(model["vocab"].values()) != list(range(len(words))):
        return "the vocabulary's ids are not its lines' numbers"
    lacking = [word for word in SPECIAL if word not in model["vocab"]]
    if lacking or model.get("unk_token") != SPECIAL[0]:
        return f"the vocabulary lacks {', '.join(lacking) or SPECIAL[0]} as special token"
    return next((f"the vocabulary's {word!r} is not one line" for word in words if not _is_line(word)), "")


def _unlisted(labels: Sequence[str]) -> str:
    """Says why labels cannot be told by lines, "" where they can."""
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        return f"two classes have the label {twice!r}"
    return next((f"the label {label!r} is not one line" for label in labels if not _is_line(label)), "")


def _is_line(text: str) -> bool:
    return bool(text.strip()) and "\n" not in text and "\r" not in text


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Returns the vocabulary by ids."""
    vocabulary: dict[str, int] = settings["model"]["vocab"]
    return sorted(vocabulary, key=lambda word: vocabulary[word])


def _table(inputs: int) -> bytes:
    """Returns the metadata itself: inputs that BERT's tokenizer fills, and an output that has a score for each label.

    Args:
        inputs: of the model, which must be those of `TENSORS`.
    """
    import flatbuffers

    assert inputs == len(TENSORS), "the export has as many"
    builder = flatbuffers.Builder(1024)

    def table(fields: Mapping[int, Any], slots: int) -> int:
        """Writes a table: offsets by their field numbers, and small integers as (value,)."""
        builder.StartObject(slots)
        for place, value in fields.items():
            if isinstance(value, tuple):
                builder.PrependInt8Slot(place, value[0], 0)
            else:
                builder.PrependUOffsetTRelativeSlot(place, value, 0)
        return int(builder.EndObject())

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def associated(name: str, kind: int) -> int:
        return table({0: builder.CreateString(name), 2: (kind,)}, 5)

    def tensor(name: str, files: Mapping[int, Any]) -> int:
        content = table({0: (FEATURE,), 1: table({}, 0)}, 3)
        return table({0: builder.CreateString(name), 3: content, **files}, 7)

    given = vector([tensor(name, {}) for name in TENSORS])
    given_by = table({0: vector([associated(VOCABULARY, VOCABULARY_FILE)])}, 1)
    unit = vector([table({0: (BERT_TOKENIZER,), 1: given_by}, 2)])
    scores = vector([tensor("probability", {6: vector([associated(LABELS, LABELS_FILE)])})])
    graph = vector([table({2: given, 3: scores, 5: unit}, 10)])
    root = table({0: builder.CreateString("TextClassifier"), 3: graph, 7: builder.CreateString(PARSER)}, 8)
    builder.Finish(root, IDENTIFIER)
    return bytes(builder.Output())
