"""The floor among embeddings: model2vec's static table, distilled from the teacher's own folder, under a linear head.

Two ways: the head alone is trained, or the table with it, as its documentation does for classification. Both are
model2vec's own code with its defaults, dev as the validation split that ends the training. The widths of the head and
of the table that its documentation names are tried and chosen on dev.

Ref: https://github.com/MinishLab/model2vec (docs/training.md)
"""

from __future__ import annotations

from typing import Any

from peer import SEED, Answer, Built, Job, Split, main, read_split

VENV, TAKES, RUNTIME, FROM_GRAPH = "model2vec", "text", "model2vec", False
WAYS = {
    "linear": "model2vec from the teacher, linear head",
    "trained": "model2vec from the teacher, fine-tuned",
}
WIDTHS: tuple[int | None, ...] = (256, None)  # of the table: principal components; None keeps the teacher's width
RATES = (1e-3, 1e-2)
FILES = ("model.safetensors", "head.safetensors")


def build(job: Job) -> Built:
    """Distils a table of each width, trains at each rate, and keeps what does best on dev."""
    import numpy as np
    from model2vec.distill import distill

    train, dev = (read_split(job.rows, name) for name in ("train", "dev"))
    scores: dict[str, float] = {}
    best: Any = None
    for width in WIDTHS:
        table = distill(str(job.teacher), device="cpu", pca_dims=width)
        for rate in RATES:
            model = _trained(table, train, dev, job, rate)
            name = f"{table.dim} wide, rate {rate:g}"
            found = np.array(model.predict(list(dev.texts)), dtype=np.int64)
            scores[name] = float(np.mean(found == dev.expected) * 100)
            print(f"{name}: {scores[name]:.2f} % on dev", flush=True)
            if scores[name] == max(scores.values()):
                best, chosen = model, name
    best.to_pipeline().save_pretrained(str(job.out))
    files = [file for file in FILES if (job.out / file).is_file()]
    return Built(files, chosen, {"dev_accuracy": scores})


def _trained(table: Any, train: Split, dev: Split, job: Job, rate: float) -> Any:
    """Trains a classifier on a table: the head alone, or both."""
    from model2vec.train import StaticModelForClassification

    linear = job.way == "linear"
    model = StaticModelForClassification.from_static_model(
        model=table, n_layers=0 if linear else 1, freeze=linear, freeze_weights=True if linear else None
    )
    return model.fit(
        list(train.texts),
        [str(label) for label in train.expected],
        X_val=list(dev.texts),
        y_val=[str(label) for label in dev.expected],
        learning_rate=rate,
        max_epochs=job.epochs or -1,
        device="cpu",
        random_seed=SEED,
    )


def load(folder: Any) -> Answer:
    """Loads the pipeline that `build` wrote; one call takes a text to the classes' probabilities."""
    import numpy as np
    from model2vec.inference import StaticModelPipeline

    pipeline = StaticModelPipeline.from_pretrained(str(folder))
    classes = np.array(pipeline.classes_, dtype=np.int64)
    count = int(classes.max()) + 1

    def answer(text: str) -> np.ndarray:
        scores = np.zeros(count)
        scores[classes] = pipeline.predict_proba([text])[0]
        return scores

    return answer


if __name__ == "__main__":
    main(build)
