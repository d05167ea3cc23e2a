import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spin_train.data.records import Record, Response, read_records, write_records
from spin_train.model.logps import Group
from spin_train.model.packing import token_blocks
from spin_train.training.batching import MicroBatches
from spin_train.training.examples import Example, examples_of
from spin_train.training.objective import Objective, sft_objective

SIZES = {
    "count": st.integers(1, 40),
    "batch_size": st.integers(1, 17),
    "micro_batch_tokens": st.integers(1, 300),
    "micro_batch_size": st.none() | st.integers(1, 5),
    "ranks": st.integers(1, 4),
}


def length_of(index):
    """From 1 to 60 tokens, in no order."""
    return 1 + index * 37 % 60


def batches_of(
    count,
    *,
    batch_size=4,
    micro_batch_tokens=1000,
    micro_batch_size=2,
    ranks=1,
    epochs=1.0,
    seed=0,
):
    examples = [
        Example(Group([index + 1] * length_of(index), [[1]]), [0.0]) for index in range(count)
    ]
    return MicroBatches(
        examples,
        batch_size=batch_size,
        micro_batch_tokens=micro_batch_tokens,
        micro_batch_size=micro_batch_size,
        ranks=ranks,
        epochs=epochs,
        seed=seed,
    )


def numbers(micro_batch):
    return [example.group.prompt_ids[0] - 1 for example in micro_batch.examples]


def counted(micro_batch):
    """Numbers of the examples that count: a filler's do not."""
    return numbers(micro_batch) if micro_batch.weight > 0 else []


def by_step(batches):
    """Micro-batches of each optimiser step."""
    everything = [batches[index] for index in range(len(batches))]
    slots = len(batches) // batches.steps
    return [everything[start : start + slots] for start in range(0, len(everything), slots)]


@given(**SIZES, seed=st.integers(0, 2**62))
def test_the_tokens_of_some_steps_are_those_of_all_ranks_without_fillers(count, seed, **sizes):
    batches = batches_of(count, **sizes, seed=seed)
    of_step = [
        sum(
            e.group.tokens
            for micro_batch in step
            if micro_batch.weight
            for e in micro_batch.examples
        )
        for step in by_step(batches)
    ]
    assert [batches.tokens_of(n, n + 1) for n in range(batches.steps)] == of_step
    assert batches.tokens_of(1, batches.steps) == sum(of_step[1:])


@given(**SIZES, seed=st.integers(0, 2**62))
def test_an_epoch_holds_every_example_exactly_once(count, seed, **sizes):
    batches = batches_of(count, **sizes, seed=seed)
    seen = Counter(number for index in range(len(batches)) for number in counted(batches[index]))
    assert seen == dict.fromkeys(range(count), 1)


@example(count=5, batch_size=4, micro_batch_tokens=9, micro_batch_size=1, ranks=4).via(
    "last batch: three fillers"
)
@example(count=3, batch_size=64, micro_batch_tokens=99, micro_batch_size=2, ranks=2).via(
    "fewer examples than a batch"
)
@given(**SIZES)
def test_summed_over_micro_batches_and_averaged_over_ranks_the_loss_is_the_batch_mean(
    count, ranks, **sizes
):
    batches = batches_of(count, ranks=ranks, **sizes)
    generator = torch.Generator().manual_seed(count)
    losses = torch.randn(count, generator=generator, dtype=torch.float64)
    for step in by_step(batches):
        got = sum(batch.weight * losses[numbers(batch)].sum() for batch in step) / ranks
        members = [number for batch in step for number in counted(batch)]
        torch.testing.assert_close(got, losses[members].mean(), atol=1e-12, rtol=0)


def test_weights_by_hand():
    # 5 examples, batches of 4, two ranks, two at a time: each rank has 2 of the first 4, of weight
    # 2 ranks / 4 examples; then one has the last one, 2 / 1, and the other a filler.
    weights = [[batch.weight for batch in step] for step in by_step(batches_of(5, ranks=2))]
    assert weights == [[0.5, 0.5], [2.0, 0.0]]


@given(**SIZES, epochs=st.sampled_from([1.0, 2.0, 2.5]))
def test_global_batches_are_the_same_whatever_the_ranks_and_micro_batches(
    count, batch_size, epochs, **sizes
):
    alone = batches_of(count, batch_size=batch_size, micro_batch_size=count, ranks=1, epochs=epochs)
    shared = batches_of(count, batch_size=batch_size, epochs=epochs, **sizes)

    def members(batches):
        return [sorted(n for batch in step for n in counted(batch)) for step in by_step(batches)]

    assert members(shared) == members(alone)


def tokens_of(micro_batch):
    return sum(length_of(number) for number in numbers(micro_batch))


@given(**SIZES)
def test_no_micro_batch_is_larger_than_asked_for_but_of_a_single_example(
    count, micro_batch_tokens, micro_batch_size, **sizes
):
    batches = batches_of(
        count, micro_batch_tokens=micro_batch_tokens, micro_batch_size=micro_batch_size, **sizes
    )
    for batch in (batches[index] for index in range(len(batches))):
        assert 1 <= len(batch.examples) <= (micro_batch_size or count)
        assert len(batch.examples) == 1 or tokens_of(batch) <= micro_batch_tokens


@given(**SIZES)
def test_one_micro_batch_less_would_not_do(count, **sizes):
    batches = batches_of(count, **sizes)
    if batches.accumulation > 1:
        batches.accumulation -= 1
        tokens = sizes["micro_batch_tokens"]
        assert not all(batches._fits(batch, tokens) for batch in batches._batches)


def test_the_longest_left_goes_where_there_is_least():
    # 60 tokens at most; lengths 1, 38, 15, 52: 52 and 38 apart, 15 with 38, 1 with 52; each 53.
    batches = batches_of(4, micro_batch_tokens=60, micro_batch_size=None)
    assert [sorted(map(length_of, numbers(batches[i]))) for i in range(2)] == [[1, 52], [15, 38]]


@given(**SIZES)
def test_micro_batches_of_the_same_moment_are_the_next_longest(count, ranks, **sizes):
    for step in by_step(batches_of(count, ranks=ranks, **sizes)):
        lengths = [tokens_of(batch) if batch.weight else 0 for batch in step]
        rounds = [lengths[i : i + ranks] for i in range(0, len(lengths), ranks)]
        for before, after in itertools.pairwise(rounds):
            assert min(before) >= max(after)


@given(lengths=st.lists(st.integers(1, 30), max_size=20), tokens=st.integers(1, 70))
def test_runs_are_the_sequence_cut_where_the_tokens_are_full(lengths, tokens):
    groups = [Group([1] * length, [[2]]) for length in lengths]
    runs = list(token_blocks(groups, tokens))
    assert [group for run in runs for group in run] == groups
    sums = [sum(group.tokens for group in run) for run in runs]
    assert all(total <= tokens or len(run) == 1 for run, total in zip(runs, sums, strict=True))
    for total, (_, after) in zip(sums, itertools.pairwise(runs), strict=False):
        assert total + after[0].tokens > tokens


@given(**SIZES)
def test_every_rank_gets_equally_many_micro_batches_a_step(count, ranks, **sizes):
    batches = batches_of(count, ranks=ranks, **sizes)
    assert len(batches) == batches.steps * batches.accumulation * ranks
    assert batches.steps == math.ceil(count / sizes["batch_size"])


@pytest.mark.parametrize(
    ("epochs", "trained_on"),
    # 10 examples: half an epoch is 5; 2.5 are 10 + 10 + 5; a hundredth is still one.
    [(0.5, 5), (1.0, 10), (2.5, 25), (0.01, 1)],
)
def test_a_fraction_of_an_epoch_is_that_fraction_of_the_examples(epochs, trained_on):
    batches = batches_of(10, epochs=epochs)
    assert sum(len(counted(batches[index])) for index in range(len(batches))) == trained_on


def order(**sizes):
    batches = batches_of(20, batch_size=1, micro_batch_size=1, **sizes)
    return [numbers(batches[index])[0] for index in range(len(batches))]


def test_the_order_follows_from_the_seed():
    assert order(seed=1) == order(seed=1)
    assert order(seed=1) != order(seed=2)


def test_each_epoch_has_an_order_of_its_own():
    both = order(seed=1, epochs=2.0)
    assert both[:20] == order(seed=1)
    assert sorted(both[20:]) == sorted(both[:20])
    assert both[20:] != both[:20]


REAL = Response("real", [3, 2], "stop", opponent_logps=-1.0)
NEW = Response("generated", [4, 2], "stop", iteration=1, opponent_logps=-2.0)
OLD = Response("generated", [5], "length", iteration=0, opponent_logps=-3.0)
PROTO = Response("proto", [6, 2], "stop", iteration=0, opponent_logps=-4.0)


def test_mixed_in_samples_give_a_pair_each_with_the_same_real_response():
    record = Record(0, [1], [REAL, NEW, OLD])
    assert examples_of([record], Objective("spin")) == [
        Example(Group([1], [[3, 2], [4, 2]]), [-1.0, -2.0]),
        Example(Group([1], [[3, 2], [5]]), [-1.0, -3.0]),
    ]


def test_every_pair_of_a_row_has_its_weight():
    record = Record(0, [1], [REAL, NEW, OLD], weight=0.5)
    assert [e.weight for e in examples_of([record], Objective("spin"))] == [0.5, 0.5]


def test_several_samples_of_an_opponent_meet_the_proto_responses_of_their_own_numbers():
    new, old, proto = (
        [Response(role, [10 * k + n, 2], "stop", k, opponent_logps=0.0) for n in range(2)]
        for role, k in (("generated", 1), ("generated", 0), ("proto", 3))
    )
    record = Record(0, [1], [REAL, *new, *old, *proto])
    groups = [example.group for example in examples_of([record], Objective("tspin"))]
    assert [[ids[0] for ids in group.responses] for group in groups] == [
        [3, 10, 30],
        [3, 11, 31],
        [3, 0, 30],
        [3, 1, 31],
    ]


def test_a_triplet_is_real_generated_proto():
    record = Record(0, [1], [REAL, NEW, OLD, PROTO])
    assert examples_of([record], Objective("tspin")) == [
        Example(Group([1], [[3, 2], [4, 2], [6, 2]]), [-1.0, -2.0, -4.0]),
        Example(Group([1], [[3, 2], [5], [6, 2]]), [-1.0, -3.0, -4.0]),
    ]


def test_a_row_before_any_sample_gives_one_supervised_example():
    row = Record(0, [1], [Response("real", [3, 2], "stop")])
    (single,) = examples_of([row], sft_objective())
    assert single.group == Group([1], [[3, 2]])
    assert math.isnan(single.opponent_logps[0])


def test_the_control_sees_a_real_response_as_often_as_self_play_does():
    # Same rows, same steps: one supervised example for each pair, in the same order.
    records = [Record(0, [1], [REAL, NEW, OLD]), Record(1, [2], [REAL, NEW])]
    pairs = examples_of(records, Objective("spin"))
    control = examples_of(records, sft_objective())
    assert [row.group.prompt_ids for row in control] == [pair.group.prompt_ids for pair in pairs]
    assert [row.group.responses for row in control] == [pair.group.responses[:1] for pair in pairs]


def responses(role, most, *, least=0):
    ids = st.lists(st.integers(0, 9), min_size=1, max_size=4)
    logps = st.none() | st.floats(-9.0, 0.0)
    made = st.builds(
        Response,
        role=st.just(role),
        ids=ids,
        finish_reason=st.just("stop"),
        opponent_logps=logps,
    )
    return st.lists(made, min_size=least, max_size=most)


SCORED = st.lists(
    st.builds(
        lambda prompt, weight, *parts: Record(
            0, prompt, [r for part in parts for r in part], weight
        ),
        st.lists(st.integers(0, 9), min_size=1, max_size=4),
        st.floats(0, 4),
        responses("given", 1),
        responses("real", 1, least=1),
        responses("generated", 3),
        responses("proto", 2, least=1),
    ),
    max_size=8,
)


@given(records=SCORED, algorithm=st.sampled_from(["sft", "spin", "tspin"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_examples_of_columns_are_those_of_the_list_and_so_are_their_tokens(
    tmp_path, records, algorithm
):
    write_records(tmp_path / "records.parquet", records)
    lazy = examples_of(read_records(tmp_path / "records.parquet"), Objective(algorithm))
    made = examples_of(records, Objective(algorithm))
    assert repr(list(lazy)) == repr(made)  # nan is not equal to itself
    assert repr(lazy[::-1]) == repr(made[::-1])
    assert lazy.tokens == [example.group.tokens for example in made]
    with pytest.raises(IndexError):
        lazy[len(made)]
