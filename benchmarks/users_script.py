"""One SPIN iteration as one writes it today: transformers' `generate`, then TRL's `DPOTrainer`.

``benchmarks.iteration`` runs it in an environment of its own; it imports nothing of this project.
The last line that it prints is JSON: seconds by stage, and the most memory it had, in bytes.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def sample(
    model: Any, tokenizer: Any, prompts: list[str], batch_size: int, max_new_tokens: int
) -> list[str]:
    """Answer prompts, a padded batch after the other, at temperature 1."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    responses: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(
            prompts[start : start + batch_size],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            rows = model.generate(
                **batch,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        responses += tokenizer.batch_decode(
            rows[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return responses


def main() -> None:
    """Play one iteration."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="directory of the model")
    parser.add_argument("rows", type=Path, help="JSON lines with prompt and response")
    parser.add_argument("out", help="directory of the policy")
    parser.add_argument("--new-tokens", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=8, help="pairs of a step")
    parser.add_argument("--micro-batch", type=int, default=8, help="pairs at a time")
    parser.add_argument("--sample-batch", type=int, default=64)
    parser.add_argument("--cached", action="store_true", help="reference log-probs made once")
    parser.add_argument("--checkpointing", action="store_true", help="activations computed again")
    arguments = parser.parse_args()
    started = time.monotonic()
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    tokenizer: Any = AutoTokenizer.from_pretrained(arguments.model)
    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    chat = tokenizer.chat_template is not None
    prompts = [row["prompt"] for row in rows]
    if chat:
        turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
        prompts = [
            tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)
            for t in turns
        ]
    begun = time.monotonic()
    samples = sample(model, tokenizer, prompts, arguments.sample_batch, arguments.new_tokens)
    sampled = time.monotonic()
    end = "" if chat else tokenizer.eos_token
    pairs = [
        {"prompt": prompt, "chosen": row["response"] + end, "rejected": response + end}
        for prompt, row, response in zip(prompts, rows, samples, strict=True)
    ]
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            output_dir=arguments.out,
            beta=0.1,
            learning_rate=1e-6,
            optim="rmsprop",
            num_train_epochs=1,
            per_device_train_batch_size=arguments.micro_batch,
            gradient_accumulation_steps=arguments.batch_size // arguments.micro_batch,
            precompute_ref_log_probs=arguments.cached,
            gradient_checkpointing=arguments.checkpointing,
            max_length=None,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=1,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(arguments.out)
    ended = time.monotonic()
    print(
        json.dumps(
            {
                "load": begun - started,
                "generate": sampled - begun,
                "train": ended - sampled,
                "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "tokens": sum(len(tokenizer(text)["input_ids"]) for text in samples),
            }
        )
    )


if __name__ == "__main__":
    main()
