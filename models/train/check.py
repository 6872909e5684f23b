"""Checks of the training code that need no training: python check.py

The tensors of data.py hold what world.py says, a step changes every weight, and a model's answers do not depend on how it is batched.
"""
import torch

import data
import world
from model import MODELS, TOKENIZERS, Config, Decoder
from tokenizer import Tokenizer


def check_documents(tok, t):
    for lo, hi, held_out in ((2, 3, False), (4, 8, False), (4, 8, True)):
        numbers = data.documents(5, 300, lo, hi, held_out)
        b = data.batch(t, torch.as_tensor(numbers, dtype=torch.long))
        questions = data.question_list()
        seen = set()
        for i, row in enumerate(numbers):
            facts = [data.fact_of(int(n)) for n in row if n >= 0]
            assert [data.fact_number(f) for f in facts] == [n for n in row if n >= 0]
            text = world.document_text(facts)
            assert world.is_held_out(text) == held_out and lo <= len(facts) <= hi
            n = int(b.length[i])
            assert b.reader[i, :n].tolist() == tok.encode(f"<|user|> {text}<|end|><|assistant|>")
            assert (b.reader[i, n:] == t.end).all()
            for k in range(data.M):
                want = len(tok.encode("<|user|> " + world.document_text(facts[:k + 1]))) - 1 if k < len(facts) else 0
                assert int(b.stop[i, k]) == want
            known = [world.one_hop(facts, s, f) for s in range(len(facts)) for f in (False, True)] + world.two_hop(facts)
            for j in range(data.QUESTIONS):
                r, answer = int(b.rows[i, j]), int(b.answer[i, j])
                q = questions[r][0]
                same = [x for x in known if (x.text, x.answer, x.hops, x.slot, x.key) == (q.text, q.answer, q.hops, answer, q.key)]
                assert len(same) == 1, (text, q)
                key = int(b.key[i, j])
                assert q.key in facts[key].text() and (q.hops == 2) == (key != answer)
                prompt = tok.encode(f"<|user|> {q.text}<|end|><|assistant|>")
                want = tok.encode(" " + q.answer) + [t.end]
                assert b.block[i, j, :len(prompt) + len(want) - 1].tolist() == (prompt + want)[:-1]
                predicts = b.target[i, j] >= 0
                assert b.target[i, j][predicts].tolist() == want
                assert predicts.nonzero().flatten().tolist() == list(range(len(prompt) - 1, len(prompt) + len(want) - 1))
                at = b.asked[i, j].nonzero().flatten().tolist()
                assert tok.decode(b.block[i, j, :at[0] + 1].tolist()).endswith(q.key) and at[-1] == len(prompt) + len(want) - 2
                assert b.hinted[i, j].nonzero().flatten().tolist() == list(range(at[0], len(prompt)))
                seen.add((q.hops, q.text.split()[0]))
            two = sum(int(h) == 2 for h in b.hops[i])
            assert two == min(data.TWO_HOP, len(world.two_hop(facts)))
        assert len(seen) == 5, seen


def check_blocks(c, tok, t):
    """Questions in blocks behind a shared cache give what one sequence gives."""
    torch.manual_seed(0)
    model = Decoder(c).prepare()
    b = data.batch(t, torch.as_tensor(data.documents(6, 3, 4, 8), dtype=torch.long))
    T, (B, K, L) = t.cells, b.block.shape
    pos = torch.arange(T).expand(B, 1, T)
    with torch.no_grad():
        _, cache, _ = model(model.embed(b.reader)[:, None], pos)
        bias = torch.zeros(B, T).masked_fill(pos[:, 0] >= (b.length - 1)[:, None], float("-inf"))
        at = (b.length - 1)[:, None, None] + torch.arange(L)
        h, _, _ = model(model.embed(b.block), at.expand(B, K, L), cache, bias)
        for i in range(B):
            for j in range(K):
                line = b.reader[i, :int(b.length[i]) - 1].tolist() + b.block[i, j].tolist()
                one, _, _ = model(model.embed(torch.tensor([[line]])), torch.arange(len(line))[None, None])
                assert torch.allclose(one[0, 0, -L:], h[i, j], atol=1e-4)
        # token by token behind a grown cache is the same again
        one, cells, _ = model(model.embed(b.reader)[:1, None, :5], pos[:1, :, :5])
        two, grown, weights = model.step(model.embed(b.reader)[:1, 5], pos[:1, 0, 5], cells, torch.zeros(1, 6))
        all6, full, trace = model(model.embed(b.reader)[:1, None, :6], pos[:1, :, :6])
        assert torch.allclose(all6[:, 0, 5], two, atol=1e-5)
        assert all(torch.allclose(x[i], y[i], atol=1e-5) for x, y in zip(full, grown) for i in (0, 1))
        assert all(torch.allclose(w[:, :, 0, :, 5], v, atol=1e-5) for (_, w), v in zip(trace, weights))


def main():
    for name in MODELS:
        tok = Tokenizer.train(world.corpus(), **TOKENIZERS[name])
        t = data.Tables(tok, "cpu")
        check_documents(tok, t)
        check_blocks(Config(name=name, vocab=len(tok.tokens), **MODELS[name]), tok, t)
        print(name, "ok", "vocab", len(tok.tokens), "reader cells", t.cells, "block cells", t.block.shape[1])


if __name__ == "__main__":
    main()
