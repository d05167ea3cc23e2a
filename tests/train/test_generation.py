import pytest
import torch
from transformers import GenerationConfig

from spin_train.generation import sample_responses, seed_of
from spin_train.logps import Group, response_logps
from spin_train.models import load_model
from tests.train.models import ARCHITECTURES, VOCABULARY, constant_model, tiny_model

STOP = 2


def sample(model, prompts, **changes):
    settings = {
        "stop_id": STOP,
        "max_new_tokens": 6,
        "temperature": 1.0,
        "seed": 5,
        "role": "generated",
        "iteration": 3,
    }
    return sample_responses(model, prompts, **(settings | changes))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_with_the_probabilities_of_the_model(temperature):
    # 200 tokens, so that a top-k of 50 or a top-p would show as tokens that never come.
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(200, generator=generator).square()
    probs = probs / probs.sum()
    count = 20_000
    model = constant_model(probs.tolist())
    responses = sample(model, [[1]] * count, max_new_tokens=1, temperature=temperature)
    seen = torch.bincount(torch.tensor([response.ids[0] for response in responses]), minlength=200)
    expected = probs.pow(1 / temperature)
    expected = expected / expected.sum()
    sigma = (count * expected * (1 - expected)).sqrt()
    # Five standard deviations, and one more count where less than one is expected.
    assert ((seen - count * expected).abs() <= 5 * sigma + 1).all()


def test_settings_that_came_with_the_model_are_ignored(tmp_path):
    plain = tiny_model("llama", torch.float32)
    prompts = [[3, 4], [5], [6, 7, 8]]
    expected = sample(plain, prompts)
    biased = tiny_model("llama", torch.float32)
    biased.generation_config = GenerationConfig(
        do_sample=True,
        top_k=1,
        top_p=0.5,
        min_p=0.2,
        temperature=0.1,
        eos_token_id=[4, 5, 6],
        repetition_penalty=5.0,
        suppress_tokens=[7, 8, 9, 10],
        min_new_tokens=4,
        no_repeat_ngram_size=1,
    )
    biased.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32")
    assert loaded.generation_config.top_k == 1
    assert sample(loaded, prompts) == expected


def stopping(probability):
    """Ends after any token with this probability; else says token 4."""
    probs = [0.0] * 8
    probs[STOP], probs[4] = probability, 1 - probability
    return constant_model(probs)


def test_a_response_that_ends_has_its_end_token_once():
    (response,) = sample(stopping(1.0), [[1, 3]])
    assert (response.ids, response.finish_reason) == ([STOP], "stop")


def test_a_cut_response_gets_no_invented_end():
    (response,) = sample(stopping(0.0), [[1, 3]])
    assert (response.ids, response.finish_reason) == ([4] * 6, "length")


def test_each_response_of_a_batch_ends_for_itself():
    responses = sample(stopping(0.3), [[1, 3]] * 40)
    assert {response.finish_reason for response in responses} == {"stop", "length"}
    for response in responses:
        stopped = response.finish_reason == "stop"
        body = response.ids[:-1] if stopped else response.ids
        assert STOP not in body
        assert (response.ids[-1] == STOP) == stopped
        assert stopped or len(response.ids) == 6


def test_a_prompt_may_hold_the_end_token():
    # As earlier turns of a chat do; the response is what comes after the prompt.
    (response,) = sample(stopping(0.0), [[1, STOP, 3, STOP]])
    assert response.ids == [4] * 6


def greedy(model, prompt, length):
    ids = list(prompt)
    while len(ids) < len(prompt) + length and ids[len(prompt) :][-1:] != [STOP]:
        ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_prompt_beside_longer_ones_is_continued_as_if_alone_and_in_its_place(architecture):
    # Nearly no temperature: samples are the most probable tokens, which a loop finds unpadded.
    model = tiny_model(architecture, torch.float32)
    prompts = [[3, 4, 5, 6, 7, 8, 9], [10], [11, STOP, 12], [13, 14]]
    responses = sample(model, prompts, temperature=1e-4)
    assert [response.ids for response in responses] == [greedy(model, p, 6) for p in prompts]


def test_the_same_seed_gives_the_same_samples_whatever_ran_before():
    model = tiny_model("llama", torch.float32)
    first = sample(model, [[3, 4], [5]])
    torch.rand(7)
    sample(model, [[9]], seed=6)
    assert sample(model, [[3, 4], [5]]) == first


def test_another_seed_gives_other_samples():
    model = tiny_model("gpt2", torch.float32)
    prompts = [[3, 4]] * 10
    assert sample(model, prompts, seed=1) != sample(model, prompts, seed=2)


def test_equal_prompts_of_a_batch_get_samples_of_their_own():
    uniform = constant_model([1 / VOCABULARY] * VOCABULARY)
    assert len({tuple(response.ids) for response in sample(uniform, [[3, 4]] * 10)}) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_sample_has_a_finite_log_prob_under_its_model(dtype):
    model = tiny_model("qwen2", dtype)
    prompts = [[3, 4, 5], [6]]
    groups = [
        Group(prompt, [response.ids])
        for prompt, response in zip(prompts, sample(model, prompts), strict=True)
    ]
    assert response_logps(model, groups).isfinite().all()


def test_role_and_iteration_are_noted():
    (response,) = sample(stopping(1.0), [[1]], role="proto", iteration=0)
    assert (response.role, response.iteration, response.opponent_logps) == ("proto", 0, None)


def test_a_seed_depends_on_every_part():
    parts = [(42, "generate", 0), (42, "generate", 1), (42, "order", 0), (43, "generate", 0)]
    assert len({seed_of(*part) for part in parts}) == len(parts)
    assert seed_of(1, 23) != seed_of(12, 3)


def test_a_seed_is_the_same_in_every_process():
    # Python's own hash of a string is not. By the shell, halved:
    # printf "(42, 'generate', 0)" | sha256sum | head -c 16
    assert seed_of(42, "generate", 0) == 0xA0C9C02B5EF30E41 // 2
