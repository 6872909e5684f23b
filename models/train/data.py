"""Documents and questions as tensors: numbers come from worker processes, tokens from tables on the device.

A document travels as 8 fact numbers (-1: no fact). Everything else is looked up: a table holds the tokens of every possible fact, another one
the tokens of every possible question with its answer. So a batch costs a few gathers and no text is handled while training runs.
"""
import multiprocessing
import random
from collections import deque
from types import SimpleNamespace

import numpy as np
import torch

import world

M = 8  # facts of a document at most, and latent rows per message
NO_FACT = -1
N_NAMES, N_PLACES, N_COLOURS, N_OBJECTS = map(len, (world.NAMES, world.PLACES, world.COLOURS, world.OBJECTS))
N_THINGS = N_COLOURS * N_OBJECTS
N_HAS = N_NAMES * N_THINGS
N_FACTS = N_HAS + N_NAMES * N_PLACES
ONE_HOP, TWO_HOP = 4, 2  # questions per document
QUESTIONS = ONE_HOP + TWO_HOP


# ---------------------------------------------------------------- documents

def fact_number(f):
    name = world.NAMES.index(f.name)
    if f.kind == world.LIVES:
        return N_HAS + name * N_PLACES + world.PLACES.index(f.place)
    return name * N_THINGS + world.COLOURS.index(f.colour) * N_OBJECTS + world.OBJECTS.index(f.object)


def fact_of(number):
    if number >= N_HAS:
        name, place = divmod(number - N_HAS, N_PLACES)
        return world.Fact(world.LIVES, world.NAMES[name], place=world.PLACES[place])
    name, thing = divmod(number, N_THINGS)
    colour, obj = divmod(thing, N_OBJECTS)
    return world.Fact(world.HAS, world.NAMES[name], colour=world.COLOURS[colour], object=world.OBJECTS[obj])


def documents(seed, count, lo, hi, held_out=False):
    """count documents of lo..hi facts as numbers, int16 [count, M]."""
    rng = random.Random(seed)
    out = np.full((count, M), NO_FACT, np.int16)
    for row in out:
        facts = world.sample_document(rng, rng.randint(lo, hi), held_out)
        row[:len(facts)] = [fact_number(f) for f in facts]
    return out


def chunk(seed, index, size, curriculum):
    """One chunk of the training stream. Its documents grow from 2..3 to 4..8 facts over the first `curriculum` documents."""
    grown = min(1.0, index * size / max(1, curriculum))
    return documents(f"{seed}/{index}", size, round(2 + 2 * grown), round(3 + 5 * grown))


def stream(seed, first, size, curriculum, workers, ahead=16):
    """Chunks first, first + 1, ... of the stream: the same ones whatever the number of workers."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        waiting, index = deque(), first
        while True:
            while len(waiting) < ahead:
                waiting.append(pool.apply_async(chunk, (seed, index, size, curriculum)))
                index += 1
            yield waiting.popleft().get()


# ---------------------------------------------------------------- tables

def padded(rows, fill):
    out = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, values in zip(out, rows):
        row[:len(values)] = values
    return out


def question_list():
    """Every question that some document can ask, in table order, as (question, fact that answers)."""
    out = []
    for n in range(N_FACTS):
        f = fact_of(n)
        out += [(world.one_hop([f], 0, forward), f) for forward in (False, True)]
    for thing in range(N_THINGS):
        for place in range(N_PLACES):
            has, lives = fact_of(thing), fact_of(N_HAS + place)
            by_slot = {q.slot: q for q in world.two_hop([has, lives])}
            out += [(by_slot[0], has), (by_slot[1], lives)]
    return out


class Tables:
    """Device tensors that turn fact numbers into tokens, for one tokenizer."""

    def __init__(self, tok, device):
        self.user, self.assistant, self.end = (tok.ids[f"<|{t}|>"] for t in ("user", "assistant", "end"))
        facts = [fact_of(n) for n in range(N_FACTS)]
        tokens = [tok.encode(" " + f.text()) for f in facts]
        blocks, targets, key_at = [], [], []
        for q, _ in question_list():
            prompt = [self.user] + tok.encode(" " + q.text) + [self.end, self.assistant]
            answer = tok.encode(" " + q.answer) + [self.end]
            blocks.append((prompt + answer)[:-1])
            targets.append([-1] * (len(prompt) - 1) + answer)
            key_at.append(len(tok.encode(" " + q.text[:q.text.index(q.key) + len(q.key)])))
        attributes = np.array([[world.NAMES.index(f.name),
                                world.PLACES.index(f.place) if f.kind == world.LIVES else N_PLACES,
                                world.COLOURS.index(f.colour) if f.kind == world.HAS else N_COLOURS,
                                world.OBJECTS.index(f.object) if f.kind == world.HAS else N_OBJECTS] for f in facts]
                              + [[N_NAMES, N_PLACES, N_COLOURS, N_OBJECTS]])
        put = lambda x: torch.as_tensor(np.asarray(x, np.int64), device=device)
        self.fact, self.fact_length = put(padded(tokens, self.end)), put([len(t) for t in tokens])
        self.block, self.target = put(padded(blocks, self.end)), put(padded(targets, -1))
        self.key_at, self.first = put(key_at), put([next(t for t in row if t >= 0) for row in targets])
        self.hops = put([q.hops for q, _ in question_list()])
        self.attributes = put(attributes)  # [facts + 1, 4]: name, place, colour, object; the last row is "no fact"
        self.cells = 3 + M * self.fact.shape[1]  # longest reader prompt


def reader_prompt(t, facts):
    """<|user|> facts<|end|><|assistant|> for fact numbers [B,M].

    Returns ids [B,T], length [B], and stop [B,M]: the cell of the full stop of each fact (0 where there is none).
    """
    real = facts >= 0
    size = t.fact_length[facts.clamp(min=0)] * real
    stop = size.cumsum(1)  # cell 0 is <|user|>, so the last token of fact k sits at the sum of the first k + 1 lengths
    begin = stop - size + 1
    body = stop[:, -1:]
    at = torch.arange(t.cells, device=facts.device).expand(len(facts), -1)
    which = (at[:, :, None] > stop[:, None, :]).sum(-1).clamp(max=M - 1)
    fact = facts.gather(1, which).clamp(min=0)
    ids = t.fact[fact, (at - begin.gather(1, which)).clamp(0, t.fact.shape[1] - 1)]
    ids = torch.where(at == 0, t.user, torch.where(at <= body, ids, torch.where(at == body + 2, t.assistant, t.end)))
    return ids, body[:, 0] + 3, stop * real


def choose_questions(facts, order, coin):
    """Questions of every document: TWO_HOP two-hop ones where the document has some, one-hop ones otherwise.

    facts: [B,M]; order: [2,B,M] and coin: [B,QUESTIONS], uniform random numbers. Returns table rows, and the slots of the fact that
    holds the key of the question and of the one that holds the answer, each [B,QUESTIONS].
    """
    real = facts >= 0
    has = facts < N_HAS
    name = torch.where(has, torch.div(facts, N_THINGS, rounding_mode="floor"),
                       torch.div(facts - N_HAS, N_PLACES, rounding_mode="floor"))
    value = torch.where(has, facts % N_THINGS, (facts - N_HAS) % N_PLACES)
    mate = (name[:, :, None] == name[:, None, :]) & (has[:, :, None] != has[:, None, :]) & real[:, :, None] & real[:, None, :]
    partner, linked = mate.long().argmax(2), mate.any(2)
    count = real.sum(1, keepdim=True)
    slots = (order[0] - 2.0 * real).argsort(1)  # real facts first, in random order
    turn = torch.arange(QUESTIONS, device=facts.device).expand(len(facts), -1)
    one = slots.gather(1, turn % count)
    pick = (order[1] - 2.0 * linked).argsort(1)[:, :TWO_HOP]
    pairs = linked.sum(1, keepdim=True)
    two = torch.cat((one[:, :ONE_HOP], pick), 1)
    hops2 = (turn >= ONE_HOP) & (turn - ONE_HOP < pairs)
    answer = torch.where(hops2, two, one)
    key = torch.where(hops2, partner.gather(1, two), one)
    row1 = facts.gather(1, one) * 2 + (coin < 0.5)
    ask_thing = has.gather(1, answer)
    thing = torch.where(ask_thing, value.gather(1, answer), value.gather(1, key))
    place = torch.where(ask_thing, value.gather(1, key), value.gather(1, answer))
    row2 = 2 * N_FACTS + (thing * N_PLACES + place) * 2 + (~ask_thing).long()
    return torch.where(hops2, row2, row1), key, answer


def batch(t, facts):
    """Everything that a step needs about documents [B,M], with questions drawn by the device's default generator."""
    B, device = len(facts), facts.device
    ids, length, stop = reader_prompt(t, facts)
    rows, key, answer = choose_questions(facts, torch.rand(2, B, M, device=device), torch.rand(B, QUESTIONS, device=device))
    target = t.target[rows]  # [B,K,L]
    at = torch.arange(target.shape[2], device=device)
    begin = t.key_at[rows][:, :, None]  # cell of the last token of the key; cell 0 is <|user|>
    predicts = target >= 0
    asked = (at >= begin) & (predicts.flip(-1).cumsum(-1).flip(-1) > 0)
    hinted = asked & (predicts.cumsum(-1) <= 1)
    attributes = t.attributes[torch.where(facts >= 0, facts, N_FACTS)]
    return SimpleNamespace(facts=facts, reader=ids, length=length, stop=stop, real=facts >= 0, rows=rows, block=t.block[rows],
                           target=target, first=t.first[rows], hops=t.hops[rows], key=key, answer=answer, asked=asked, hinted=hinted,
                           attributes=attributes)
