"""Write the fixture of ten steps of each objective of `align`: transformers' Llama with a head of one number, losses and advantages as TRL
computes them, PyTorch's autograd and AdamW.

    target/venv/bin/python xtask/python/align_steps.py crates/align/tests/fixtures/steps.safetensors

The file holds the weights of the policy at its beginning and of the reference, under hairpin's names, the rows that are learnt from, and of each
objective ten losses and the weights after them.
"""
import copy
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, MODEL, LAYERS, CONTEXT, PROMPTS, ANSWERS, STEPS = 31, 16, 2, 16, 6, 3, 10
END = 0
torch.manual_seed(3)


class Both(torch.nn.Module):
    """A decoder with both heads."""

    def __init__(self):
        super().__init__()
        self.decoder = LlamaForCausalLM(LlamaConfig(
            vocab_size=VOCAB, hidden_size=MODEL, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, tie_word_embeddings=False, attn_implementation="eager"))
        self.scalar = torch.nn.Linear(MODEL, 1)

    def forward(self, tokens):
        """`ln p` of each next token and the scalar at each token of one row without padding."""
        x = self.decoder.model(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
        log_p = F.log_softmax(self.decoder.lm_head(x[:-1]), -1)
        return log_p.gather(1, tokens[1:, None])[:, 0], self.scalar(x)[:, 0]


def ours(model, prefix):
    names = {"self_attn.q_proj": "attn.q", "self_attn.k_proj": "attn.k", "self_attn.v_proj": "attn.v", "self_attn.o_proj": "attn.out",
             "mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up", "mlp.down_proj": "mlp.down", "input_layernorm": "attn.norm",
             "post_attention_layernorm": "mlp.norm"}
    out = {}
    for name, x in model.named_parameters():
        name = name.removeprefix("decoder.model.").removeprefix("decoder.")
        name = name.replace("embed_tokens", "embed").replace("lm_head", "head")
        for a, b in names.items():
            name = name.replace(a, b)
        out[prefix + name] = x.detach().clone().contiguous()
    return out


reference = Both()
with torch.no_grad():
    for p in reference.parameters():
        p.add_(torch.randn_like(p) * 0.15)
policy = copy.deepcopy(reference)
with torch.no_grad():
    for p in policy.parameters():
        p.add_(torch.randn_like(p) * 0.05)
out = ours(policy, "policy/") | ours(reference, "reference/")

prompts = [torch.randint(1, VOCAB, (int(torch.randint(2, 5, (1,))),)) for _ in range(PROMPTS)]
rows, firsts = [], []
for prompt in prompts:
    for _ in range(ANSWERS):
        answer = torch.randint(1, VOCAB, (int(torch.randint(1, 6, (1,))),))
        rows.append(torch.cat([prompt, answer, torch.tensor([END])]))
        firsts.append(len(prompt))
ranks = torch.tensor([[0, 1, 2], [2, 0, 1], [0, 0, 1], [1, 0, 2], [0, 1, 1], [2, 1, 0]])
rewards = torch.randn(len(rows))
confidences = torch.tensor([1.0, 0.5, 1.0, 0.25, 1.0, 0.75])
windows = torch.randint(1, VOCAB, (PROMPTS, CONTEXT + 1))
padded = torch.stack([F.pad(row, (0, CONTEXT - len(row)), value=-1) for row in rows])
out |= {"rows": padded.int(), "firsts": torch.tensor(firsts).int(), "ranks": ranks.int().contiguous(), "rewards": rewards,
        "confidences": confidences, "windows": windows.int()}


def answer(model, i):
    """`ln p` of the tokens of a response, and values where each is chosen."""
    log_p, scalars = model(rows[i])
    return log_p[firsts[i] - 1:], scalars[firsts[i] - 1:-1]


def sft(model):
    total = sum(len(rows[i]) - firsts[i] for i in range(0, len(rows), ANSWERS))
    return -sum(answer(model, i)[0].sum() for i in range(0, len(rows), ANSWERS)) / total


def reward(model):
    losses = []
    for sample in range(PROMPTS):
        r = [model(rows[sample * ANSWERS + i])[1][-1] for i in range(ANSWERS)]
        k, margin = ranks[sample], 0.5 * confidences[sample]
        pairs = [-F.logsigmoid(r[a] - r[b] - margin) for a in range(ANSWERS) for b in range(ANSWERS) if k[a] < k[b]]
        losses.append(torch.stack(pairs).mean())
    return torch.stack(losses).mean()


def dpo(model, beta=0.3, smoothing=0.1):
    losses = []
    for sample in range(PROMPTS):
        better, worse = sample * ANSWERS, sample * ANSWERS + 1
        with torch.no_grad():
            before = answer(reference, better)[0].sum() - answer(reference, worse)[0].sum()
        ahead = beta * (answer(model, better)[0].sum() - answer(model, worse)[0].sum() - before)
        losses.append(-F.logsigmoid(ahead) * (1 - smoothing) - F.logsigmoid(-ahead) * smoothing)
    return torch.stack(losses).mean()


def policy_loss(log_p, old, advantage, clip=0.2):
    ratio = torch.exp(log_p - old)
    return torch.max(-advantage * ratio, -advantage * torch.clamp(ratio, 1 - clip, 1 + clip))


def rollouts(of):
    """What was said of the rows before the first step."""
    with torch.no_grad():
        said = [answer(policy_before, i) for i in of]
        return [(log_p, values, answer(reference, i)[0]) for i, (log_p, values) in zip(of, said)]


def ppo(of, kl_coef=0.1, gamma=0.97, lam=0.9, value_clip=0.2, value_coef=0.1, pretrain_coef=0.3):
    before = rollouts(of)
    advantages = []
    for i, (old, values, ref) in zip(of, before):
        r = -kl_coef * (old - ref)
        r[-1] += rewards[i]
        last, a = 0.0, []
        for t in reversed(range(len(r))):
            after = values[t + 1] if t + 1 < len(r) else 0.0
            last = r[t] + gamma * after - values[t] + gamma * lam * last
            a.append(last)
        advantages.append(torch.stack(a[::-1]))
    returns = [a + values for a, (_, values, _) in zip(advantages, before)]
    flat = torch.cat(advantages)
    advantages = [(a - flat.mean()) / (flat.std(unbiased=False) + 1e-8) for a in advantages]
    mean_tokens = len(flat) / len(of)

    def loss(model):
        total = 0.0
        for n, i in enumerate(of):
            log_p, values = answer(model, i)
            old, old_values, _ = before[n]
            held = old_values + torch.clamp(values - old_values, -value_clip, value_clip)
            of_value = 0.5 * torch.max((values - returns[n]) ** 2, (held - returns[n]) ** 2)
            total = total + (policy_loss(log_p, old, advantages[n]) + value_coef * of_value).sum() / mean_tokens
            total = total - pretrain_coef * model(windows[n])[0].mean()
        return total / len(of)

    return loss


def grpo(of, kl_coef=0.04):
    before = rollouts(of)
    groups = rewards[of].view(-1, ANSWERS)
    advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, unbiased=False, keepdim=True) + 1e-4)).flatten()
    mean_tokens = sum(len(old) for old, _, _ in before) / len(of)

    def loss(model):
        total = 0.0
        for n, i in enumerate(of):
            log_p, _ = answer(model, i)
            old, _, ref = before[n]
            apart = ref - log_p
            total = total + (policy_loss(log_p, old, advantages[n]) + kl_coef * (torch.exp(apart) - apart - 1)).sum() / mean_tokens
        return total / len(of)

    return loss


policy_before = copy.deepcopy(policy)
last = list(range(ANSWERS - 1, len(rows), ANSWERS))
for name, loss in {"sft": sft, "reward": reward, "dpo": dpo, "ppo": ppo(last), "grpo": grpo(list(range(len(rows))))}.items():
    model = copy.deepcopy(policy_before)
    decays = [p for p in model.parameters() if p.dim() > 1]
    spared = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW([{"params": decays, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        value = loss(model)
        value.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimiser.step()
        losses.append(value.detach())
    print(name, [round(v.item(), 5) for v in losses])
    out[name + "/losses"] = torch.stack(losses)
    # What an objective does not use has no gradient, and stands still there; here such a head is not part of the model.
    out |= ours(model, name + "/")
save_file(out, sys.argv[1])
