"""What one training step minimises, and the held-out measurement of the same arms.

Every batch of documents is used three ways that share their gradients:

  reader  <|user|> facts<|end|><|assistant|>, then M latent steps e = alpha * h / |h| (gradient flows through all of them)
  text    questions behind the reader's cells, in each of the forms in which a cache can arrive (`FORMS`); one reader in
          `NOTE_SHARE` writes the facts out as a note first, with or without latent steps before it
  latent  the same questions, and the note, in a FRESH context that holds only e_1 .. e_M

Slot k is tied to fact k, and retrieval is got off its plateau, by aids that are thrown away after training (`Aids`, `guidance`).
"""
import torch
import torch.nn.functional as F
from torch import nn

import data
from data import M
from model import Lookup, causal, grow

FIND, ANSWER = 2, 3  # layers whose head 0 is guided to the fact with the key of a question, and to the one with its answer
FORMS = dict(facts=0.4, assistant=0.25, latents=0.15, joined=0.1, latents_only=0.05, none=0.05)
NOTE_SHARE = 6
HIDDEN = float("-inf")  # bias of a cell that must not be seen


class Aids(nn.Module):
    """Discarded after training.

    probes  read the words of fact k from latent row k
    stops   read the words of a fact from its full stop, below the layer that searches
    code    one vector per word and one per slot; row k is pulled towards their sum: what is additive survives a linear translation
    hint    names the answer from the key word of a question on
    """

    SIZES = (data.N_NAMES + 1, data.N_PLACES + 1, data.N_COLOURS + 1, data.N_OBJECTS + 1)

    def __init__(self, d, vocab):
        super().__init__()
        self.probes = nn.Linear(d, sum(self.SIZES))
        self.stops = nn.Linear(d, sum(self.SIZES))
        self.hint = nn.Linear(d, vocab)
        self.code = nn.Parameter(torch.randn(sum(self.SIZES), d) * d ** -0.5)
        self.slot = nn.Parameter(torch.randn(M, d) * d ** -0.5)
        self.register_buffer("offset", torch.tensor([sum(self.SIZES[:i]) for i in range(4)]), persistent=False)

    def reading_loss(self, head, x, attributes, keep):
        """Mean cross entropy of naming the four attributes from x [B,M,d]."""
        parts = head(x).split(self.SIZES, -1)
        return sum(cross_entropy(p, attributes[..., i], keep) for i, p in enumerate(parts)) / len(parts)

    def coded(self, attributes):
        """Unit rows [B,M,d]."""
        return F.normalize(Lookup.apply(self.code, attributes + self.offset).sum(2) + self.slot, dim=-1)


def mean(x, keep):
    keep = keep.to(x.dtype)
    return (x * keep).sum() / keep.sum().clamp(min=1.0)


def cross_entropy(logits, target, keep):
    """Mean over keep; other targets are not looked at."""
    return mean(logits.logsumexp(-1) - logits.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1), keep)


def hide(shown):
    return torch.zeros(shown.shape, device=shown.device).masked_fill(~shown, HIDDEN)


def rows_at(x, index):
    """x [B,T,d] at index [B,n]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def inattention(weights, cell):
    """-log of the attention that head 0 pays to a cell. weights: [B,G,K,g,L,P]; cell: [B,K]. Returns [B,K,L]."""
    w = weights[:, 0, :, 0]
    return -(w.gather(-1, cell[..., None, None].expand(-1, -1, w.shape[2], -1)).squeeze(-1) + 1e-6).log()


# ---------------------------------------------------------------- passes

class Reading:
    """A reader that has seen its facts and taken M latent steps."""

    def __init__(self, model, b):
        (B, T), device = b.reader.shape, b.reader.device
        self.cell = torch.arange(T, device=device).expand(B, T)
        hidden, cache, self.trace = model.prepare()(model.embed(b.reader)[:, None], self.cell[:, None])
        self.hidden, self.reader_cells = hidden[:, 0], T
        shown = self.cell < b.length[:, None]
        last = b.length[:, None] - 1
        h = self.first = rows_at(self.hidden, last)[:, 0]
        look = rows_at(self.trace[FIND][1][:, -1, 0, 0], last)[:, 0]  # attention of the step that makes row 0
        self.looks, rows, bias = [look], [], F.pad(hide(shown), (0, 1))
        for k in range(M):
            e = model.latent_row(h)
            rows.append(e)
            h, cache, weights = model.step(e, b.length + k, cache, bias)
            bias = F.pad(bias, (0, 1))
            self.looks.append(weights[FIND][:, -1, 0])
        self.rows, self.cache, self.after = torch.stack(rows, 1), cache, h

    def looking_loss(self, b):
        """The last group of heads should look at the full stop of fact k while row k is made."""
        p = torch.cat([w.gather(1, b.stop[:, k:k + 1]) for k, w in enumerate(self.looks[:M])], 1)
        return mean(-(p + 1e-6).log(), b.real)


def ask(model, b, cache, bias, start, own_bias=None):
    at = torch.arange(b.block.shape[2], device=b.block.device)
    h, _, trace = model(model.embed(b.block), start[:, None, None] + at.expand(b.block.shape), cache, bias, own_bias)
    return h, trace


def receive(model, rows):
    """Cells of a fresh context that holds the rows."""
    pos = torch.arange(M, device=rows.device).expand(len(rows), 1, M)
    return model(rows[:, None], pos)[1]


def write(model, ids, start, cache, bias):
    at = torch.arange(ids.shape[1], device=ids.device)
    h, cells, _ = model(model.embed(ids)[:, None], (start[:, None] + at)[:, None], cache, bias)
    return h[:, 0], cells


def part(b, index):
    return type(b)(**{key: value[index] for key, value in vars(b).items()})


def part_cache(cache, index):
    return [(k[index], v[index]) for k, v in cache]


def cache_forms(b, cell, form):
    """Which cells of [reader | latents] are shown, where the question starts, and the bias inside its block; form: numbers into FORMS."""
    facts, assistant, latents, joined, latents_only, none = (form == i for i in range(len(FORMS)))
    end = torch.where(latents | assistant, b.length, torch.where(facts, b.length - 1, torch.where(joined, b.length - 2, 0)))
    with_rows = latents | latents_only
    shown = torch.cat((cell < end[:, None], with_rows[:, None].expand(-1, M)), 1)
    # joined: the question continues the user message of the facts, so its own <|user|> is skipped
    start = torch.where(latents_only, b.length, end) + with_rows * M - joined.long()
    L = b.block.shape[2]
    skip = (torch.arange(L, device=cell.device)[:, None] > 0) & (torch.arange(L, device=cell.device) == 0)
    own = causal(L, cell.device) + hide(~(skip & joined[:, None, None]))
    return shown, start.clamp(min=0), own, facts | joined | latents | assistant


# ---------------------------------------------------------------- loss

WEIGHTS = dict(text=1.5, latent=1.5, note=1.0, lm=0.1, hint=0.3, find=0.5, look=0.3, probe=0.5, stop=0.3, pull=0.3)


def question_loss(model, aids, h, b, misses, guided):
    """Cross entropy of the answers, plus the weighted aids; misses: [B,K,L], see `inattention`; guided: [B], where they count."""
    answer = cross_entropy(model.logits(h), b.target, b.target >= 0)
    hint = cross_entropy(aids.hint(h), b.first[..., None].expand(b.target.shape), b.hinted)
    find = mean(misses, b.asked & guided[:, None, None])
    return answer, hint, find


def loss_terms(model, aids, b, assistant, noise):
    """Every term of the loss by name. assistant: the token; noise: scalar tensor, largest length of the noise on a row, relative to the row."""
    B, device = len(b.facts), b.facts.device
    body = b.length - 3
    everywhere = torch.ones_like(b.real)
    r = Reading(model, b)
    term = dict(lm=cross_entropy(model.logits(r.hidden[:, :-1]), b.reader[:, 1:], r.cell[:, :-1] < body[:, None] + 1))

    # aids on the reader
    unit = F.normalize(r.rows, dim=-1)
    scale = unit.shape[-1] ** 0.5
    stops = F.normalize(rows_at(r.trace[FIND - 1][0][:, 0], b.stop), dim=-1)
    term["probe"] = aids.reading_loss(aids.probes, unit * scale, b.attributes, everywhere)
    term["stop"] = aids.reading_loss(aids.stops, stops * scale, b.attributes, b.real)
    term["look"] = r.looking_loss(b)
    code = aids.coded(b.attributes)
    term["pull"] = (unit - code).pow(2).sum(-1).mean()

    # text arm, readers that write a note: cells of [reader | latents | note]
    n = max(1, B // NOTE_SHARE)
    few, many = part(b, slice(0, n)), part(b, slice(n, B))
    with_rows, with_end = torch.rand(2, n, device=device) < 0.5
    shown = torch.cat((r.cell[:n] < few.length[:, None], with_rows[:, None].expand(-1, M)), 1)
    start, ids = few.length + with_rows * M, few.reader[:, 1:-1]
    h, cells = write(model, ids, start, part_cache(r.cache, slice(0, n)), hide(shown))
    place = torch.arange(ids.shape[1], device=device)
    note = cross_entropy(model.logits(h), few.reader[:, 2:], place < body[:n, None])
    begin = sum(cross_entropy(model.logits(x), b.reader[:, 1], everywhere[:, 0]) for x in (r.first, r.after))
    size = body[:n] + with_end
    shown = torch.cat((shown, place < size[:, None]), 1)
    h1, trace1 = ask(model, few, grow(part_cache(r.cache, slice(0, n)), cells), hide(shown), start + size)

    # text arm, all others: cells of [reader | latents]
    u, form = torch.rand(B - n, device=device), 0
    bound = 0.0
    for share in list(FORMS.values())[:-1]:
        bound += share
        form = form + (u >= bound).long()
    shown, start, own, guided = cache_forms(many, r.cell[n:], form)
    h2, trace2 = ask(model, many, part_cache(r.cache, slice(n, B)), hide(shown), start, own)
    misses = [torch.cat((inattention(trace1[i][1], few.stop.gather(1, cell[:n])), inattention(trace2[i][1], many.stop.gather(1, cell[n:]))))
              for i, cell in ((FIND, b.key), (ANSWER, b.answer))]
    guided = torch.cat((torch.ones(n, dtype=torch.bool, device=device), guided))
    term["text"], hint_text, find_text = question_loss(model, aids, torch.cat((h1, h2)), b, sum(misses), guided)

    # latent arm: rows with noise, some drawn towards their code, alone in a fresh context
    alpha, draw = model.alpha(), torch.rand(3, B, 1, 1, device=device)
    sent = r.rows + draw[0] * (draw[1] < 0.3) * (alpha * code - r.rows)
    sent = sent + draw[2] * noise * alpha * torch.randn_like(sent) / scale
    cells = receive(model, alpha * F.normalize(sent, dim=-1))
    bias, start = torch.zeros(B, M, device=device), torch.full((B,), M, device=device)
    h, trace = ask(model, b, cells, bias, start)
    misses = inattention(trace[FIND][1], b.key) + inattention(trace[ANSWER][1], b.answer)
    term["latent"], hint_latent, find_latent = question_loss(model, aids, h, b, misses, everywhere[:, 0])
    # ... and the note, from <|assistant|> on
    ids = torch.cat((torch.full_like(few.length, assistant)[:, None], few.reader[:, 1:-2]), 1)
    h, _ = write(model, ids, start[:n], part_cache(cells, slice(0, n)), bias[:n])
    term["note"] = note + 0.3 * begin + cross_entropy(model.logits(h), few.reader[:, 1:-1], place < body[:n, None] + 1)
    term["hint"], term["find"] = hint_text + hint_latent, find_text + find_latent
    return term


def total(term):
    return sum(WEIGHTS[name] * x for name, x in term.items())


# ---------------------------------------------------------------- held-out measurement

def exact(model, h, target):
    """Greedy decoding gives the answer exactly when every token is the most likely one behind the right ones. [B,K]"""
    return ((model.logits(h).argmax(-1) == target) | (target < 0)).all(-1)


@torch.no_grad()
def measure(model, b, rows=None):
    """Exact match per arm and hops on the documents of b, as tensors [B,K] by arm, and of the note [B,1].

    rows: what the latent arm receives instead of the model's own rows (say, translated ones); then only the latent arm is measured.
    """
    B, device = len(b.facts), b.facts.device
    start = torch.full((B,), M, device=device)
    model.prepare()

    def from_rows(message):
        return exact(model, ask(model, b, receive(model, message), torch.zeros(B, M, device=device), start)[0], b.target)

    if rows is not None:
        return dict(latent=from_rows(rows))
    r, out = Reading(model, b), {}
    for i, form in enumerate(FORMS):
        shown, begin, own, _ = cache_forms(b, r.cell, torch.full((B,), i, device=device))
        out[form] = exact(model, ask(model, b, r.cache, hide(shown), begin, own)[0], b.target)
    out["latent"], out["shuffled"] = from_rows(r.rows), from_rows(r.rows.roll(1, 0))
    shown = F.pad(r.cell < b.length[:, None], (0, M), value=False)
    h, _ = write(model, b.reader[:, 1:-1], b.length, r.cache, hide(shown))
    body = (b.length - 3)[:, None]
    target = torch.where(torch.arange(h.shape[1], device=device) < body, b.reader[:, 2:], -1)
    begins = model.logits(r.first).argmax(-1) == b.reader[:, 1]
    out["note"] = exact(model, h, target)[:, None] & begins[:, None]
    return out


def summary(measured, hops):
    """Percentages all / one hop / two hops of every arm, as text."""
    words = []
    for arm, hit in measured.items():
        if arm == "note":
            words.append(f"note {100 * hit.float().mean().item():.1f}")
            continue
        words.append(f"{arm} " + "/".join(f"{100 * mean(hit.float(), keep).item():.1f}" for keep in (hops > 0, hops == 1, hops == 2)))
    return "  ".join(words)
