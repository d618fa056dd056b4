"""Rows in batches: every row once, whatever it is padded with, and the same answers as one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from edgekit import frontends
from edgekit.inference import run_rows
from edgekit.tokenization import batches, encode, load_tokenizer, pad


@pytest.mark.parametrize("tokens", [1, 20, 64, 10_000])
def test_batches_hold_every_row_once_and_no_more_than_the_tokens_allowed(tokens: int) -> None:
    rows = tiny.token_rows(100, np.random.default_rng(0).integers(1, 40, size=200).tolist())
    groups = batches(rows, tokens)
    assert sorted(i for group in groups for i in group) == list(range(200))
    assert all(len(group) == 1 or len(group) * max(len(rows[i]) for i in group) <= tokens for group in groups)
    lengths = [len(rows[i]) for group in groups for i in group]
    assert lengths == sorted(lengths)
    assert batches([], tokens) == []


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad([np.array([7, 8, 9]), np.array([5])], pad_id=3)
    assert ids.tolist() == [[7, 8, 9], [5, 3, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_tokenizer_cuts_and_never_pads(tmp_path: Path) -> None:
    tokenizer = tiny.wordpiece()
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(40)
    tiny.write_tokenizer(tmp_path, tokenizer)
    short, long = encode(load_tokenizer(tmp_path, 9), ["rain", "rain " * 100])
    assert (len(short), len(long)) == (3, 9)
    assert long[-1] == tokenizer.token_to_id("[SEP]")
    assert short.dtype == np.int64


def test_rows_run_in_batches_answer_as_one_by_one_and_states_are_the_first_tokens() -> None:
    theirs = tiny.classifier("roberta", seed=6)
    model = frontends.build(theirs)
    rows = tiny.token_rows(300, np.random.default_rng(0).integers(2, 64, size=80).tolist())
    states = np.zeros((80, tiny.LAYERS + 1, tiny.HIDDEN), dtype=np.float16)
    seen = []
    logits = run_rows(model, rows, 1, lambda *progress: seen.append(progress), states)
    with torch.inference_mode():
        alone = [theirs(torch.from_numpy(row)[None], output_hidden_states=True) for row in rows]
    expected = np.concatenate([output.logits.numpy() for output in alone])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run_rows(theirs, rows, 1, lambda *_: None), expected, rtol=0, atol=1e-5)
    first = np.stack([[state[0, 0].numpy() for state in output.hidden_states] for output in alone])
    np.testing.assert_allclose(states, first, rtol=2e-3, atol=2e-3)
    assert seen[-1] == (80, 80, "rows")
