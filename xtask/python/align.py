"""Write the fixture of the objectives of `align`: losses and gradients by PyTorch's autograd, as TRL computes them.

    target/venv/bin/python xtask/python/align.py > crates/align/tests/fixtures/objectives.json
"""
import json

import torch
import torch.nn.functional as F

torch.manual_seed(1)
torch.set_default_dtype(torch.float64)


def graded(x, loss):
    """The loss of `x` and its gradient."""
    x = x.clone().requires_grad_(True)
    value = loss(x)
    value.backward()
    return {"x": x.tolist(), "loss": value.item(), "slope": x.grad.tolist()}


def pairs(ranks, margin):
    def loss(r):
        terms = [-F.logsigmoid(r[a] - r[b] - margin) for a in range(len(ranks)) for b in range(len(ranks)) if ranks[a] < ranks[b]]
        return torch.stack(terms).mean()

    return loss


def order(ranks):
    def loss(r):
        terms = []
        for best in range(len(ranks)):
            rest = [best] + [i for i in range(len(ranks)) if ranks[i] > ranks[best]]
            if len(rest) > 1:
                terms.append(torch.logsumexp(r[rest], 0) - r[best])
        return torch.stack(terms).mean()

    return loss


def dpo(reference, beta, smoothing):
    # trl.DPOTrainer.dpo_loss, loss_type "sigmoid"
    def loss(p):
        ahead = beta * ((p[0] - p[1]) - (reference[0] - reference[1]))
        return -F.logsigmoid(ahead) * (1 - smoothing) - F.logsigmoid(-ahead) * smoothing

    return loss


def policy(old, advantage, reference, clip, kl_coef):
    # trl.PPOTrainer's policy loss of one token; with kl_coef trl.GRPOTrainer's
    def loss(nll):
        p = -nll[0]
        ratio = torch.exp(p - old)
        value = torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - clip, 1 + clip))
        return value + kl_coef * (torch.exp(reference - p) - (reference - p) - 1)

    return loss


def value(old, target, clip):
    # trl.PPOTrainer's value loss of one token
    def loss(v):
        held = torch.clamp(v[0], old - clip, old + clip)
        return 0.5 * torch.max((v[0] - target) ** 2, (held - target) ** 2)

    return loss


def gae(rewards, values, gamma, lam):
    # trl.PPOTrainer: advantages reversed
    last, out = 0.0, []
    for t in reversed(range(len(rewards))):
        after = values[t + 1] if t < len(rewards) - 1 else 0.0
        last = rewards[t] + gamma * after - values[t] + gamma * lam * last
        out.append(last)
    return out[::-1]


cases = {"pairs": [], "order": [], "dpo": [], "policy": [], "value": [], "gae": []}
for ranks, margin in [([0, 1, 2, 3], 0.0), ([2, 0, 1, 1], 0.5), ([0, 0, 1], 0.0)]:
    x = torch.randn(len(ranks))
    cases["pairs"].append({"ranks": ranks, "margin": margin, **graded(x, pairs(ranks, margin))})
    cases["order"].append({"ranks": ranks, **graded(x, order(ranks))})
for beta, smoothing in [(0.1, 0.0), (0.5, 0.1)]:
    reference = (-5 * torch.rand(2)).tolist()
    cases["dpo"].append({"reference": reference, "beta": beta, "smoothing": smoothing, **graded(-5 * torch.rand(2), dpo(reference, beta, smoothing))})
for kl_coef in [0.0, 0.04]:
    for _ in range(8):
        old, advantage, reference = (-3 * torch.rand(1)).item(), torch.randn(1).item(), (-3 * torch.rand(1)).item()
        x = torch.tensor([-old]) + 0.5 * torch.randn(1)
        case = {"old": old, "advantage": advantage, "reference": reference, "clip": 0.2, "kl_coef": kl_coef}
        cases["policy"].append({**case, **graded(x, policy(old, advantage, reference, 0.2, kl_coef))})
for _ in range(8):
    old, target = torch.randn(1).item(), torch.randn(1).item()
    cases["value"].append({"old": old, "target": target, "clip": 0.2, **graded(torch.tensor([old]) + 0.3 * torch.randn(1), value(old, target, 0.2))})
for _ in range(2):
    rewards, values = torch.randn(6).tolist(), torch.randn(6).tolist()
    cases["gae"].append({"rewards": rewards, "values": values, "gamma": 0.97, "lambda": 0.9, "advantages": gae(rewards, values, 0.97, 0.9)})
print(json.dumps(cases, indent=1))
