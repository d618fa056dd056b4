"""Tiny models, tokenizers and data made in memory: whole builds on them take seconds, and nothing is downloaded.

The data is learnable, every label having words of its own, and the teacher has learnt it: its encoder is random, its
word table says which label a word belongs to, and its classifier is fitted by least squares. No training, and the same
bytes for the same arguments.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("alarm", "lights", "music", "weather")
WORDS = {
    "alarm": ("wake", "alarm", "timer", "snooze", "minutes", "morning", "clock", "remind"),
    "lights": ("lamp", "bright", "dim", "bulb", "lights", "bedroom", "kitchen", "colour"),
    "music": ("song", "play", "volume", "jazz", "radio", "album", "louder", "guitar"),
    "weather": ("rain", "forecast", "sunny", "umbrella", "cold", "storm", "degrees", "snow"),
}
FILLERS = (
    "please", "the", "now", "could", "you", "i", "want", "to", "it", "is", "a", "for", "my", "today", "soon", "me",
    "ok", "then", "very", "some",
)  # fmt: skip
UNUSED = ("zebra", "quantum", "harbour", "mosaic", "##ness", "##tion", "unused", "pyramid")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
MODEL_TYPES = ("bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
HIDDEN, LAYERS, HEADS, FFN, POSITIONS = 32, 4, 4, 64, 64

_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FAIRSEQ_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # padding has id 1, as RoBERTa and MPNet demand


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Returns different texts with their labels, in equal numbers: two words of the label among filler words."""
    random = np.random.default_rng(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = LABELS[len(rows) % len(LABELS)]
        words = [str(w) for w in random.choice(FILLERS, size=random.integers(2, 10), replace=False)]
        for word in random.choice(WORDS[label], size=2, replace=False):
            words.insert(int(random.integers(len(words) + 1)), str(word))
        text = " ".join(words).capitalize() + ("?" if random.random() < 0.3 else "")
        rows.setdefault(text, label)
    return list(rows.items())


def write_data(folder: Path, rows: int = 240, seed: int = 0, dev: int = 80, test: int = 120) -> Path:
    """Writes train.jsonl (of `rows` rows), dev.jsonl and test.jsonl with columns text and label; no row twice."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = sentences(rows + dev + test, seed)
    splits = {"train": drawn[:rows], "dev": drawn[rows : rows + dev], "test": drawn[rows + dev :]}
    for split, pairs in splits.items():
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def wordpiece(special: Sequence[str] = _BERT_SPECIAL) -> Any:
    """Returns a lower-casing WordPiece `tokenizers.Tokenizer` of all words, characters and unused pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    unknown = next(token for token in special if "unk" in token.lower())
    words = [word for label in LABELS for word in WORDS[label]]
    pieces = [*special, *CHARACTERS, *(f"##{c}" for c in CHARACTERS if c.isalnum()), *FILLERS, *words, *UNUSED]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _with_special(tokenizer, special)


def byte_bpe(special: Sequence[str] = _FAIRSEQ_SPECIAL) -> Any:
    """Returns a byte-level BPE tokenizer, RoBERTa's kind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text, _ in sentences(200)], trainer)
    return _with_special(tokenizer, special)


def unigram(special: Sequence[str] = _FAIRSEQ_SPECIAL) -> Any:
    """Returns a Unigram tokenizer, XLM-R's kind."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = [word for label in LABELS for word in WORDS[label]]
    scores = [(token, 0.0) for token in special]
    scores += [(f"▁{word}", -4.0) for word in dict.fromkeys((*FILLERS, *words)) if len(word) > 1]
    scores += [("▁", -6.0), *((c, -8.0) for c in CHARACTERS)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=[t for t, _ in scores].index("<unk>")))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _with_special(tokenizer, special)


def tokenizer_of(model_type: str) -> Any:
    """Returns a tokenizer of the kind and with the special tokens that the architecture has."""
    if model_type == "roberta":
        return byte_bpe()
    if model_type == "xlm-roberta":
        return unigram()
    return wordpiece(_FAIRSEQ_SPECIAL if model_type == "mpnet" else _BERT_SPECIAL)


def config_of(model_type: str, vocabulary: int, labels: Sequence[str] = LABELS, **changes: Any) -> Any:
    """Returns a transformers configuration of a tiny model; `changes` are the architecture's own settings."""
    from transformers import AutoConfig

    fairseq = model_type in ("mpnet", "roberta", "xlm-roberta")
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS + 2 * fairseq,
        "pad_token_id": int(fairseq),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if model_type == "distilbert":
        settings |= {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": FFN}
    else:
        settings |= {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": FFN,
        }
    if model_type == "electra":
        settings["embedding_size"] = HIDDEN // 2
    return AutoConfig.for_model(model_type, **(settings | changes))


def classifier(model_type: str, labels: Sequence[str] = LABELS, seed: int = 0, **changes: Any) -> Any:
    """Returns a transformers sequence classifier with every weight random: biases and layer norms too.

    Args:
        model_type: one of MODEL_TYPES, or another that transformers knows.
        labels: names of its classes.
        seed: of the weights.
        **changes: settings of the architecture's own configuration.
    """
    from transformers import AutoModelForSequenceClassification

    vocabulary = changes.pop("vocab_size", 0) or tokenizer_of(model_type).get_vocab_size()
    model = AutoModelForSequenceClassification.from_config(config_of(model_type, vocabulary, labels, **changes))
    randomise(model, seed)
    return model.eval()


def randomise(model: Any, seed: int) -> None:
    """Draws every weight anew, wide enough that no layer is almost linear; the generator is the model's own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name.lower()
            if norm and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim > 1 and "embedding" not in name:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            else:
                parameter.copy_(0.2 * noise)


def write_teacher(folder: Path, labels: Sequence[str] = LABELS, model_type: str = "bert", seed: int = 0) -> Path:
    """Writes a checkpoint that answers the data of `write_data` almost always rightly, where its labels are LABELS.

    Returns:
        The folder, with config.json, model.safetensors, tokenizer.json and tokenizer_config.json.
    """
    tokenizer = tokenizer_of(model_type)
    model = classifier(model_type, labels, seed)
    _teach(model, tokenizer, labels, seed)
    model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer)
    return folder


def write_base(folder: Path, model_type: str = "bert", seed: int = 0) -> Path:
    """Writes a base model without a classification head, with its tokenizer."""
    from transformers import AutoModel

    tokenizer = tokenizer_of(model_type)
    model = AutoModel.from_config(config_of(model_type, tokenizer.get_vocab_size()))
    randomise(model, seed)
    _name_words(model, tokenizer, seed)
    model.save_pretrained(folder)
    write_tokenizer(folder, tokenizer)
    return folder


def write_tokenizer(folder: Path, tokenizer: Any, max_length: int = POSITIONS) -> Path:
    """Writes tokenizer.json and the tokenizer_config.json that AutoTokenizer needs."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = _special_names(list(tokenizer.get_vocab()))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def token_rows(vocabulary: int, lengths: Sequence[int], seed: int = 0, first: int = 5) -> list[np.ndarray]:
    """Returns rows of random token ids, none below `first` (special tokens), of the given lengths."""
    random = np.random.default_rng(seed)
    return [random.integers(first, vocabulary, size=length).astype(np.int64) for length in lengths]


def labelled(folder: Path, raw: Path) -> Any:
    """Returns a data folder's rows in normal form, as the stage `data` makes them."""
    from edgekit.artifact import RawData
    from edgekit.stages.data import ReadData

    return run_stage(ReadData(), [RawData(raw, "")], folder)


def context(folder: Path, stage: Any, target: str = "x86-64", seed: int = 0, progress: Any = None) -> Any:
    """Returns the `edgekit.stage.Context` in which a stage (or its class) runs alone, resuming from `folder`."""
    from edgekit.stage import Context
    from edgekit.target import TargetView, load_target

    folder.mkdir(parents=True, exist_ok=True)
    view = TargetView(load_target(target), stage.READS, stage.NAME)

    def make(other: Any, artifacts: Any) -> Any:
        return run_stage(other, [artifacts[kind] for kind in other.IN], folder / other.NAME, target, seed)

    return Context(
        view, "text-classification", seed, folder, "", 0, 1, progress or (lambda done, total, what: None), make
    )


def run_stage(stage: Any, artifacts: Sequence[Any], folder: Path, target: str = "x86-64", seed: int = 0) -> Any:
    """Runs a stage on artifacts of the kinds it takes, as the pipeline does, and returns its output."""
    from edgekit.artifact import tree_digest
    from edgekit.stage import Demanding, Inputs
    from edgekit.target import load_target

    out = folder / "out"
    out.mkdir(parents=True)
    ctx = context(folder / "resume", stage, target, seed)
    inputs = Inputs({type(artifact): artifact for artifact in artifacts}, stage.IN)
    if isinstance(stage, Demanding):
        stage.check_target(load_target(target))
    stage.requires(inputs, ctx)
    stage.run(inputs, out, ctx)
    stage.ensures(out, ctx)
    return stage.OUT(out, tree_digest(out))


def _special_names(vocabulary: Sequence[str]) -> dict[str, str]:
    bert, fairseq = "[CLS]" in vocabulary, "<s>" in vocabulary
    assert bert or fairseq
    pad, unknown, first, last, mask = _BERT_SPECIAL if bert else tuple(_FAIRSEQ_SPECIAL[i] for i in (1, 3, 0, 2, 4))
    return {"pad_token": pad, "unk_token": unknown, "cls_token": first, "sep_token": last, "mask_token": mask}


def _with_special(tokenizer: Any, special: Sequence[str]) -> Any:
    from tokenizers import AddedToken, processors

    names = _special_names(special)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    first, last = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
    )
    return tokenizer


def _name_words(model: Any, tokenizer: Any, seed: int) -> None:
    """Adds to the word table what a label's words have in common."""
    import torch

    table = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for label in LABELS:
            direction = torch.randn(table.shape[1], generator=generator)
            for word in WORDS[label]:
                for text in (f"a {word}", word):
                    ids = tokenizer.encode(text, add_special_tokens=False).ids
                    table[ids[-1]] = direction + 0.1 * table[ids[-1]]


def _teach(model: Any, tokenizer: Any, labels: Sequence[str], seed: int) -> None:
    """Fits the classifier by least squares on sentences that `write_data` does not draw."""
    import torch

    _name_words(model, tokenizer, seed)
    last = [m for n, m in model.named_modules() if n.startswith("classifier") and isinstance(m, torch.nn.Linear)][-1]
    features: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    known = [(text, label) for text, label in sentences(400, seed=987_654) if label in labels]
    encoded = [tokenizer.encode(text).ids for text, _ in known]
    order = sorted(range(len(known)), key=lambda i: len(encoded[i]))
    known = [known[i] for i in order]
    with torch.inference_mode():
        for _, group in itertools.groupby(order, key=lambda i: len(encoded[i])):
            model(torch.tensor([encoded[i] for i in group]))
    hook.remove()
    if not known:
        return
    x = torch.cat([torch.cat(features), torch.ones(len(known), 1)], dim=1).double()
    wanted = torch.full((len(known), len(labels)), -2.0, dtype=torch.float64)
    wanted[range(len(known)), [list(labels).index(label) for _, label in known]] = 4.0
    ridge = 1e-3 * len(known) * torch.eye(x.shape[1], dtype=torch.float64)
    fitted = torch.linalg.solve(x.T @ x + ridge, x.T @ wanted).float()
    with torch.no_grad():
        last.weight.copy_(fitted[:-1].T)
        last.bias.copy_(fitted[-1])
