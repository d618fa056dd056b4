"""Views of texts: neighbours against NumPy, and what a view may and may not change."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

import numpy as np

from edgekit.augment import NEIGHBOURS, in_words, neighbours, views, whole_words, words_of

TEXTS = ["Turn the lamp on, please!", "play jazz", "???", "dim  the   lights"]


def test_whole_words_are_kept_tokens_that_begin_and_end_a_word() -> None:
    wordpiece = {"[PAD]": 0, "lamp": 1, "##s": 2, "a": 3, "radio": 4, "12": 5}
    assert whole_words(wordpiece, [0, 1, 2, 3, 5], "##") == {"lamp": 1}
    assert whole_words({"Ġlamp": 0, "lamp": 1, "▁radio": 2, "Ġ": 3}, range(4), None) == {"lamp": 0, "radio": 2}


def test_of_tokens_that_are_one_word_the_first_by_id_is_taken_in_whatever_order_they_come() -> None:
    vocabulary = {"▁好": 1, "好": 0, "▁a": 2, "▁lamp": 3}
    assert whole_words(vocabulary, range(4), None) == {"好": 0, "lamp": 3}
    assert whole_words(dict(reversed(vocabulary.items())), range(4), None) == {"好": 0, "lamp": 3}


def test_neighbours_are_the_nearest_by_cosine() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(40, 8)).astype(np.float32)
    words = {f"w{i}": i for i in range(0, 40, 2)}
    found = neighbours(table, words, ["w4", "w10", "unheard"])
    assert set(found) == {"w4", "w10"}
    for word, near in found.items():
        cosines = {
            other: float(table[i] @ table[words[word]] / np.linalg.norm(table[i]) / np.linalg.norm(table[words[word]]))
            for other, i in words.items()
            if other != word
        }
        assert near == sorted(cosines, key=lambda other: -cosines[other])[:NEIGHBOURS]


def test_views_change_words_only_and_are_reproducible() -> None:
    near = {"lamp": ["torch"], "jazz": ["blues"]}
    made = views(TEXTS, near, 5, 0.3, seed=1)
    assert made == views(TEXTS, near, 5, 0.3, seed=1) != views(TEXTS, near, 5, 0.3, seed=2)
    assert len(made) == 20
    assert all(view.strip() for view in made)
    assert made[10:15] == ["???"] * 5
    known = set(re.findall(r"\w+", " ".join(TEXTS))) | {"torch", "blues"}
    assert set(re.findall(r"\w+", " ".join(made))) <= known
    assert all(re.sub(r"[\w\s]", "", view) == ",!" for view in (*made[:3], made[4]))


def test_every_view_differs_unless_a_draw_puts_the_word_back() -> None:
    made = views(["alpha beta gamma delta"] * 50, {"alpha": ["omega"], "beta": ["omega"]}, 1, 0.01, seed=0)
    assert sum(view != "alpha beta gamma delta" for view in made) > 40


def test_words_are_found_in_scripts_with_marks_and_in_those_without_spaces() -> None:
    assert words_of("यह फिल्म बहुत अच्छी है।") == ["यह", "फिल्म", "बहुत", "अच्छी", "है"]
    assert words_of("这部 film 很好!") == ["这", "部", "film", "很", "好"]
    assert words_of("ราคาถูก ok") == ["ok"], "a run of Thai is a clause"
    assert words_of("cafe\u0301 naïve x_1 don't") == ["cafe\u0301", "naïve", "x_1", "don", "t"]


def test_texts_are_in_words_where_most_of_what_is_written_is() -> None:
    assert in_words(["यह फिल्म बहुत अच्छी है।", "这部 film 很好!", "fine"])
    assert not in_words(["ราคาถูก 5 บาท", "อร่อยมาก iPhone"])
    assert in_words(["ราคาถูก", "a text of many words that is longer"])
    assert not in_words(["!?", "..."])


def test_signs_and_words_with_marks_have_neighbours() -> None:
    wordpiece = {"फिल्म": 0, "好": 1, "##好": 2, "a": 3}
    assert whole_words(wordpiece, range(4), "##") == {"फिल्म": 0, "好": 1}
    assert whole_words({"好": 0, "▁好": 1, "电影": 2, "a": 3}, range(4), None) == {"好": 0}


def test_a_chinese_view_changes_signs_not_clauses() -> None:
    text = "这部电影真的非常好看我很喜欢"
    made = views([text, "我不喜欢这个结局"], {"好": ["佳"]}, 4, 0.1, seed=0)
    for view in made[:3]:
        assert view != text
        assert SequenceMatcher(None, view, text).ratio() > 0.7


def test_every_fourth_view_is_the_first_half_of_the_text_and_the_second_of_another() -> None:
    texts = ["a1 a2, a3 a4!", "b1 (b2) b3", "  c1", "d1d2"]
    halves = {"a1 a2", "b1 (b2", "c1", "d1d2"}, {", a3 a4!", " (b2) b3", " c1", " d1d2"}
    made = views(texts * 30, {}, 8, 0.5, seed=0)
    mixed = [view for i, view in enumerate(made) if i % 4 == 3]
    assert {first + second for first in halves[0] for second in halves[1]} >= set(mixed)
    assert len(set(mixed)) > len(texts), "with more texts than itself"
    assert [view.startswith("a1 a2") for view in mixed[:8]] == [True] * 2 + [False] * 6
    assert views(["这部电影", "很好看"], {}, 4, 0.1, seed=0)[3] in {"这部电影", "这部好看", "这部影"}
    assert views(["!?", "a"], {}, 4, 0.5, seed=0)[3] == "!?"
