"""The same maths in PyTorch, eager and compiled, on the shapes of cuda/bench: a line of JSON for each, timed as the benches are (graphs of
several calls over rotating inputs, medians by events). The first line has the copy rate and the bf16 matrix rate of the device.

    python3 peers.py [seconds] > peers.json

Stops after so many seconds (90), between two measurements."""

import json
import statistics
import sys
import time

import torch
import torch._dynamo

deadline = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 90)
device = torch.device("cuda")
torch.manual_seed(1)


def say(**line):
    print(json.dumps(line), flush=True)


def milliseconds(work):
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def time_of(call, sets):
    """Median microseconds of call(i), i < sets: as a graph of calls where it can be captured, else call by call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            for i in range(min(sets, 3)):
                call(i)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    once = max(milliseconds(lambda: call(0)), 1e-3)
    calls = max(sets if sets * once < 20 else 1, min(int(2 / once), 200), 1)
    how = "graph"
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(calls):
                call(i % sets)
        work = graph.replay
    except RuntimeError:
        how = "calls"
        torch.cuda.synchronize()

        def work():
            for i in range(calls):
                call(i % sets)

    work()
    times = sorted(milliseconds(work) for _ in range(max(5, min(30, int(80 / (once * calls))))))
    return statistics.median(times) * 1000 / calls, how


def sets_of(size):
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(64, 3 * cache // max(size, 1) + 1))


def measure(op, shape, function, inputs):
    """`inputs` is a list of argument tuples."""
    for peer, made in (("torch eager", lambda: function), ("torch compile", lambda: torch.compile(function, dynamic=False))):
        if time.monotonic() > deadline:
            say(op=op, shape=shape, peer=peer, error="out of time")
            continue
        try:
            torch._dynamo.reset()
            f = made()
            us, how = time_of(lambda i: f(*inputs[i]), len(inputs))
            say(op=op, shape=shape, peer=peer, us=round(us, 3), how=how)
        except Exception as error:  # a peer that fails is told, and the others go on
            say(op=op, shape=shape, peer=peer, error=str(error).splitlines()[0][:200])
            torch.cuda.synchronize()


def rates():
    a = torch.randn(1 << 28, device=device)
    b = torch.empty_like(a)
    copy_us, _ = time_of(lambda i: b.copy_(a), 1)
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    y = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    product_us, _ = time_of(lambda i: x @ y, 1)
    say(
        op="device",
        name=torch.cuda.get_device_name(),
        torch=torch.__version__,
        copy_gbs=round(2 * a.numel() * 4 / copy_us / 1000, 1),
        bf16_tflops=round(2 * 8192**3 / product_us / 1e6, 1),
    )


def thought():
    count, width = 151936, 2560
    table = torch.randn(count, width, device=device, dtype=torch.bfloat16) * 0.02

    def step(z, token, k, p):
        log_p = torch.log_softmax(z, -1)
        probabilities = log_p.exp()
        entropy = -(probabilities * log_p).sum(-1) / 0.6931471805599453
        top, ids = probabilities.topk(k, -1)
        if p < 1:
            before = top.cumsum(-1) - top
            top = torch.where(before < p, top, 0)
        weights = top / top.sum(-1, keepdim=True)
        e = torch.einsum("bk,bkd->bd", weights, table[ids].float()) + 0.5 * table[token].float()
        return e / e.norm(dim=-1, keepdim=True), entropy, probabilities.amax(-1)

    for name, batch, k, p in (("k 15", 1, 15, 1.0), ("k 50 p 0.9", 1, 50, 0.9), ("k 1000", 1, 1000, 1.0), ("k 15", 8, 15, 1.0), ("k 15", 64, 15, 1.0)):
        logits = [torch.randn(batch, count, device=device) * 4 for _ in range(sets_of(batch * count * 4))]
        tokens = torch.full((batch,), 17, device=device)
        measure("thought", f"151936 x 2560, {name}, batch {batch}", lambda z, t: step(z, t, k, p), [(z, tokens) for z in logits])

    def everything(z, token):
        e = torch.softmax(z, -1).to(torch.bfloat16) @ table + 0.5 * table[token]
        return e.float() / e.float().norm(dim=-1, keepdim=True)

    measure("thought", "151936 x 2560, all, batch 1", everything, [(torch.randn(1, count, device=device) * 4, torch.full((1,), 17, device=device))])


def caches():
    parts, cells, channels = 72, 4096, 1024
    cache = torch.randn(parts, cells, channels, device=device, dtype=torch.float16)
    order = torch.randperm(cells, device=device)
    kv = f"{parts} x {cells} x {channels} f16"

    def quantise_i8(x, order):
        rows = x[:, order].view(parts, cells, -1, 128).float()
        scale = (rows.abs().amax(-1, keepdim=True) / 127).half()
        inverse = torch.where(scale > 0, 1 / scale.float(), 0)
        return torch.round(rows * inverse).to(torch.int8), scale

    def dequantise_i8(codes, scale, order, out):
        out[:, order] = (codes.float() * scale.float()).half().view(parts, cells, channels)
        return out

    measure("gather_quantise", f"{kv}, i8 f16 128", quantise_i8, [(cache, order)])
    codes, scale = quantise_i8(cache, order)
    measure("dequantise_scatter", f"{kv}, i8 f16 128", dequantise_i8, [(codes, scale, order, torch.empty_like(cache))])

    def quantise_fp8(x, order):
        rows = x[:, order].view(parts, cells, -1, 128).float()
        scale = rows.abs().amax(-1, keepdim=True) / 448
        return (rows / scale).to(torch.float8_e4m3fn), scale

    def dequantise_fp8(codes, scale, order, out):
        out[:, order] = (codes.float() * scale).half().view(parts, cells, channels)
        return out

    measure("gather_quantise", f"{kv}, fp8 f32 128", quantise_fp8, [(cache, order)])
    codes, scale = quantise_fp8(cache, order)
    measure("dequantise_scatter", f"{kv}, fp8 f32 128", dequantise_fp8, [(codes, scale, order, torch.empty_like(cache))])
    del codes, scale

    def quantise_i4(x, order):
        rows = x[:, order].view(parts, cells, -1, 32).float()
        scale = (rows.abs().amax(-1, keepdim=True) / 7).half()
        inverse = torch.where(scale > 0, 1 / scale.float(), 0)
        codes = torch.round(rows * inverse).to(torch.int8).view(parts, cells, -1, 2)
        return (codes[..., 0] & 15) | (codes[..., 1] << 4), scale

    measure("gather_quantise", f"{kv}, i4 f16 32", quantise_i4, [(cache, order)])
    measure("gather", kv, lambda x, order: x[:, order], [(cache, order)])

    def scatter(x, order, out):
        out[:, order] = x
        return out

    measure("scatter", kv, scatter, [(cache, order, torch.empty_like(cache))])
    keys = cache[:36]
    values = keys.view(36, channels, cells)
    measure("gather_transposed", f"36 x {cells} x {channels} f16", lambda x: x.transpose(1, 2).contiguous(), [(values,)])

    frequencies = 0.8 ** torch.arange(64, device=device, dtype=torch.float64)
    shifts = torch.full((cells,), 1000, device=device)

    def rope(x, shifts):
        angles = shifts[:, None] * frequencies
        cosine, sine = angles.cos().float()[None, :, None], angles.sin().float()[None, :, None]
        heads = x.view(36, cells, 8, 128)
        a, b = heads[..., :64].float(), heads[..., 64:].float()
        turned = torch.cat((a * cosine - b * sine, a * sine + b * cosine), -1)
        return heads.copy_(turned.half())

    measure("rope", f"36 x {cells} x 8 x 128 f16, neox", rope, [(keys, shifts)])
    del cache, keys, values

    matrix = torch.ones(1, 1, device=device)
    while matrix.shape[0] < 64:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    x = torch.randn(65536, 1024, device=device)
    measure("hadamard", "65536 x 1024 f32, blocks of 64", lambda x: (x.view(-1, 64) @ (matrix / 8)).view(65536, 1024), [(x,)])


def products():
    functional = torch.nn.functional
    names = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}

    def project(norm, activation):
        def call(x, weight, bias):
            if norm == "rms":
                x = functional.rms_norm(x, x.shape[-1:], eps=1e-6)
            elif norm == "layer":
                x = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
            y = functional.linear(x, weight, bias)
            return functional.gelu(y) if activation == "gelu" else y

        return call

    def projection(rows, inputs, outputs, dtype=torch.bfloat16, norm="rms", activation=None, suffix=""):
        sets = sets_of(inputs * outputs * dtype.itemsize)
        weights = [torch.randn(outputs, inputs, device=device, dtype=dtype) / inputs**0.5 for _ in range(sets)]
        bias = torch.randn(outputs, device=device, dtype=dtype)
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        shape = f"{rows} x {inputs} x {outputs} {names[dtype]}{suffix}"
        measure("projection", shape, project(norm, activation), [(x, w, bias) for w in weights])

    def cosine(rows, anchors, width, dtype=torch.bfloat16, k=0):
        def call(x, a):
            r = (functional.normalize(x, dim=-1) @ a.T).float()
            return r.topk(k, -1) if k > 0 else r

        a = functional.normalize(torch.randn(anchors, width, device=device), dim=-1).to(dtype)
        x = torch.randn(rows, width, device=device, dtype=dtype)
        measure("cosine", f"{rows} x {anchors} x {width} {names[dtype]}" + (f", best {k}" if k > 0 else ""), call, [(x, a)])

    def codeword(rows, count, width, dtype=torch.bfloat16):
        codewords = torch.randn(count, width, device=device, dtype=dtype)
        x = torch.randn(rows, width, device=device, dtype=dtype)
        squares = codewords.float().square().sum(-1)
        measure(
            "codeword",
            f"{rows} x {count} x {width} {names[dtype]}",
            lambda x, c, s: (s - 2 * (x @ c.T).float()).min(-1),
            [(x, codewords, squares)],
        )

    for size in (2560, 4096, 896):
        for rows in (1, 16, 64, 512, 4096):
            projection(rows, size, size)
    cosine_shapes = ((8192, 512, 4096), (100000, 64, 384), (1000, 1000, 1024), (1, 1000, 4096), (64, 1000, 768), (1, 300, 384), (8192, 4096, 4096))
    for shape in cosine_shapes:
        cosine(*shape)
    for shape in ((4096, 8192, 256), (2048, 1024, 64), (32, 8192, 256)):
        codeword(*shape)
    cosine(8192, 512, 4096, k=10)
    projection(8192, 4096, 4096)
    projection(4096, 2560, 2560, activation="gelu", suffix=", gelu")
    projection(4096, 2560, 2560, norm="layer", suffix=", layer norm")
    projection(4096, 2560, 2560, norm=None, suffix=", no norm")
    projection(8, 2560, 2560)
    projection(1, 896, 4096)
    projection(4096, 896, 4096)
    projection(4096, 2560, 2560, torch.float16)
    cosine(8192, 512, 4096, torch.float16)
    for rows in (4096, 1, 16, 64, 512):
        projection(rows, 2560, 2560, torch.float32)
    for shape in cosine_shapes[:6]:
        cosine(*shape, torch.float32)
    codeword(4096, 8192, 256, torch.float32)
    for shape in ((1, 384, 300), (64, 768, 1000), (32, 2560, 2560)):
        projection(*shape)
    for shape in ((1, 384, 300), (64, 768, 1000), (1, 4096, 1000)):
        projection(*shape, torch.float32)


rates()
for group in (thought, caches, products):
    group()
    torch.cuda.empty_cache()
