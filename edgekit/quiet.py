"""Keeps libraries from writing over edgekit's own progress while a stage runs; their errors still come through."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STDERR = 2
LOGGERS = (
    "torch.onnx",
    "torch.onnx._internal.exporter",
    "onnxscript",
    "onnx_ir",
    "onnxruntime.quantization.matmul_nbits_quantizer",
    "accelerate",
    "torch.distributed",
    "torch.utils._pytree",
    "torchao",
)


@contextmanager
def quiet_libraries(tools: Sequence[str]) -> Iterator[None]:
    """Silences warnings and progress bars of the libraries that a stage uses, and restores their settings.

    Args:
        tools: the stage's TOOLS; transformers is only imported where it is one of them.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if "transformers" in tools:
                with _quiet_transformers():
                    yield
            else:
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps native libraries from the process's stderr, and with them other threads: for moments only."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging as settings

    verbosity, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(verbosity)
        if bars:
            settings.enable_progress_bar()
