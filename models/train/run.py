"""Trains both models at the same time and measures the translation between them: python3 run.py OUT MINUTES [options of train.py]

Everything ends within MINUTES. OUT gets NAME.pt, NAME-f16.gguf and NAME.log of wren and finch, renewed while training runs; with --resume it is
also where training goes on from. A training that breaks is started again from its last checkpoint, without a CUDA graph.
"""
import os
import subprocess
import sys
import time

MODELS = ("wren", "finch")
RESERVE = 40  # seconds for the translation at the end


def start(name, out, minutes, more):
    log = open(f"{out}/{name}.log", "a")
    command = [sys.executable, "-u", "train.py", name, "--out", out, "--minutes", f"{minutes:.3f}", *more]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def tail(path, lines):
    with open(path) as f:
        return "".join(f.readlines()[-lines:])


def main():
    out, minutes, more = os.path.abspath(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    end = time.time() + 60 * minutes - RESERVE
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    os.makedirs(out, exist_ok=True)
    left = lambda: (end - time.time()) / 60
    running, again = {n: start(n, out, left(), more) for n in MODELS}, set()
    while running:
        time.sleep(0.5)
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            print(name, "ended with", process.returncode, flush=True)
            if process.returncode != 0 and name not in again and left() > 0.5:
                again.add(name)
                resume = ["--resume"] if os.path.exists(f"{out}/{name}.pt") and "--resume" not in more else []
                running[name] = start(name, out, left(), [*more, *resume, "--eager"])
    for name in MODELS:
        print(tail(f"{out}/{name}.log", 12), flush=True)
    if all(os.path.exists(f"{out}/{n}.pt") for n in MODELS):
        with open(f"{out}/{MODELS[0]}.log", "a") as log:
            for line in subprocess.run([sys.executable, "-u", "fit_translation.py", "--runs", out], capture_output=True, text=True).stdout.splitlines():
                print(line, flush=True)
                print(line, file=log)


if __name__ == "__main__":
    main()
