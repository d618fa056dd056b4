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

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 20240
ROWS_PER_INTENT = 125  # hand-written + generated
TYPO_RATE = 0.05  # share of generated rows that get one typing error
MIN_WORDS, MAX_WORDS = 3, 18

# ------------------------------------------------------------------ slots

SLOTS = {
    "room": [
        "kitchen",
        "living room",
        "bedroom",
        "bathroom",
        "hallway",
        "office",
        "nursery",
        "dining room",
        "garage",
        "study",
        "guest room",
        "attic",
        "basement",
        "lounge",
        "kids' room",
        "conservatory",
    ],
    "lamp": [
        "lamp",
        "ceiling light",
        "floor lamp",
        "desk lamp",
        "bedside lamp",
        "spots",
        "lights",
        "wall lights",
        "reading light",
        "porch light",
        "garden lights",
        "light strip",
    ],
    "bulb": [
        "lamp",
        "ceiling light",
        "floor lamp",
        "desk lamp",
        "bedside lamp",
        "reading light",
        "porch light",
        "light strip",
        "wall light",
    ],
    "pct": [
        "10 percent",
        "15 percent",
        "25 percent",
        "35 percent",
        "thirty percent",
        "forty percent",
        "half",
        "a quarter",
        "the minimum",
        "50%",
        "20%",
    ],
    "deg": [
        "17",
        "18",
        "19 degrees",
        "20 degrees",
        "21",
        "22",
        "23 degrees",
        "nineteen",
        "twenty",
        "twenty one degrees",
        "16 degrees",
        "24",
        "seventy two",
        "68 degrees",
    ],
    "heater": ["heating", "thermostat", "radiator", "heat", "air conditioning", "heater"],
    "door": [
        "front door",
        "back door",
        "garage door",
        "side door",
        "patio door",
        "cellar door",
        "main door",
        "shed",
        "garden gate",
        "balcony door",
        "office door",
    ],
    "person": [
        "my mum",
        "my friend",
        "the neighbour",
        "the postman",
        "my son",
        "the nanny",
        "my husband",
        "the technician",
        "my flatmate",
        "the courier",
    ],
    "cover": ["blinds", "curtains", "shutters", "shades", "drapes", "roller blinds", "blackout blinds"],
    "robot": ["vacuum", "robot", "hoover", "robot vacuum", "vacuum cleaner", "cleaning robot", "robo vac"],
    "dirt": ["crumbs", "dust", "dog hair", "sand", "cat litter", "dirt", "glitter", "rice"],
    "genre": [
        "jazz",
        "pop",
        "some rock",
        "classical music",
        "hip hop",
        "soul",
        "techno",
        "folk songs",
        "film music",
        "some blues",
        "country music",
        "party hits",
    ],
    "source": ["music", "radio", "song", "playlist", "podcast", "audiobook", "stereo", "album"],
    "track": ["song", "playlist", "podcast", "audiobook", "album", "record"],
    "time": [
        "6 am",
        "7 o'clock",
        "half past five",
        "6:20",
        "seven fifteen",
        "8 am",
        "quarter to seven",
        "05:30",
        "nine",
        "ten past six",
        "half seven",
        "4:45",
    ],
    "day": ["tomorrow", "on monday", "on saturday", "on weekdays", "on friday", "every day"],
    "device": [
        "fridge",
        "dishwasher",
        "washing machine",
        "tv",
        "oven",
        "heat pump",
        "car charger",
        "computer",
        "freezer",
        "dryer",
        "boiler",
        "kettle",
    ],
    "period": [
        "today",
        "yesterday",
        "this week",
        "last month",
        "this month",
        "last night",
        "since sunday",
        "this year",
    ],
}

# ------------------------------------------------------------------ openers
# "cmd": an imperative; "say": a statement; "que": a question;
# "ask": an embedded clause ("how warm it is").  "*" marks where it goes.

FRAMES = {
    "cmd": [
        "*",
        "*",
        "please *",
        "* please",
        "can you *",
        "could you *",
        "would you * please",
        "hey, *",
        "can you please *",
        "I'd like you to *",
        "*, thanks",
        "ok house, *",
        "go ahead and *",
        "I want you to *",
        "do me a favour and *",
        "be so kind and *",
        "* when you can",
        "it would be nice if you could *",
        "quickly *",
        "um, *",
    ],
    "say": [
        "*",
        "*",
        "*",
        "hey, *",
        "listen, *",
        "oh dear, *",
        "*, please",
        "*, can you help",
        "sorry, *",
        "you know, *",
        "well, *",
        "honestly, *",
    ],
    "que": [
        "*",
        "*",
        "*",
        "hey, *",
        "quick question, *",
        "* please",
        "*, do you know",
        "ok house, *",
        "sorry, *",
        "excuse me, *",
    ],
    "ask": [
        "tell me *",
        "do you know *",
        "can you tell me *",
        "I'd like to know *",
        "let me know *",
        "please find out *",
        "I wonder *",
        "any idea *",
        "could you check *",
        "I want to know *",
        "please say *",
        "show me *",
    ],
}

# ------------------------------------------------------------------ templates

T = {
    "light_on": {
        "cmd": [
            "turn on the {lamp} in the {room}",
            "switch the {room} {lamp} on",
            "put the {lamp} on",
            "light up the {room}",
            "get the {lamp} going in the {room}",
            "make some light in the {room}",
            "turn the {room} lights on",
            "bring the {lamp} back on",
            "have the {lamp} on in the {room}",
            "flick the {lamp} on",
            "illuminate the {room}",
            "give me light in the {room}",
        ],
        "say": [
            "I need light in the {room}",
            "it's too dark in the {room}",
            "I can't see anything in the {room}",
            "the {room} is so dark",
            "{lamp} on in the {room}",
            "{room} {lamp} on",
            "I want the {lamp} on",
            "we are sitting in the dark in the {room}",
            "I'm going into the {room} and need the {lamp}",
            "there is no light in the {room}",
        ],
    },
    "light_off": {
        "cmd": [
            "turn off the {lamp} in the {room}",
            "switch the {room} {lamp} off",
            "put the {lamp} out",
            "turn the {room} lights off",
            "kill the {lamp} in the {room}",
            "cut the {room} {lamp}",
            "make it completely dark in the {room}",
            "shut off the {lamp}",
            "get the {lamp} off in the {room}",
            "power the {room} {lamp} down",
            "turn out the {lamp}",
            "leave no light on in the {room}",
        ],
        "say": [
            "nobody is in the {room}, the {lamp} can go off",
            "{lamp} off in the {room}",
            "{room} {lamp} off",
            "I left the {lamp} on in the {room}",
            "we don't need the {lamp} any more",
            "the {room} {bulb} is still on for nothing",
            "I want to sleep, no {lamp}",
            "I don't need light in the {room} now",
            "the {lamp} in the {room} should be off",
            "lights out in the {room}",
        ],
    },
    "light_dim": {
        "cmd": [
            "dim the {lamp} in the {room}",
            "dim the {room} {lamp} to {pct}",
            "set the {lamp} to {pct} brightness",
            "turn the {room} {lamp} down to {pct}",
            "lower the {lamp} a bit",
            "make the {lamp} softer in the {room}",
            "make the {room} lights less bright",
            "reduce the brightness in the {room}",
            "bring the {lamp} down to {pct}",
            "take the {room} light level down",
            "tone the {lamp} down",
            "give us a soft light in the {room}",
            "fade the {lamp} down to {pct}",
        ],
        "say": [
            "the {bulb} in the {room} is too bright",
            "it's too bright in the {room}",
            "{room} lights at {pct}",
            "the {bulb} hurts my eyes",
            "I'd like a cosy light in the {room}",
            "{lamp} down to {pct} in the {room}",
            "I want less light from the {lamp}",
            "the {room} needs a gentle glow",
            "the {bulb} is blinding",
        ],
    },
    "temperature_set": {
        "cmd": [
            "set the {room} to {deg}",
            "set the {heater} to {deg}",
            "turn up the {heater} in the {room}",
            "turn the {heater} down in the {room}",
            "make the {room} warmer",
            "make the {room} cooler",
            "heat the {room} to {deg}",
            "cool the {room} down to {deg}",
            "raise the temperature in the {room}",
            "lower the temperature to {deg}",
            "warm up the {room}",
            "bring the {room} up to {deg}",
            "keep the {room} at {deg}",
            "put the {heater} on {deg}",
        ],
        "say": [
            "it's too cold in the {room}",
            "it's too hot in the {room}",
            "I'm freezing in the {room}",
            "I'm sweating in the {room}",
            "I want {deg} in the {room}",
            "{heater} to {deg}",
            "the {room} should be at {deg}",
            "it could be a little warmer in the {room}",
            "the {room} is like a fridge",
            "the {room} is like an oven, cool it",
        ],
    },
    "temperature_query": {
        "que": [
            "what's the temperature in the {room}",
            "how warm is the {room}",
            "how cold is it in the {room}",
            "how many degrees are there in the {room}",
            "is it warm in the {room}",
            "is the {room} colder than the {room2}",
            "what is the {heater} set to",
            "is the {heater} on in the {room}",
            "has the {room} reached {deg}",
            "is it above {deg} in the {room}",
            "what temperature did the {room} have last night",
            "is the {room} too cold",
            "what's the {heater} at",
        ],
        "ask": [
            "how warm it is in the {room}",
            "what the temperature in the {room} is",
            "what the {heater} is set to",
            "if the {room} is warm yet",
            "how cold the {room} is",
            "whether the {room} is over {deg}",
        ],
        "say": ["{room} temperature now", "I need the temperature of the {room}"],
    },
    "door_lock": {
        "cmd": [
            "lock the {door}",
            "lock the {door} and the {door2}",
            "bolt the {door}",
            "make sure the {door} gets locked",
            "lock up the {door} for the night",
            "secure the {door}",
            "put the lock on the {door}",
            "close and lock the {door}",
            "lock the {door} behind me",
            "lock the {door} again",
            "keep the {door} locked",
            "lock the {door} after {person} leaves",
        ],
        "say": [
            "I forgot to lock the {door}",
            "I'm leaving, lock the {door}",
            "we're in bed, the {door} must be locked",
            "the {door} needs to be locked",
            "{door} locked please",
            "{person} has gone so lock the {door}",
            "nobody should get in through the {door}",
            "I want the {door} locked",
            "I left the {door} unlocked, fix that",
        ],
    },
    "door_unlock": {
        "cmd": [
            "unlock the {door}",
            "unlock the {door} and the {door2}",
            "unbolt the {door}",
            "let {person} in",
            "let {person} in through the {door}",
            "open the {door} for {person}",
            "release the lock on the {door}",
            "take the lock off the {door}",
            "undo the lock at the {door}",
            "unlock the {door} for {person}",
            "leave the {door} unlocked for {person}",
            "open up the {door}",
        ],
        "say": [
            "{person} is at the {door}",
            "{person} is waiting outside the {door}",
            "I'm at the {door} without a key",
            "I'm locked out at the {door}",
            "the {door} needs to be unlocked",
            "{person} needs to come in",
            "I want the {door} unlocked",
            "I can't get through the {door}, it's locked",
            "{door} unlock please",
        ],
    },
    "lock_query": {
        "que": [
            "is the {door} locked",
            "is the {door} unlocked",
            "did I lock the {door}",
            "did {person} lock the {door}",
            "has the {door} been locked",
            "was the {door} locked last night",
            "who unlocked the {door}",
            "when was the {door} unlocked",
            "are the {door} and the {door2} locked",
            "did {person} unlock the {door}",
            "is the lock on the {door} closed",
            "have I left the {door} open",
            "do I still need to lock the {door}",
        ],
        "ask": [
            "if the {door} is locked",
            "whether the {door} is unlocked",
            "who locked the {door}",
            "when the {door} was locked",
            "which doors are locked",
            "if {person} locked the {door}",
        ],
        "say": [
            "I'm not sure if I locked the {door}",
            "I don't remember locking the {door}",
            "status of the {door} lock",
        ],
    },
    "blinds_open": {
        "cmd": [
            "open the {cover} in the {room}",
            "open the {room} {cover}",
            "raise the {cover}",
            "raise the {room} {cover}",
            "pull the {cover} up in the {room}",
            "lift the {cover} a bit",
            "get the {cover} up in the {room}",
            "let the sun into the {room}",
            "let some daylight in the {room}",
            "open the {cover} halfway",
            "roll the {room} {cover} up",
            "draw the {room} {cover} open",
            "move the {cover} up by half",
        ],
        "say": [
            "I want sunlight in the {room}",
            "{cover} up in the {room}",
            "{room} {cover} open please",
            "I'd like to look outside from the {room}",
            "the {cover} can go up in the {room}",
            "good morning, open the {cover}",
            "the {room} could use some sun",
            "the {cover} are still shut in the {room}",
        ],
    },
    "blinds_close": {
        "cmd": [
            "close the {cover} in the {room}",
            "close the {room} {cover}",
            "lower the {cover}",
            "lower the {room} {cover}",
            "pull the {cover} down in the {room}",
            "shut the {cover} a bit",
            "get the {cover} down in the {room}",
            "keep the sun out of the {room}",
            "block the daylight in the {room}",
            "close the {cover} halfway",
            "roll the {room} {cover} down",
            "draw the {room} {cover} shut",
            "cover the windows in the {room}",
        ],
        "say": [
            "I want privacy in the {room}",
            "{cover} down in the {room}",
            "{room} {cover} closed please",
            "people can look into the {room}",
            "the {cover} can go down in the {room}",
            "good night, close the {cover}",
            "too much sun in the {room}",
            "the {cover} are still open in the {room}",
            "the sun is shining in my face in the {room}",
        ],
    },
    "vacuum_start": {
        "cmd": [
            "start the {robot} in the {room}",
            "vacuum the {room}",
            "hoover the {room} and the {room2}",
            "clean the {room} floor",
            "send the {robot} to the {room}",
            "run the {robot}",
            "run the {robot} in the {room}",
            "clean up the {dirt} in the {room}",
            "get the {robot} going",
            "begin cleaning the {room}",
            "sweep the {room}",
            "let the {robot} clean the {room}",
            "continue cleaning the {room}",
            "turn the {robot} on",
        ],
        "say": [
            "there is {dirt} on the {room} floor",
            "I spilled {dirt} in the {room}",
            "the {room} floor is dirty",
            "the {room} needs a clean",
            "there's {dirt} under the table",
            "{robot} to the {room}",
            "time to vacuum the {room}",
            "I want the {room} floor clean",
        ],
    },
    "vacuum_stop": {
        "cmd": [
            "stop the {robot} in the {room}",
            "stop vacuuming the {room}",
            "stop hoovering in the {room}",
            "pause the {robot}",
            "send the {robot} back to the dock",
            "send the {robot} home",
            "cancel cleaning the {room}",
            "turn the {robot} off",
            "get the {robot} out of the {room}",
            "quit cleaning the {room}",
            "dock the {robot}",
            "halt the {robot}",
            "let the {robot} go and charge",
            "pause the cleaning in the {room}",
        ],
        "say": [
            "the {robot} is too loud",
            "the {room} is clean enough",
            "no more vacuuming in the {room}",
            "the {robot} is stuck in the {room}",
            "{robot} back to the dock",
            "the {robot} should stop now",
            "I can't sleep with the {robot} on",
            "that's enough cleaning in the {room}",
            "the {robot} is annoying me in the {room}",
        ],
    },
    "music_play": {
        "cmd": [
            "play {genre} in the {room}",
            "play {genre}",
            "put on {genre}",
            "start the {source} in the {room}",
            "turn on the {source}",
            "resume the {source}",
            "continue the {source} in the {room}",
            "play the next {track}",
            "play my favourite {track}",
            "play {genre} for the kids",
            "shuffle {genre} in the {room}",
            "let me hear {genre}",
            "give me {genre} in the {room}",
            "put the {source} on in the {room}",
        ],
        "say": [
            "I want to hear {genre}",
            "I feel like {genre}",
            "I'm in the mood for {genre}",
            "the {room} is too quiet",
            "{genre} in the {room}",
            "I'd like to listen to the {source}",
            "we want to dance to {genre}",
            "some {source} in the {room} would be nice",
        ],
    },
    "music_stop": {
        "cmd": [
            "stop the {source}",
            "stop the {source} in the {room}",
            "pause the {source}",
            "turn off the {source} in the {room}",
            "stop playing {genre}",
            "mute the {room} speakers",
            "shut off the {source}",
            "end the {source}",
            "kill the {source} in the {room}",
            "silence the {room} speaker",
            "quit playing in the {room}",
            "switch the {source} off",
            "hold the {source} for a minute",
        ],
        "say": [
            "the {source} is too loud",
            "I don't want to hear {genre} any more",
            "enough {genre} for now",
            "no more {genre} please",
            "I need silence in the {room}",
            "{source} off in the {room}",
            "I'm on the phone, no {source}",
            "I hate this {source}",
            "the {source} in the {room} annoys me",
        ],
    },
    "alarm_set": {
        "cmd": [
            "set an alarm for {time}",
            "set an alarm for {time} {day}",
            "wake me up at {time}",
            "wake me at {time} {day}",
            "get me up at {time}",
            "get me out of bed at {time} {day}",
            "add an alarm at {time}",
            "change my alarm to {time}",
            "move the alarm to {time} {day}",
            "make the alarm ring at {time}",
            "wake the kids at {time} {day}",
            "give me a wake up call at {time}",
            "schedule an alarm {day} at {time}",
            "put my alarm on {time}",
        ],
        "say": [
            "I have to get up at {time}",
            "I need to be awake at {time} {day}",
            "alarm at {time} {day}",
            "I can't oversleep, {time} at the latest",
            "I want to sleep until {time}",
            "I have a train at {time} {day}, wake me",
            "new alarm for {time}",
            "I must be out of bed by {time}",
        ],
    },
    "energy_query": {
        "que": [
            "how much power does the {device} use",
            "how much energy did we use {period}",
            "what did the {device} cost {period}",
            "how many kilowatt hours did we need {period}",
            "what is the power consumption of the {device}",
            "is the {device} using a lot of energy",
            "how high was the electricity bill {period}",
            "how much solar power did we make {period}",
            "what is using the most power {period}",
            "does the {device} need more power than the {device2}",
            "what's the energy use in the {room}",
            "how many watts does the {device} draw",
            "did we use more electricity {period}",
            "how much power is the {room} using",
        ],
        "ask": [
            "how much electricity we used {period}",
            "what the {device} costs us",
            "how much power the {device} needs",
            "how much energy the {room} used {period}",
            "what we paid for energy {period}",
            "what the consumption of the {device} is",
        ],
        "say": ["energy report {period}", "power use of the {device}"],
    },
}

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
    for label, kinds in T.items():
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
        if row["label"] not in T:
            sys.exit(f"make_train.py: unknown label {row['label']!r} in train_handwritten.jsonl")
        seen.add(key)

    check_templates(held_out)

    rng = Random(SEED)
    for label, kinds in T.items():
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
    print(f"{'checked' if check_only else 'wrote'} {len(rows)} rows, {len(T)} intents")


if __name__ == "__main__":
    main()
