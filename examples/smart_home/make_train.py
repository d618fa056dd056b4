#!/usr/bin/env python3
"""Write train.jsonl: the hand-written training rows plus rows generated from templates.

    python3 make_train.py            # rewrites train.jsonl, byte for byte the same each time
    python3 make_train.py --check    # writes nothing; fails if train.jsonl would change

Standard library only.  dev.jsonl and test.jsonl are hand-written and are only
read here, to make sure that nothing generated equals one of their sentences:
every sentence that the templates *can* produce is compared with them (not just
those drawn this time), ignoring case, spacing and punctuation, and any match
stops the script with a list of the offending sentences.
"""

import itertools
import json
import os
import re
import sys
from random import Random

from phrases import FRAMES, SLOTS, TEMPLATES

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 20240
ROWS_PER_INTENT = 125  # hand-written + generated
TYPO_RATE = 0.05  # share of generated rows that get one typing error
MIN_WORDS, MAX_WORDS = 3, 18

# ------------------------------------------------------------------ generation


def fold(text):
    """What two sentences are compared by: case, spacing and punctuation ignored."""
    return " ".join(re.sub(r"[^\w\s]", "", text.casefold()).split())


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def slots_of(template):
    return re.findall(r"\{(\w+)\}", template)


def fills(template):
    """All ways to fill a template; {room2} is a second room, different from {room}."""
    names = slots_of(template)
    for values in itertools.product(*(SLOTS[n.rstrip("2")] for n in names)):
        if len(set(values)) == len(values):
            yield template.format(**dict(zip(names, values, strict=True)))


def pick(rng, seq):
    # Only rng.random() is used: its sequence is the same in every Python 3.
    return seq[int(rng.random() * len(seq))]


def draw(rng, template, frame):
    while True:
        values = {n: pick(rng, SLOTS[n.rstrip("2")]) for n in slots_of(template)}
        if len(set(values.values())) == len(values):
            return frame.replace("*", template.format(**values))


def typo(rng, text):
    """Swap two neighbouring letters inside one word of five letters or more."""
    words = text.split(" ")
    long = [i for i, w in enumerate(words) if len(w) >= 5 and w.isalpha()]
    if not long:
        return text
    i = pick(rng, long)
    w = words[i]
    j = 1 + int(rng.random() * (len(w) - 2))
    words[i] = w[:j] + w[j + 1] + w[j] + w[j + 2 :]
    return " ".join(words)


def check_templates(held_out):
    """Stop if the templates can produce a held-out sentence at all."""
    bad = []
    for label, kinds in TEMPLATES.items():
        for kind, templates in kinds.items():
            frames = sorted({fold(f.replace("*", " frameslot ")) for f in FRAMES[kind]})
            for template in templates:
                for core in fills(template):
                    core = fold(core)
                    for frame in frames:
                        s = frame.replace("frameslot", core)
                        if s in held_out:
                            bad.append(f"  {held_out[s]}: {s!r}  <- {label} template {template!r}")
    if bad:
        sys.exit(
            "make_train.py: these templates can generate dev or test sentences; "
            "change the templates:\n" + "\n".join(bad)
        )


def main():
    check_only = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check_only:
        sys.exit("usage: make_train.py [--check]")

    held_out = {}
    for split in ("dev", "test"):
        for row in read(split + ".jsonl"):
            held_out[fold(row["text"])] = split

    rows = read("train_handwritten.jsonl")
    seen = set()
    for row in rows:
        key = fold(row["text"])
        if key in held_out:
            sys.exit(f"make_train.py: train_handwritten.jsonl repeats a {held_out[key]} sentence: {row['text']!r}")
        if key in seen:
            sys.exit(f"make_train.py: train_handwritten.jsonl has this twice: {row['text']!r}")
        if row["label"] not in TEMPLATES:
            sys.exit(f"make_train.py: unknown label {row['label']!r} in train_handwritten.jsonl")
        seen.add(key)

    check_templates(held_out)

    rng = Random(SEED)
    for label, kinds in TEMPLATES.items():
        todo = ROWS_PER_INTENT - sum(r["label"] == label for r in rows)
        templates = [(kind, t) for kind in kinds for t in kinds[kind]]
        n = tries = 0
        while n < todo:
            tries += 1
            if tries > 100 * todo:
                sys.exit(f"make_train.py: {label}: too few different sentences in the templates")
            kind, template = templates[n % len(templates)]  # every template gets its turn
            text = draw(rng, template, pick(rng, FRAMES[kind]))
            if rng.random() < TYPO_RATE:
                text = typo(rng, text)
            key = fold(text)
            if key in held_out:  # a typo could still make one
                sys.exit(f"make_train.py: generated a {held_out[key]} sentence ({label}): {text!r}")
            if key in seen or not MIN_WORDS <= len(text.split()) <= MAX_WORDS:
                continue
            if key.split().count("please") > 1:
                continue
            seen.add(key)
            rows.append({"text": text, "label": label})
            n += 1

    for i in range(len(rows) - 1, 0, -1):  # Fisher-Yates
        j = int(rng.random() * (i + 1))
        rows[i], rows[j] = rows[j], rows[i]

    out = "".join(json.dumps({"text": r["text"], "label": r["label"]}, ensure_ascii=False) + "\n" for r in rows).encode(
        "utf-8"
    )
    path = os.path.join(HERE, "train.jsonl")
    if check_only:
        with open(path, "rb") as f:
            if f.read() != out:
                sys.exit("make_train.py: train.jsonl is not what this script writes; run it without --check")
    else:
        with open(path, "wb") as f:
            f.write(out)
    print(f"{'checked' if check_only else 'wrote'} {len(rows)} rows, {len(TEMPLATES)} intents")


if __name__ == "__main__":
    main()
