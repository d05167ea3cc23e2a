"""Self-play fine-tuning of causal language models with transformers and DeepSpeed.

The loss is :mod:`spin_theory.losses`; nothing of it is written again here. Modules are imported
by name (``from spin_train.trainer import SpinTrainer``), so that the command line stays quick.
Each imports only from lines above its own.

===========  ====================================================================
`printable`  texts that no terminal obeys
`errors`     what a user can fix, what stops a run, what is our fault
`seeds`      one seed for each purpose
`system`     files, locks, processes, ranks; knows nothing of SPIN
`config`     the schema, files, presets, and which key may change when
`data`       rows to records: sources, formats, rendering
`model`      the log-prob of a response, exact and fast; loading and saving
`run`        a run on disk: stages, files, policies, status
`sampling`   the opponent plays: with transformers or vLLM
`training`   the loss, examples, batches, the trainer, checkpoints
`stages`     the loop: one file per stage
`driver`     checks, starts the workers, waits for them
`languages`  rows, tokenizer and template of a known language
`plan`       what a run will need, before anything is loaded
`lab`        trained networks held against the exact theory
`report`     what a person looks at after a run
`api`        a run from Python
`grid`       self-play and its control on a grid of learning rates and seeds
`demo`       the self-contained demo
`display`    bars and tables in the terminal
`looking`    commands that look at runs and change nothing of them
`sharing`    commands that give pairs and policies to other programs
`logps`      two names at a short address: `model.logps`
`trainer`    and `training.trainer`
`cli`        the command line
===========  ====================================================================
"""
