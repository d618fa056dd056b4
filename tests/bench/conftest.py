"""Lets the tests import the scripts of `bench/peers/`, which import each other by name as they do in a peer's venv."""

from __future__ import annotations

import sys
from pathlib import Path

PEERS = Path(__file__).parents[2] / "bench" / "peers"
sys.path.insert(0, str(PEERS))
