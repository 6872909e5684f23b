"""Muon for the matrices of the layers and Adam for everything else, on flat buffers and free of host reads.

All parameters are views into one vector and all gradients into another, so a step is a handful of kernels and can be captured in a CUDA graph.
"""
import torch


class Optimiser:
    def __init__(self, matrices, rest, momentum=0.95, betas=(0.9, 0.98), eps=1e-9):
        self.momentum, self.betas, self.eps = momentum, betas, eps
        shapes = sorted({p.shape for p in matrices})
        matrices = [p for s in shapes for p in matrices if p.shape == s]
        params = [*matrices, *rest]
        device = params[0].device
        self.flat = torch.cat([p.detach().flatten() for p in params])
        self.grad = torch.zeros_like(self.flat)
        at = 0
        for p in params:
            p.data = self.flat[at:at + p.numel()].view(p.shape)
            p.grad = self.grad[at:at + p.numel()].view(p.shape)
            at += p.numel()
        split = sum(p.numel() for p in matrices)
        self.groups, at = [], 0
        for s in shapes:
            size = sum(p.shape == s for p in matrices) * s.numel()
            self.groups.append((slice(at, at + size), s))
            at += size
        self.rest = slice(split, len(self.flat))
        self.m = torch.zeros_like(self.flat)
        self.v = torch.zeros(len(self.flat) - split, device=device)
        self.steps = torch.zeros((), device=device)
        self.rates = torch.zeros(2, device=device)  # Muon, Adam; written by the schedule

    @torch.no_grad()
    def step(self):
        """Clips the gradient to length 1, applies it and clears it; a gradient that is not finite counts as zero."""
        norm = self.grad.norm()
        grad = torch.where(norm.isfinite(), self.grad / norm.clamp(min=1.0), torch.zeros_like(self.grad))
        self.steps += 1
        for where, shape in self.groups:
            g, m = grad[where].view(-1, *shape), self.m[where].view(-1, *shape)
            m.lerp_(g, 1 - self.momentum)
            u = orthogonal(g.lerp(m, self.momentum))
            self.flat[where].sub_((u * (self.rates[0] * max(1.0, shape[0] / shape[1]) ** 0.5)).flatten())
        (b1, b2), g, m = self.betas, grad[self.rest], self.m[self.rest]
        m.lerp_(g, 1 - b1)
        self.v.lerp_(g * g, 1 - b2)
        mean, square = m / (1 - b1 ** self.steps), self.v / (1 - b2 ** self.steps)
        self.flat[self.rest].sub_(self.rates[1] * mean / (square.sqrt() + self.eps))
        self.grad.zero_()

    def state_dict(self):
        return dict(m=self.m.half(), v=self.v, steps=self.steps)

    def load_state_dict(self, state):
        for key, value in state.items():
            getattr(self, key).copy_(value)


def orthogonal(x):
    """Newton-Schulz iteration towards the nearest matrix with singular values near 1; x: [n, rows, columns]."""
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.transpose(1, 2) if tall else x
