"""What TRL takes for the steps of learning from feedback, beside hairpin on the same model, prompts, lengths and cores.

    python3 -m venv target/trl && target/trl/bin/pip install trl==0.29.1 transformers==4.57.1 torch
    target/trl/bin/python xtask/python/feedback_peers.py [--hairpin target/release/hairpin]

0.29.1 is the last release of TRL with a PPOTrainer. Both train in f32 on all cores: PPO on 32 responses of 48 tokens to prompts of 32, two
passes over them in batches of 16; the reward model and DPO on 16 pairs of such texts a step. Each is measured after a first round, which
warms up. Prints one JSON object: seconds of both, and TRL's over hairpin's.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import time

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast,
                          TrainerCallback)

PROMPT, RESPONSE, ROLLOUTS, BATCH, PASSES, ROUNDS = 32, 48, 32, 16, 2, 3
CONTEXT = PROMPT + RESPONSE
VOCAB = 2048


def words(seed, count):
    draw = random.Random(seed)
    syllables = [a + b for a in "bcdfghklmnprst" for b in "aeiou"]
    return " ".join("".join(draw.choice(syllables) for _ in range(draw.randint(1, 3))) for _ in range(count))


def make(folder):
    """The model, its tokenizer, prompts and pairs; both sides read the same files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        (words(i, 40) for i in range(2000)),
        trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=384, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
        max_position_embeddings=CONTEXT + 2, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id, bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    fast.save_pretrained(folder / "model")

    def of_tokens(count, first):
        """Texts of exactly so many tokens."""
        found, seed = [], first
        while len(found) < 256:
            text = fast.decode(fast(words(seed, 60))["input_ids"][:count])
            if len(fast(text)["input_ids"]) == count:
                found.append(text)
            seed += 1
        return found

    prompts, better, worse = of_tokens(PROMPT, 0), of_tokens(RESPONSE - 1, 10_000), of_tokens(RESPONSE - 1, 20_000)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    pairs = [{"prompt": p, "chosen": b, "rejected": w} for p, b, w in zip(prompts, better, worse)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return fast, prompts, pairs


class Times(TrainerCallback):
    """When steps ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_args, **_kwargs):
        self.ends.append(time.perf_counter())

    def median(self):
        return statistics.median(b - a for a, b in zip(self.ends, self.ends[1:]))


def common(folder):
    return dict(output_dir=str(folder / "trl"), report_to=[], save_strategy="no", use_cpu=True, bf16=False, fp16=False, disable_tqdm=True,
                learning_rate=1e-5, logging_strategy="no")


def trl_ppo(folder, tokenizer, prompts):
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    load = lambda: AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    score = lambda: AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1, dtype=torch.float32)
    data = Dataset.from_list([{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in prompts])
    config = PPOConfig(
        per_device_train_batch_size=BATCH, gradient_accumulation_steps=ROLLOUTS // BATCH, num_mini_batches=ROLLOUTS // BATCH,
        num_ppo_epochs=PASSES, total_episodes=ROLLOUTS * ROUNDS, response_length=RESPONSE, local_rollout_forward_batch_size=ROLLOUTS,
        num_sample_generations=0, stop_token=None, kl_coef=0.05, **common(folder),
    )
    times = Times()
    trainer = PPOTrainer(args=config, processing_class=tokenizer, model=load(), ref_model=load(), reward_model=score(), value_model=score(),
                         train_dataset=data, eval_dataset=data, callbacks=[times])
    trainer.train()
    return times.median()


def trl_steps(folder, tokenizer, pairs, kind):
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    data, times = Dataset.from_list(pairs), Times()
    options = dict(per_device_train_batch_size=BATCH, max_steps=8, max_length=CONTEXT, **common(folder))
    if kind == "dpo":
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        trainer = DPOTrainer(model, args=DPOConfig(gradient_checkpointing=False, **options), processing_class=tokenizer, train_dataset=data,
                             callbacks=[times])
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1, dtype=torch.float32)
        trainer = RewardTrainer(model, args=RewardConfig(gradient_checkpointing=False, **options), processing_class=tokenizer,
                                train_dataset=data, callbacks=[times])
    trainer.train()
    return times.median()


def recipe(folder, objective, steps, sequences):
    path = folder / "recipe.toml"
    path.write_text(
        f'[model]\n[from]\npath = "{folder}/imported"\n[objective]\n{objective}\n[batch]\nsequences = {sequences}\n'
        f"micro_batch = {sequences}\ncontext = {CONTEXT}\n[train]\nsteps = {steps}\nprecision = \"f32\"\n[optim]\nlr = 1e-5\n"
        '[eval]\nevery_steps = 10000\nwindows = 1\n[checkpoint]\nevery_steps = 10000\n[guard]\naction = "off"\n'
    )
    return path


def hairpin_run(program, folder, name, objective, steps, sequences=BATCH):
    """Seconds of each step."""
    run = folder / name
    subprocess.run([program, "train", recipe(folder, objective, steps, sequences), "--out", run], check=True, capture_output=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [sequences * CONTEXT / line["tokens_per_sec"] for line in lines if "tokens_per_sec" in line]


def hairpin(program, folder):
    subprocess.run([program, "import", folder / "model", folder / "imported"], check=True, capture_output=True)
    pairs = f'preferences = "{folder}/pairs.jsonl"'
    reward = statistics.median(hairpin_run(program, folder, "reward", f'kind = "reward"\nk = 2\n{pairs}', 8)[1:])
    dpo = statistics.median(hairpin_run(program, folder, "dpo", f'kind = "dpo"\n{pairs}', 8)[1:])
    each = ROLLOUTS * PASSES // BATCH
    steps = hairpin_run(
        program, folder, "ppo",
        f'kind = "ppo"\nprompts = "{folder}/prompts.jsonl"\nresponse_tokens = {RESPONSE}\nrollouts = {ROLLOUTS}\ninner_epochs = {PASSES}\n'
        f'reward = {{ kind = "model", path = "{folder}/reward" }}',
        each * ROUNDS,
    )
    rounds = [sum(steps[i : i + each]) for i in range(0, len(steps), each)]
    return {"ppo": statistics.median(rounds[1:]), "reward": reward, "dpo": dpo, "ppo_writing": statistics.median(steps[each::each])}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--hairpin", default="target/release/hairpin")
    arguments.add_argument("--folder", default="target/feedback-peers")
    arguments.add_argument("--rounds", type=int, default=1)
    options = arguments.parse_args()
    folder = pathlib.Path(options.folder).resolve()
    subprocess.run(["rm", "-rf", folder], check=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(os.cpu_count())
    tokenizer, prompts, pairs = make(folder)
    ours = hairpin(options.hairpin, folder)
    theirs = {"ppo": trl_ppo(folder, tokenizer, prompts), "reward": trl_steps(folder, tokenizer, pairs, "reward"),
              "dpo": trl_steps(folder, tokenizer, pairs, "dpo")}
    ratio = {name: theirs[name] / ours[name] for name in theirs}
    print(json.dumps({"hairpin_secs": ours, "trl_secs": theirs, "trl_over_hairpin": ratio}))


if __name__ == "__main__":
    main()
