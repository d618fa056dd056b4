"""Further views of the training texts, for the teacher to label: words replaced by near ones, dropped or swapped,
and halves of two texts put together.

A student that sees only a few thousand rows learns them by heart; what it lacks is other ways to say the same, and the
words that training does not use. A replaced word comes from the neighbourhood of the teacher's own embedding, so that
the view stays near the text; what it then means is for the teacher to say, never for the original's label.

Ref: Jiao et al. 2020, TinyBERT (1909.10351), section 3.2 (here neighbours by the teacher's word table, not GloVe's, and
no masked language model, which a fine-tuned teacher does not have). Halves: after Yun et al. 2019, CutMix (1905.04899),
with the teacher's answer in place of mixed labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import regex

NEIGHBOURS = 12
MIXED_EVERY = 4
"""One view in so many is a mixture. A text's fourth reworded view says less than a mixture does (docs/log.md)."""
REPLACE, DROP = 0.8, 0.1  # shares of the changes to a word; the rest swaps it with the next one
# Chinese and Japanese stand without spaces, and teachers read them sign by sign or nearly so: a sign is a word. Other
# scripts without spaces are left as they are: a run of them is a clause.
_SIGNS = r"\p{Han}\p{Hiragana}\p{Katakana}"
_SIGN = regex.compile(f"[{_SIGNS}]")
_WORD = regex.compile(
    rf"[{_SIGNS}]|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_SIGNS}\p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}]]+", regex.V1
)
_LETTERS = regex.compile(r"[\p{L}\p{M}]+")  # marks are the vowels of Indic scripts
_WRITTEN = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_WORD_STARTS = ("Ġ", "▁")  # how byte-level BPE and SentencePiece mark a token that begins a word


def words_of(text: str) -> list[str]:
    """Returns the words of a text, without what stands between them."""
    found: list[str] = _WORD.findall(text)
    return found


def in_words(texts: Iterable[str]) -> bool:
    """Says whether texts are mostly words that views can change, and not clauses that are written without spaces."""
    words = letters = 0
    for text in texts:
        words += sum(map(len, words_of(text)))
        letters += sum(map(len, _WRITTEN.findall(text)))
    return 2 * words > letters


def whole_words(vocabulary: Mapping[str, int], kept: Iterable[int], continuing_prefix: str | None) -> dict[str, int]:
    """Returns the tokens that are whole words, with their ids.

    Args:
        vocabulary: token → id, the teacher's.
        kept: ids that the student's vocabulary has.
        continuing_prefix: WordPiece's mark of a token inside a word ("##"); None for the other kinds.
    """
    allowed = set(kept)
    words: dict[str, int] = {}
    # By id: a tokenizer gives its vocabulary in another order each time, and two tokens may be one word.
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        begins = token.startswith(_WORD_STARTS)
        word = token[1:] if continuing_prefix is None and begins else token
        if continuing_prefix is None:
            whole = begins or _SIGN.fullmatch(token)
        else:
            whole = not token.startswith(continuing_prefix)
        if whole and index in allowed and (len(word) > 1 or _SIGN.fullmatch(word)) and _LETTERS.fullmatch(word):
            words.setdefault(word, index)
    return words


def neighbours(table: np.ndarray, words: Mapping[str, int], used: Iterable[str]) -> dict[str, list[str]]:
    """Finds, for each word that is used, the words with the nearest embeddings by cosine.

    Args:
        table: word table, (tokens, width), float32.
        words: word → row of the table.
        used: words to find neighbours of; those that are no whole token have none.

    Returns:
        word → its neighbours, nearest first, itself not among them.
    """
    names = sorted(words, key=lambda word: words[word])
    unit = table[[words[name] for name in names]].astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True) + 1e-12
    place = {name: i for i, name in enumerate(names)}
    wanted = sorted({word for word in used if word in place})
    found: dict[str, list[str]] = {}
    for start in range(0, len(wanted), 512):
        chunk = wanted[start : start + 512]
        scores = unit[[place[word] for word in chunk]] @ unit.T
        scores[np.arange(len(chunk)), [place[word] for word in chunk]] = -np.inf
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS]
        found |= {word: [names[i] for i in row] for word, row in zip(chunk, nearest, strict=True)}
    return found


def views(texts: Sequence[str], near: Mapping[str, Sequence[str]], count: int, rate: float, seed: int) -> list[str]:
    """Makes `count` views of each text.

    In a reworded one each word is changed with probability `rate`, at least one a text: mostly replaced by a neighbour
    (or, where it has none, by a word of the training texts), else dropped or swapped with the next. Every fourth view
    is the first half of the text and the second half of another, as they stand.

    Args:
        texts: the training texts.
        near: word in lower case → its neighbours.
        count: views a text.
        rate: share of words that change, in (0, 1].
        seed: of the draw.

    Returns:
        The views of the first text, then those of the second, and so on; never an empty text.
    """
    random = np.random.Generator(np.random.PCG64([seed, count]))
    common = [word for text in texts for word in words_of(text)]
    return [
        _reworded(text, near, common, rate, random)
        if (i + 1) % MIXED_EVERY
        else _mixed(text, texts[int(random.integers(len(texts)))])
        for text in texts
        for i in range(count)
    ]


def _mixed(text: str, other: str) -> str:
    """Returns the first half of the words of one text, and the second half of the other's with what stands before."""
    ends, others = ([match.end() for match in _WORD.finditer(one)] for one in (text, other))
    if not ends or not others:
        return text
    half = len(others) // 2
    second = other[others[half - 1] :] if half else f" {other}"
    return " ".join((text[: ends[(len(ends) - 1) // 2]] + second).split())


def _reworded(
    text: str, near: Mapping[str, Sequence[str]], common: Sequence[str], rate: float, random: np.random.Generator
) -> str:
    spans = [match.span() for match in _WORD.finditer(text)]
    if not spans:
        return text
    words = [text[a:b] for a, b in spans]
    changed = random.random(len(words)) < rate
    changed[random.integers(len(words))] = True
    for i in np.flatnonzero(changed):
        kind = random.random()
        if kind < REPLACE:
            choices = near.get(words[i].lower()) or common
            words[i] = choices[int(random.integers(len(choices)))]
        elif kind < REPLACE + DROP:
            words[i] = ""
        elif i + 1 < len(words):
            words[i], words[i + 1] = words[i + 1], words[i]
    edges = [0, *(end for _, end in spans)]
    gaps = [text[start:begin] for start, (begin, _) in zip(edges, spans, strict=False)]
    view = "".join(gap + word for gap, word in zip(gaps, words, strict=True)) + text[spans[-1][1] :]
    folded = " ".join(view.split())
    return folded or text
