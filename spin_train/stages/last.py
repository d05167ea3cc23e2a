"""Sample: the last policy answers the held-out prompts as an opponent would."""

from functools import partial
from itertools import chain
from pathlib import Path

from spin_train.data.records import read_records, write_records
from spin_train.run.graph import Stage
from spin_train.sampling.engine import SamplingSettings
from spin_train.sampling.play import play, sampled_tokens, stop_ids_of
from spin_train.sampling.transformers_engine import sample
from spin_train.stages.work import Work

__all__ = ["sample_last"]


def sample_last(work: Work, stage: Stage) -> list[Path]:
    """Sample the policy that no iteration played against, shared out over the ranks.

    The draws are those of one more iteration. The transformers model itself samples, whatever
    `generation.engine` says.
    """
    run, generation = work.run, work.config.generation
    policy = run.policy(stage.iteration + 1)
    rows = read_records(run.directory.held_out_rows)
    mine = rows[work.ranks.rank :: work.ranks.size]
    settings = SamplingSettings(
        stop_ids_of(run.directory),
        generation.max_new_tokens,
        temperature=generation.temperature,
        batch_size=generation.batch_size,
    )
    played = []
    total = len(mine) * generation.samples_per_prompt
    with work.holding(policy, stage) as held:
        if mine:
            played = play(
                partial(sample, held.model, finished=lambda done: held.visit(done, total)),
                mine,
                settings,
                seed=work.config.seed,
                iteration=policy.iteration,
                samples_per_prompt=generation.samples_per_prompt,
            )
    work.speed.count(sampled_tokens(played))
    gathered = list(chain.from_iterable(work.ranks.gather(played)))
    if work.ranks.is_first:
        gathered.sort(key=lambda record: record.prompt_id)
        write_records(policy.samples_file, gathered)
    return [policy.samples_file]
