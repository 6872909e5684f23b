"""Train one model: python train.py wren --minutes 6 --out runs      (or --steps 8000, the same schedule counted in steps)

Writes OUT/NAME.pt (to resume from) and OUT/NAME-f16.gguf every SAVE seconds and at the end. The rates warm up, stay, and decay to zero over
the last part of the time or the steps. On a CUDA device the whole step, from drawing the questions to the optimiser, is one CUDA graph; if it
cannot be captured the program starts itself again without. See objective.py for what is learned.
"""
import time

START = time.time()  # loading PyTorch counts

import argparse
import os
import sys

import torch

import data
import world
from export_gguf import export
from model import MODELS, TOKENIZERS, Config, Decoder
from objective import Aids, loss_terms, measure, summary, total
from optim import Optimiser
from tokenizer import Tokenizer

CHUNK = 16  # steps between two looks at the clock
WARM = 200  # steps of warm-up
REPORT, SAVE = 20, 45  # seconds


class Trainer:
    """Model, aids, optimiser and one training step on documents that are copied to `facts`."""

    def __init__(self, c, tok, batch, device):
        self.c, self.tok = c, tok
        self.model, self.aids = Decoder(c).to(device), Aids(c.d, c.vocab).to(device)
        matrices = [p for p in self.model.blk.parameters() if p.dim() == 2]
        ids = {id(p) for p in matrices}
        self.opt = Optimiser(matrices, [p for p in [*self.model.parameters(), *self.aids.parameters()] if id(p) not in ids])
        self.tables = data.Tables(tok, device)
        self.facts = torch.zeros(batch, data.M, dtype=torch.long, device=device)
        self.noise = torch.zeros((), device=device)
        self.names, self.tally = (), None
        self.run = self.step

    def step(self):
        b = data.batch(self.tables, self.facts)
        term = loss_terms(self.model, self.aids, b, self.tables.assistant, self.noise)
        total(term).backward()
        self.opt.step()
        self.model.forget()
        seen = torch.stack([x.detach() for x in term.values()])
        if self.tally is None:
            self.names, self.tally = tuple(term), torch.zeros_like(seen)
        self.tally += seen

    def capture(self):
        """Replaces `run` by a replay of the step as one CUDA graph; the warm-up steps have rate 0."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.run = graph.replay
        self.run()
        torch.cuda.synchronize()
        if not self.opt.flat.isfinite().all() or not self.tally.isfinite().all():
            raise RuntimeError("the captured step gives numbers that are not finite")
        for x in (self.opt.m, self.opt.v, self.opt.steps, self.tally):
            x.zero_()

    def save(self, out, **more):
        path = f"{out}/{self.c.name}.pt"
        torch.save(dict(model=self.model.state_dict(), aids=self.aids.state_dict(), opt=self.opt.state_dict(), config=vars(self.c),
                        tokenizer=self.tok.as_dict(), **more), path + ".tmp")
        os.replace(path + ".tmp", path)
        export(self.model, self.tok, more["step"], f"{out}/{self.c.name}-f16.gguf")


def options():
    ap = argparse.ArgumentParser()
    ap.add_argument("name", choices=MODELS)
    ap.add_argument("--minutes", type=float, help="wall time of the whole program; the rates decay to zero by then")
    ap.add_argument("--steps", type=int, help="length of the schedule in steps, instead of --minutes")
    ap.add_argument("--batch", type=int, default=256, help="documents per step")
    ap.add_argument("--curriculum", type=int, default=100_000, help="documents over which they grow from 2..3 to 4..8 facts")
    ap.add_argument("--decay", type=float, default=0.4, help="last share of the schedule: linear decay of the rates")
    ap.add_argument("--muon", type=float, default=0.01, help="rate of the matrices")
    ap.add_argument("--adam", type=float, default=2e-3, help="rate of everything else")
    ap.add_argument("--noise", type=float, default=0.5, help="largest noise on a latent row, relative to its length")
    ap.add_argument("--seed", type=int, help="of the weights, the documents and the noise; default: 1 for wren, 2 for finch")
    ap.add_argument("--workers", type=int, default=2, help="processes that make documents")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--held-out", type=int, default=512, help="documents of the measurements on the way")
    ap.add_argument("--resume", action="store_true", help="go on from OUT/NAME.pt with a fresh schedule")
    ap.add_argument("--eager", action="store_true", help="no CUDA graph")
    ap.add_argument("--out", default="runs")
    a = ap.parse_args()
    if (a.minutes is None) == (a.steps is None):
        ap.error("give --minutes or --steps")
    if a.seed is None:
        a.seed = 1 + list(MODELS).index(a.name)
    return a


def main():
    a = options()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    before = torch.load(f"{a.out}/{a.name}.pt", map_location="cpu", weights_only=False) if a.resume else None
    step, chunks, spent = (before[k] for k in ("step", "chunks", "seconds")) if before else (0, 0, 0.0)
    # the workers are forked before anything touches the device
    stream = data.stream(a.seed, chunks, CHUNK * a.batch, a.curriculum, a.workers)
    coming = next(stream)
    held_out = torch.as_tensor(data.documents(977, a.held_out, 4, 8, held_out=True), dtype=torch.long)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    tok = Tokenizer(**before["tokenizer"]) if before else Tokenizer.train(world.corpus(), **TOKENIZERS[a.name])
    c = Config(name=a.name, vocab=len(tok.tokens), **MODELS[a.name])
    torch.manual_seed(a.seed * 1_000_003 + step)
    trainer = Trainer(c, tok, a.batch, device)
    if before:
        trainer.model.load_state_dict(before["model"])
        trainer.aids.load_state_dict(before["aids"])
    how = "eager"
    if device == "cuda" and not a.eager:
        try:
            trainer.capture()
            how = "one CUDA graph"
        except Exception as error:  # whatever the driver or PyTorch objects to: train on without the graph
            print(a.name, "no CUDA graph:", repr(error), flush=True)
            stream.close()
            rest = [] if a.minutes is None else ["--minutes", str(a.minutes - (time.time() - START) / 60)]
            os.execv(sys.executable, [sys.executable, *sys.argv, "--eager", *rest])
    if before:
        trainer.opt.load_state_dict(before["opt"])
    with torch.no_grad():
        torch.manual_seed(977)
        asked = data.batch(trainer.tables, held_out.to(device))
        torch.manual_seed(a.seed * 1_000_003 + step + 1)
    print(a.name, vars(a), "vocab", c.vocab, "parameters", sum(p.numel() for p in trainer.model.parameters()), "torch", torch.__version__,
          torch.cuda.get_device_name() if device == "cuda" else device, how, f"ready after {time.time() - START:.1f} s", flush=True)

    first, reported, saved, tallied = step, time.time(), time.time(), step
    while True:
        seconds = time.time() - START
        progress = (step - first) / a.steps if a.steps else seconds / (60 * a.minutes)
        if step > first and (progress >= 1 or time.time() - reported >= REPORT):
            terms = (trainer.tally / (step - tallied)).tolist()
            trainer.tally.zero_()
            rate = 1000 * (time.time() - reported) / (step - tallied)
            print(f"{a.name} step {step} {spent + seconds:.0f}s {rate:.1f} ms/step rates x{share:.3f} "
                  + " ".join(f"{k} {v:.3f}" for k, v in zip(trainer.names, terms)), flush=True)
            print(f"{a.name} held out: {summary(measure(trainer.model, asked), asked.hops)}", flush=True)
            reported, tallied = time.time(), step
        if step > first and (progress >= 1 or time.time() - saved >= SAVE):
            trainer.save(a.out, step=step, chunks=chunks, seconds=spent + seconds, args=vars(a))
            saved = time.time()
        if progress >= 1:
            break
        share = min(1.0, (step - first + CHUNK) / WARM, (1 - progress) / a.decay)
        trainer.opt.rates.copy_(torch.tensor([a.muon * share, a.adam * share]))
        trainer.noise.fill_(a.noise * min(1.0, chunks * CHUNK * a.batch / max(1, a.curriculum)))
        facts = torch.as_tensor(coming, dtype=torch.long).view(CHUNK, a.batch, data.M).to(device)
        for one in facts:
            trainer.facts.copy_(one)
            trainer.run()
            step += 1
        chunks += 1
        coming = next(stream)
        if device == "cuda":
            torch.cuda.synchronize()
    print(a.name, "done: steps", step, f"seconds {spent + time.time() - START:.0f}", flush=True)


if __name__ == "__main__":
    main()
