"""Self-play fine-tuning of causal language models with transformers and DeepSpeed.

The loss is :mod:`spin_theory.losses`; nothing of it is written again here. Modules are imported
by name (``from spin_train.trainer import SpinTrainer``), so that the command line stays quick.

=================  ==========================================================
`config`           one schema: every key with its default and meaning
`config_files`     YAML in, ``key=value`` overrides; what may change on resuming
`rows`             SFT rows from files, folders, the hub
`shapes`           the shapes they come in: chats, pairs, Alpaca, ShareGPT ...
`templates`        published prompt templates by name
`rendering`        text to token ids: the one renderer, for generation and training
`data`             rows to prepared records; held-out split, subsets, truncation
`records`          the record of a prompt and its responses, as Parquet
`generation`       the opponent plays: what engines take and give, seeds, parity
`shards`           the unit of sampling and scoring, claimed by ranks
`decoding`         tokens drawn row by row from a key-value cache
`hf_engine`        sampling with a transformers model
`vllm_engine`      sampling with vLLM, in a process of its own
`batching`         examples to micro-batches of a token budget
`packing`          groups in one row: each prompt once, no padding
`attention`        attention within such a row, responses blind to each other
`flex`             the same on a GPU, by FlexAttention
`head`             log-probs without logits
`logps`            summed log-probs of responses; scoring and training
`objective`        which loss of which roles, with its weights
`trainer`          `SpinTrainer`, a `transformers.Trainer`
`models`           loading and saving models and tokenizers
`adapters`         LoRA: merged into the policy, or stacked, after every stage
`checkpoints`      which checkpoints are complete, and which to resume from
`stages`           what each stage of a run does
`training`         one training stage: Trainer under DeepSpeed, from a start to a policy
`evaluation`       held-out numbers, and the convergence meter
`leaderboards`     benchmarks of lm-eval, with their few-shot counts
`results`          the numbers of all policies of a run
`selfplay`         the driver: the stage graph, resume, launching workers
`branching`        a new run that shares the beginning of another
`selection`        the best policy so far; when to stop
`grid`             self-play and control on one grid of learning rates and seeds
`worker`           one rank: walks through the stages
`ranks`            what a worker knows of the others, and of the driver
`processes`        locks, launching, signals, the compiled communication op
`artifacts`        what lies in a run directory, written atomically
`status`           how far a run is, from its files
`display`          bars and tables in the terminal
`demo`             the self-contained demo
`cli`              the command line
=================  ==========================================================
"""
