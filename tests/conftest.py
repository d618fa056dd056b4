"""Lets the tests of every folder import the shared builders beside this file, and keeps torch to one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Before torch is loaded, and for the processes that tests start: the models are so small that a second thread only
# costs, and one that spins while it waits takes a core from the next test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A test that forgets `local_files_only` fails here instead of passing by way of the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
