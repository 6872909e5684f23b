"""A closed synthetic world: short documents of facts, and questions with one exact answer.

A document holds 4..8 facts of two kinds about a few persons:

    mia has the red key. tom lives in oslo. tom has the blue cup. ...

Names, places and (colour, object) pairs are unique inside a document, so every
question has exactly one answer. Documents are split by a hash of their text:
one in sixteen is held out, and the training generator never yields those.
"""
import hashlib
import json
import random
import sys
from dataclasses import dataclass

NAMES = "mia tom ana ben eva leo ida max zoe sam kim jon amy dan lea ron".split()
PLACES = "oslo rome paris cairo lima delhi tokyo bern quito seoul milan dakar hanoi minsk tunis perth".split()
COLOURS = "red blue green gold pink gray black white".split()
OBJECTS = "key cup hat map pen bag lamp coin ring book drum kite".split()

HAS, LIVES = "has", "lives"


@dataclass(frozen=True)
class Fact:
    kind: str
    name: str
    place: str = ""
    colour: str = ""
    object: str = ""

    def text(self):
        if self.kind == HAS:
            return f"{self.name} has the {self.colour} {self.object}."
        return f"{self.name} lives in {self.place}."

    @property
    def thing(self):
        return f"{self.colour} {self.object}"


@dataclass(frozen=True)
class Question:
    text: str
    answer: str
    hops: int
    slot: int  # index of the fact that holds the answer
    key: str  # the words of the question that identify that fact


def make_document(rng, n_facts):
    """n_facts facts in random order; persons with both kinds come first, so two-hop questions exist."""
    n_both = rng.randint(n_facts // 4, n_facts // 2)
    n_persons = n_facts - n_both
    names = rng.sample(NAMES, n_persons)
    kinds = [(name, kind) for name in names[:n_both] for kind in (HAS, LIVES)]
    kinds += [(name, rng.choice((HAS, LIVES))) for name in names[n_both:]]
    rng.shuffle(kinds)
    places = iter(rng.sample(PLACES, len(PLACES)))
    things = iter(rng.sample([(c, o) for c in COLOURS for o in OBJECTS], n_facts))
    facts = []
    for name, kind in kinds:
        if kind == HAS:
            colour, obj = next(things)
            facts.append(Fact(HAS, name, colour=colour, object=obj))
        else:
            facts.append(Fact(LIVES, name, place=next(places)))
    return facts


def document_text(facts):
    return " ".join(f.text() for f in facts)


def is_held_out(text):
    return hashlib.md5(text.encode()).digest()[0] % 16 == 0


def sample_document(rng, n_facts, held_out=False):
    while True:
        facts = make_document(rng, n_facts)
        if is_held_out(document_text(facts)) == held_out:
            return facts


def one_hop(facts, slot, forward):
    f = facts[slot]
    if f.kind == HAS:
        if forward:
            return Question(f"what does {f.name} have?", f.thing, 1, slot, f.name)
        return Question(f"who has the {f.thing}?", f.name, 1, slot, f.thing)
    if forward:
        return Question(f"where does {f.name} live?", f.place, 1, slot, f.name)
    return Question(f"who lives in {f.place}?", f.name, 1, slot, f.place)


def two_hop(facts):
    """Every two-hop question of the document."""
    has = {f.name: (i, f) for i, f in enumerate(facts) if f.kind == HAS}
    lives = {f.name: (i, f) for i, f in enumerate(facts) if f.kind == LIVES}
    out = []
    for name in has.keys() & lives.keys():
        (has_slot, thing), (lives_slot, home) = has[name], lives[name]
        out.append(Question(f"what does the person in {home.place} have?", thing.thing, 2, has_slot, home.place))
        out.append(Question(f"where does the person with the {thing.thing} live?", home.place, 2, lives_slot, thing.thing))
    return sorted(out, key=lambda q: q.text)


def corpus(seed=0, n=4000):
    """Plain text for the tokenizer trainers."""
    rng = random.Random(seed)
    for _ in range(n):
        facts = sample_document(rng, rng.randint(4, 8))
        yield " " + document_text(facts)
        for q in [one_hop(facts, rng.randrange(len(facts)), rng.random() < 0.5)] + two_hop(facts)[:1]:
            yield " " + q.text
            yield " " + q.answer


def evaluation_set(seed, n_docs):
    """Held-out documents, each with all one-hop questions (one random direction) and up to two two-hop ones."""
    rng = random.Random(seed)
    for _ in range(n_docs):
        facts = sample_document(rng, rng.randint(4, 8), held_out=True)
        qs = [one_hop(facts, i, rng.random() < 0.5) for i in range(len(facts))]
        hops = two_hop(facts)
        qs += rng.sample(hops, min(2, len(hops)))
        yield facts, qs


def main():
    """Print held-out evaluation documents and parallel training texts as JSON: python world.py 140 8000 > world.json"""
    n_docs, n_parallel = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(31337)
    print(json.dumps({
        "eval": [{"text": document_text(f), "facts": len(f), "questions": [vars(q) for q in qs]}
                 for f, qs in evaluation_set(977, n_docs)],
        "parallel": [document_text(sample_document(rng, rng.randint(4, 8))) for _ in range(n_parallel)],
    }))


if __name__ == "__main__":
    main()
