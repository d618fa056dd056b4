"""The floor: logistic regression on TF-IDF of words and pairs of words, scikit-learn. No teacher, no transformer."""

from __future__ import annotations

import pickle
from pathlib import Path

from peer import Answer, Built, Job, main, read_split

VENV, TAKES, RUNTIME, FROM_GRAPH = "sklearn", "text", "scikit-learn", False
WAYS = {"linear": "TF-IDF and logistic regression"}
STRENGTHS = (3.0, 10.0, 30.0)
MODEL = "model.pickle"


def build(job: Job) -> Built:
    """Fits at several strengths of regularisation and keeps the best on dev."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, dev = (read_split(job.rows, name) for name in ("train", "dev"))
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    inputs, held_out = vectors.fit_transform(train.texts), vectors.transform(dev.texts)
    scores, models = {}, {}
    for strength in STRENGTHS:
        models[strength] = LogisticRegression(C=strength, max_iter=1000).fit(inputs, train.expected)
        scores[strength] = 100 * float(models[strength].score(held_out, dev.expected))
    best = max(STRENGTHS, key=lambda strength: scores[strength])
    with (job.out / MODEL).open("wb") as stream:
        pickle.dump(make_pipeline(vectors, models[best]), stream, protocol=pickle.HIGHEST_PROTOCOL)
    return Built([MODEL], f"C = {best:g}", {"dev_accuracy": {f"{c:g}": found for c, found in scores.items()}})


def load(folder: Path) -> Answer:
    """Loads the pipeline that `build` wrote; one call takes a text to the classes' log-probabilities."""
    import numpy as np

    with (folder / MODEL).open("rb") as stream:
        pipeline = pickle.load(stream)  # written by `build` in this very run
    classes = pipeline[-1].classes_
    count = int(classes.max()) + 1

    def answer(text: str) -> np.ndarray:
        scores = np.full(count, -np.inf)
        scores[classes] = pipeline.predict_log_proba([text])[0]
        return scores

    return answer


if __name__ == "__main__":
    main(build)
