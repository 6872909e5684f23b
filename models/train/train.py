"""Train one model: python train.py wren --steps 3000 --out runs

Every step uses one batch of documents in three ways that share their gradients:

  reader  <|user|> facts <|end|><|assistant|>, then M latent steps e = alpha * h / |h| (gradient flows through all of them)
  text    questions, and the written-out note, continue the reader's KV cache
          (for some rows the cache also holds the assistant marker and the latent steps)
  latent  the same questions and note continue a FRESH context that holds only e_1 .. e_M

Questions of one document are packed behind the shared prefix and masked from each other.
Slot k is tied to fact k by throw-away linear probes that read the fact's words from e_k; a throw-away
hint head and attention guidance (see hint_loss, guide_loss) get retrieval off its plateau.
"""
import argparse
import json
import os
import random
import time

import torch
import torch.nn.functional as F
from torch import nn

import world
from model import MODELS, TOKENIZERS, Config, Decoder
from tokenizer import Tokenizer

M = 8  # latent rows per message
IGNORE = -100
GUIDED = 2  # layer whose head 0 gets attention guidance
NOTE, RECALL = 0, 3  # kinds of packed blocks; 1 and 2 are one-hop and two-hop questions


# ---------------------------------------------------------------- data

class Batcher:
    def __init__(self, tok, seed):
        self.tok, self.rng = tok, random.Random(seed)
        self.user, self.assistant, self.end = (tok.ids[f"<|{t}|>"] for t in ("user", "assistant", "end"))

    @staticmethod
    def block(prompt, answer, kind):
        """(input ids, target ids, kind): targets are set only where the answer is predicted."""
        n = len(prompt) - 1
        return (prompt + answer)[:-1], [IGNORE] * n + answer, kind, [IGNORE] * (n + len(answer)), 0, 0

    def note_block(self, text):
        return self.block([self.assistant], self.tok.encode(text) + [self.end], NOTE)

    def question_block(self, facts, q):
        prompt = [self.user] + self.tok.encode(" " + q.text) + [self.end, self.assistant]
        answer = self.tok.encode(" " + q.answer)
        x, y, kind, hint, _, _ = self.block(prompt, answer + [self.end], q.hops)
        at = len(self.tok.encode(" " + q.text[:q.text.index(q.key) + len(q.key)]))
        hint[at:len(prompt)] = [answer[0]] * (len(prompt) - at)
        before = " ".join(f.text() for f in facts[:q.slot])
        char = len(before) + (q.slot > 0) + facts[q.slot].text().index(q.answer)
        cell = 1 + len(self.tok.encode((" " + world.document_text(facts))[:char]))
        return x, y, kind, hint, q.slot, cell

    def recall_block(self, f):
        """Finish one fact out of order: a stepping stone to question answering."""
        words = f.text().split()
        cut = 3 if f.kind == world.HAS else len(words) - 1
        return self.block([self.assistant] + self.tok.encode(" " + " ".join(words[:cut])),
                          self.tok.encode(" " + " ".join(words[cut:])), RECALL)

    def row(self, n_facts, with_note, hops2):
        rng = self.rng
        facts = world.sample_document(rng, n_facts)
        text = " " + world.document_text(facts)
        reader = [self.user] + self.tok.encode(text) + [self.end, self.assistant]
        blocks = []
        if with_note:
            blocks.append(self.note_block(text))
        blocks += [self.recall_block(facts[i]) for i in rng.sample(range(n_facts), 2)]
        n = 3 if with_note else 7
        two = world.two_hop(facts) if hops2 else []
        n2 = min(len(two), 1 if with_note else 2)
        slots = rng.sample(range(n_facts), min(n - n2, n_facts))
        blocks += [self.question_block(facts, world.one_hop(facts, s, rng.random() < 0.5)) for s in slots]
        blocks += [self.question_block(facts, q) for q in rng.sample(two, n2)]
        return facts, reader, blocks

    def batch(self, size, lo, hi, hops2):
        n_facts = self.rng.randint(lo, hi)
        rows = [self.row(n_facts, i % 2 == 0, hops2) for i in range(size)]
        T = max(len(r) for _, r, _ in rows)
        L = max(sum(len(b[0]) for b in bs) for _, _, bs in rows)
        reader = torch.full((size, T), self.end)
        length = torch.tensor([len(r) for _, r, _ in rows])
        ids = torch.full((size, L), self.end)
        target = torch.full((size, L), IGNORE)
        hint = torch.full((size, L), IGNORE)
        slot, cell = torch.zeros((2, size, L), dtype=torch.long)
        block = torch.full((size, L), -1)
        offset = torch.zeros((size, L), dtype=torch.long)
        kind = torch.zeros((size, L), dtype=torch.long)
        probe = torch.zeros((size, M, 4), dtype=torch.long) + IGNORE
        for i, (facts, r, bs) in enumerate(rows):
            reader[i, :len(r)] = torch.tensor(r)
            at = 0
            for j, (x, y, k, hi, sl, ce) in enumerate(bs):
                s = slice(at, at + len(x))
                ids[i, s], target[i, s], hint[i, s] = torch.tensor(x), torch.tensor(y), torch.tensor(hi)
                slot[i, s], cell[i, s] = sl, ce
                block[i, s], offset[i, s], kind[i, s] = j, torch.arange(len(x)), k
                at += len(x)
            probe[i, :, 1:] = torch.tensor([len(world.PLACES), len(world.COLOURS), len(world.OBJECTS)])  # "none"
            for j, f in enumerate(facts):
                probe[i, j, 0] = world.NAMES.index(f.name)
                if f.kind == world.LIVES:
                    probe[i, j, 1] = world.PLACES.index(f.place)
                else:
                    probe[i, j, 2] = world.COLOURS.index(f.colour)
                    probe[i, j, 3] = world.OBJECTS.index(f.object)
        return dict(reader=reader, length=length, ids=ids, target=target, block=block, offset=offset, kind=kind, probe=probe,
                    hint=hint, slot=slot, cell=cell)


def packed_mask(prefix_ok, block):
    """[B,1,L,P+L]: every token sees the allowed prefix cells and the earlier tokens of its own block."""
    L = block.shape[1]
    own = (block[:, :, None] == block[:, None, :]) & torch.ones(L, L, dtype=torch.bool).tril()
    return torch.cat((prefix_ok[:, None, :].expand(-1, L, -1), own), 2)[:, None]


# ---------------------------------------------------------------- loss

class Probes(nn.Module):
    """Discarded after training; they only make slot k carry fact k in linearly readable form."""

    def __init__(self, d):
        super().__init__()
        sizes = (len(world.NAMES), len(world.PLACES) + 1, len(world.COLOURS) + 1, len(world.OBJECTS) + 1)
        self.heads = nn.ModuleList(nn.Linear(d, n) for n in sizes)

    def forward(self, unit_rows, target):
        x = unit_rows * unit_rows.shape[-1] ** 0.5
        return sum(F.cross_entropy(h(x).flatten(0, 1), target[..., i].flatten(), ignore_index=IGNORE)
                   for i, h in enumerate(self.heads))


def rollout(model, h, cache, length, prefix_ok):
    """M latent steps behind the reader's prefix. Returns rows [B,M,d] and the grown cache and mask."""
    rows = []
    for k in range(M):
        e = model.latent_row(h)
        rows.append(e)
        prefix_ok = F.pad(prefix_ok, (0, 1), value=True)
        x, cache = model(e[:, None], (length + k)[:, None], cache, prefix_ok[:, None, None, :])
        h = x[:, 0]
    return torch.stack(rows, 1), cache, prefix_ok


def hint_loss(head, h, b):
    """From the key word of a question on, a throw-away head already has to name the answer.

    Without it retrieval sits on a long plateau: matching the key word and carrying the match to the
    answer position are useless alone, so neither gets a gradient.
    """
    keep = b["hint"] != IGNORE
    return F.cross_entropy(head(h[keep]), b["hint"][keep])


def guide_loss(q, k, usable, want, keep):
    """Attention guidance: head 0 of the guided layer should look at the slot, or the word, that holds the answer.

    q: [B,L,hd] queries; k: [B,P,hd] keys of the message; usable: [B,P]; want: [B,L] target cell; keep: [B,L].
    """
    row = torch.arange(len(q))[:, None].expand_as(keep)[keep]
    score = (k[row] @ q[keep].unsqueeze(-1)).squeeze(-1) * q.shape[-1] ** -0.5
    return F.cross_entropy(score.masked_fill(~usable[row], -1e9), want[keep])


def answer_loss(model, h, b):
    """Cross entropy on answers (per kind) and exact-match rates."""
    keep = b["target"] != IGNORE
    logits, target, kind = model.logits(h[keep]), b["target"][keep], b["kind"][keep]
    ce = F.cross_entropy(logits, target, reduction="none")
    note, recall = kind == NOTE, kind == RECALL
    loss = 1.5 * ce[~note & ~recall].mean() + 0.7 * ce[note].mean() + 0.5 * ce[recall].mean()
    with torch.no_grad():
        row = torch.arange(len(keep))[:, None].expand_as(keep)[keep]
        key = row * 64 + b["block"][keep]
        bad = torch.zeros(len(keep) * 64).index_put_((key,), (logits.argmax(-1) != target).float(), accumulate=True)
        seen = torch.full((len(keep) * 64,), -1).index_put_((key,), kind)
        em = {k: (bad[seen == k] == 0).float().mean().item() if (seen == k).any() else float("nan") for k in (NOTE, 1, 2, RECALL)}
    return loss, em


def step_loss(model, probes, hint, b, rng, noise, kv_latents=0.25, drop=0.03):
    B, T = b["reader"].shape
    emb, length = model.token_embd, b["length"]
    pos = torch.arange(T).expand(B, T)
    hid, cache = model(emb(b["reader"]), pos)
    guided = model.blk[GUIDED]
    fact_keys = guided.tap[1][:, 0]
    # plain language modelling of the facts
    lm_ok = pos[:, :-1] < (length - 2)[:, None]
    lm = F.cross_entropy(model.logits(hid[:, :-1][lm_ok]), b["reader"][:, 1:][lm_ok])
    # latent message
    h0 = hid[torch.arange(B), length - 1]
    rows, cache, grown_ok = rollout(model, h0, cache, length, pos < length[:, None])
    probe = probes(rows / model.alpha(), b["probe"])
    # text arm: facts in the cache, for some rows also the assistant marker and the latent steps
    use = torch.rand(B, generator=rng) < kv_latents
    ok = torch.cat(((pos < (length - 1)[:, None]) | (use[:, None] & (pos < length[:, None])), use[:, None].expand(B, M)), 1)
    start = length - 1 + use * (M + 1)
    gone = torch.rand(B, generator=rng) < drop  # no message at all
    ok, start = ok & ~gone[:, None], start * ~gone
    h, _ = model(emb(b["ids"]), start[:, None] + b["offset"], cache, packed_mask(ok, b["block"]))
    text, em_text = answer_loss(model, h, b)
    hint_text = hint_loss(hint, h, b)
    asked = b["hint"] != IGNORE
    in_facts = pos < (length - 2)[:, None]
    guide_text = guide_loss(guided.tap[0][:, 0], fact_keys, in_facts, b["cell"], asked & ~gone[:, None])
    # latent arm: a fresh context of M rows
    sent = rows
    if noise > 0:
        sigma = torch.rand(B, 1, 1, generator=rng) * noise
        sent = rows + sigma * model.alpha() * torch.randn(rows.shape, generator=rng) * rows.shape[-1] ** -0.5
        sent = model.alpha() * F.normalize(sent, dim=-1)
    x = torch.cat((sent, emb(b["ids"])), 1)
    p = torch.cat((torch.arange(M).expand(B, M), M + b["offset"]), 1)
    blocks = packed_mask(torch.ones(B, M, dtype=torch.bool), b["block"])
    head = F.pad(torch.ones(M, M, dtype=torch.bool).tril(), (0, b["ids"].shape[1])).expand(B, 1, -1, -1)
    h, _ = model(x, p, None, torch.cat((head, blocks), 2))
    latent, em_latent = answer_loss(model, h[:, M:], b)
    hint_latent = hint_loss(hint, h[:, M:], b)
    q, k = guided.tap
    guide_latent = guide_loss(q[:, 0, M:], k[:, 0, :M], torch.ones(B, M, dtype=torch.bool), b["slot"], asked)
    total = text + latent + 0.5 * (guide_text + guide_latent) + 0.5 * (hint_text + hint_latent) + 0.1 * lm + 0.15 * probe
    return total, dict(text=em_text, latent=em_latent, probe=probe.item() / 4, hint_text=hint_text.item(), hint_latent=hint_latent.item(),
                       guide_text=guide_text.item(), guide_latent=guide_latent.item())


# ---------------------------------------------------------------- optimiser

class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised by a Newton-Schulz iteration."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                s = self.state[p].setdefault("m", torch.zeros_like(p))
                s.lerp_(p.grad, 1 - group["momentum"])
                shapes.setdefault(p.shape, []).append((p, p.grad.lerp(s, group["momentum"])))
            for (n, k), items in shapes.items():
                x = torch.stack([g for _, g in items])
                if n > k:
                    x = x.mT
                x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
                if n > k:
                    x = x.mT
                for (p, _), u in zip(items, x):
                    p.add_(u, alpha=-group["lr"] * max(1, n / k) ** 0.5)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("name", choices=MODELS)
    ap.add_argument("--steps", type=int, default=3000)
    ap.add_argument("--warm", type=int, default=300, help="curriculum: documents grow from 2..3 to 4..8 facts")
    ap.add_argument("--decay", type=float, default=0.35, help="last share of the steps: linear decay of the rates")
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--lr", type=float, default=0.007, help="Muon rate")
    ap.add_argument("--adam", type=float, default=2e-3)
    ap.add_argument("--noise", type=float, default=0.5)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--minutes", type=float, default=1e9, help="stop early after this many minutes")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--out", default="runs")
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tok = Tokenizer.train(world.corpus(), **TOKENIZERS[a.name])
    tok.save(f"{a.out}/{a.name}.tokenizer.json")
    c = Config(name=a.name, vocab=len(tok.tokens), **MODELS[a.name])
    model, probes, hint = Decoder(c), Probes(c.d), nn.Linear(c.d, c.vocab)
    matrices = [p for n, p in model.blk.named_parameters() if p.ndim == 2]
    ids = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *probes.parameters()] if id(p) not in ids]
    opts = [Muon(matrices, a.lr), torch.optim.AdamW(rest, a.adam, betas=(0.9, 0.98), weight_decay=0.0),
            torch.optim.AdamW(hint.parameters(), a.adam, weight_decay=0.0)]
    peak = [a.lr, a.adam, a.adam]
    data, rng = Batcher(tok, a.seed * 1000 + 7), torch.Generator().manual_seed(a.seed)
    step, first, path, spent = -1, 0, f"{a.out}/{a.name}.pt", 0.0
    if a.resume and os.path.exists(path):
        s = torch.load(path, weights_only=False)
        model.load_state_dict(s["model"])
        probes.load_state_dict(s["probes"])
        hint.load_state_dict(s["hint"])
        for o, st in zip(opts, s["opts"]):
            o.load_state_dict(st)
        first, spent = s["step"], s["seconds"]
        step = first - 1
        data.rng.setstate(s["data_rng"])
        rng.set_state(s["torch_rng"])
    print(a.name, "vocab", c.vocab, "parameters", sum(p.numel() for p in model.parameters()), flush=True)
    t0, mean = time.time(), {}

    def save(step):
        torch.save(dict(model=model.state_dict(), probes=probes.state_dict(), hint=hint.state_dict(), opts=[o.state_dict() for o in opts],
                        step=step, seconds=spent + time.time() - t0, config=vars(c), args=vars(a),
                        data_rng=data.rng.getstate(), torch_rng=rng.get_state()), path + ".tmp")
        os.replace(path + ".tmp", path)

    for step in range(first, a.steps):
        grow = min(1.0, step / a.warm)
        lo, hi = round(2 + 2 * grow), round(3 + 5 * grow)
        b = data.batch(a.batch, lo, hi, hops2=step > a.warm)
        left = (a.steps - step) / (a.steps * a.decay)
        for o, lr in zip(opts, peak):
            for g in o.param_groups:
                g["lr"] = lr * min(1.0, left, (step + 1) / 50)
        loss, info = step_loss(model, probes, hint, b, rng, a.noise * grow)
        for o in opts:
            o.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *probes.parameters()], 1.0)
        for o in opts:
            o.step()
        flat = {"loss": loss.item(), **{k: info[k] for k in ("probe", "hint_text", "hint_latent", "guide_text", "guide_latent")}}
        flat.update({f"{arm}{k}": v for arm in ("text", "latent") for k, v in info[arm].items()})
        for k, v in flat.items():
            if v == v:
                mean[k] = v if k not in mean else 0.95 * mean[k] + 0.05 * v
        if (step + 1) % 25 == 0:
            print(f"{step + 1:5d} {spent + time.time() - t0:6.0f}s facts {lo}-{hi} " + " ".join(f"{k} {v:.3f}" for k, v in mean.items()), flush=True)
        if (step + 1) % 100 == 0:
            save(step + 1)
        if time.time() - t0 > 60 * a.minutes:
            break
    save(step + 1)


if __name__ == "__main__":
    main()
