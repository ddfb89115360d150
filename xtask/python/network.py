"""A step of recipes/bench-network.toml under PyTorch's DDP or FSDP over gloo, one sequence a rank: `cargo xtask bench
strategies --peers` starts one process for each rank. Prints exchange and step; an exchange is what DDP's buckets or FSDP's
gathers and scatters move, without the work between."""
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel

mode, ROUNDS, CONTEXT, VOCAB = sys.argv[1], 3, 64, 1024
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(1)
torch.set_num_threads(1)
model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=256, n_layer=4, n_head=4, resid_pdrop=0.0,
                                   embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None))
params = sum(p.numel() for p in model.parameters())
if mode == "ddp":
    model = DistributedDataParallel(model)
else:
    from torch.distributed.fsdp import fully_shard
    for block in model.transformer.h:
        fully_shard(block)
    fully_shard(model)
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
tokens = torch.randint(0, VOCAB, (1, CONTEXT + 1))


def sent():
    lines = open("/proc/self/net/dev").read().splitlines()[2:]
    return sum(int(l.split(":")[1].split()[8]) for l in lines if not l.strip().startswith("lo"))


def step():
    optimiser.zero_grad(set_to_none=True)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), tokens[:, 1:].reshape(-1)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def exchange():
    flat = torch.zeros(-(-params // ranks) * ranks)
    if mode == "ddp":
        for bucket in flat.split(25 * 2**18):
            dist.all_reduce(bucket)
    else:
        part = torch.zeros(flat.numel() // ranks)
        for _ in range(2):
            dist.all_gather_into_tensor(flat, part)
        dist.reduce_scatter_tensor(part, flat)


def median(work):
    secs, bytes = [], []
    for _ in range(ROUNDS + 1):
        dist.barrier()
        before, start = sent(), time.perf_counter()
        work()
        secs.append(time.perf_counter() - start)
        dist.barrier()
        bytes.append(sent() - before)
    return sorted(secs[1:])[ROUNDS // 2], sorted(bytes[1:])[ROUNDS // 2]


(exchange_secs, moved), (step_secs, _) = median(exchange), median(step)
if rank == 0:
    print(f"| PyTorch {mode} over gloo | {exchange_secs:.2f} | {step_secs:.2f} | {moved / 1e6:.1f} |", flush=True)
dist.destroy_process_group()
