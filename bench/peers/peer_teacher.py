"""The teacher itself, float32 in ONNX Runtime, as transformers' own code exports it: what every ratio divides."""

from __future__ import annotations

from peer import Built, Job, main

VENV, TAKES, RUNTIME, FROM_GRAPH = "transformers", "tokens", "onnxruntime", False
WAYS = {"fp32": "teacher, fp32, ONNX Runtime"}


def build(job: Job) -> Built:
    """Exports the checkpoint."""
    from graphs import export, positions
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(job.teacher, local_files_only=True).eval()
    export(model, positions(model.config), job.out / "model.onnx")
    return Built(["model.onnx"], facts={"parameters": sum(p.numel() for p in model.parameters())})


if __name__ == "__main__":
    main(build)
