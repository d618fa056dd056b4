"""`from_pretrained` knows the IR after `import edgekit`, in either order of imports, and that import stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_encoder import uneven

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "datasets", "accelerate", "optimum", "tokenizers", "pyarrow")
LOAD = """
import sys, numpy as np, torch
from transformers import AutoConfig, AutoModelForSequenceClassification
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], local_files_only=True).eval()
assert type(config).__name__ == "EdgekitConfig" and type(model).__name__ == "EdgekitForSequenceClassification"
with torch.inference_mode():
    print(model(torch.tensor([[int(i) for i in sys.argv[2].split(",")]])).logits[0].numpy().tobytes().hex())
"""


def python(program: str, *arguments: str) -> str:
    """Runs a program in a new process and returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import edgekit",
        "from transformers import AutoModelForSequenceClassification; import edgekit",
    ],
)
def test_a_saved_model_loads_in_a_new_process(tmp_path: Path, imports: str) -> None:
    model = uneven(positions="relative-bias", embedding_size=12, num_labels=4)
    model.save_pretrained(tmp_path)
    row = tiny.token_rows(60, [11])[0]
    with torch.inference_mode():
        expected = model(torch.from_numpy(row)[None]).logits[0].numpy()
    printed = python(f"{imports}\n{LOAD}", str(tmp_path), ",".join(map(str, row)))
    np.testing.assert_allclose(np.frombuffer(bytes.fromhex(printed.strip()), np.float32), expected, rtol=0, atol=1e-6)


def test_a_saved_model_is_safetensors_and_config_only(tmp_path: Path) -> None:
    uneven().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "program",
    [
        "import edgekit",
        "import edgekit; edgekit.load_target('arm64')",
        "import edgekit.cli; edgekit.cli.main(['--help'], standalone_mode=False)",
        "import edgekit.cli; edgekit.cli.main(['targets'], standalone_mode=False)",
        "import edgekit.cli; edgekit.cli.main(['targets', 'arm64'], standalone_mode=False)",
        "import edgekit.cli; edgekit.cli.main(['build', '--help'], standalone_mode=False)",
    ],
)
def test_what_must_start_at_once_imports_nothing_heavy(program: str) -> None:
    check = f"import sys; print('loaded:', *(name for name in {HEAVY!r} if name in sys.modules))"
    assert python(f"{program}\n{check}").splitlines()[-1].strip() == "loaded:"
