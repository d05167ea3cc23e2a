import json
import math

import pytest
import torch

from spin_theory import closed_form_update
from spin_theory.__main__ import main
from spin_theory.claims.instances import random_instance
from spin_theory.claims.table import CASES
from spin_theory.claims.verification import verify
from tests.strategies import QUICK


def wrong_update(opponent, data, *, beta, loss_type="logistic"):
    return closed_form_update(opponent, data, beta=2 * beta, loss_type=loss_type)


def test_all_claims_hold_on_random_instances():
    instances = 1 if QUICK else 8
    claims = verify(seeds=range(instances))
    assert [claim.name for claim in claims] == list(CASES)
    for claim in claims:
        assert claim.holds, claim
        assert claim.instances == instances
        assert claim.worst_residual <= claim.tolerance


def test_a_wrong_update_fails_the_claims_about_it_and_no_others():
    claims = verify(seeds=[1], update=wrong_update)
    failed = {claim.name for claim in claims if not claim.holds}
    assert failed == {"5.4 closed form, logistic", "closed form, exponential"}


def test_instances_span_the_domain():
    instances = [random_instance(seed).instance for seed in range(300)]
    sizes = [instance.responses for instance in instances]
    assert min(sizes) == 2
    assert max(sizes) == 256
    assert sizes.count(256) >= 10
    assert min(instance.beta for instance in instances) < 0.12
    assert max(instance.beta for instance in instances) > 8
    assert min(instance.smallest for instance in instances) < 1e-12


@pytest.mark.process
def test_worker_processes_find_what_one_process_finds():
    assert verify(seeds=range(5), jobs=2) == verify(seeds=range(5))


def test_verify_without_seeds_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        verify(seeds=[])


@pytest.mark.process
def test_the_verify_command_prints_a_table_and_returns_zero(capsys):
    assert main(["verify", "--instances", "2", "--seed", "7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["claim", "instances"]
    assert len(lines) == 2 + len(CASES)
    assert all("holds" in line and "seed" in line for line in lines[2:])


def test_the_verify_command_returns_one_when_a_claim_fails(capsys, monkeypatch):
    monkeypatch.setattr(
        "spin_theory.__main__.verify",
        lambda **rules: verify(**rules, update=wrong_update),
    )
    assert main(["verify", "--instances", "1", "--json", "--claims", "5.[24]*"]) == 1
    claims = {claim["name"]: claim for claim in json.loads(capsys.readouterr().out)}
    assert claims["5.4 closed form, logistic"]["holds"] is False
    assert claims["5.2 necessity, hinge"]["holds"] is True


@pytest.mark.process
def test_the_hardest_instance_is_repeated_by_its_seed(capsys):
    main(["verify", "--instances", "3", "--json"])
    claim = json.loads(capsys.readouterr().out)[-1]
    main(["verify", "--instances", "1", "--seed", str(claim["hardest"]["seed"]), "--json"])
    again = json.loads(capsys.readouterr().out)[-1]
    assert again["hardest"] == claim["hardest"]
    assert again["worst_residual"] == claim["worst_residual"]


def test_the_play_command_prints_one_line_per_iterate(capsys):
    assert main(["play", "--beta", "0.1", "0.1", "5", "--iterations", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["0", "-"],
        ["1", "0.1"],
        ["2", "0.1"],
        ["3", "5"],
    ]
    assert lines[6].startswith("no end is in sight;")


def test_the_play_command_draws(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "game.png"
    assert main(["play", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flags",
    [
        ["play", "--iterations", "0"],
        ["play", "--beta", "x"],
        ["verify", "--instances", "-1"],
        ["verify", "--seed", "1.5"],
        ["nothing"],
        [],
    ],
)
def test_flags_that_do_not_parse_exit_with_two_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["play", "--beta", "1", "2"],
        ["play", "--beta", "-1"],
        ["play", "--beta", "nan"],
        ["play", "--smallest", "2"],
        ["play", "--plot", "/nowhere/at/all.png"],
        ["play", "--plot", "game.nothing"],
    ],
)
def test_values_that_make_no_game_exit_with_two_and_one_line(flags, capsys):
    assert main(flags) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_a_residual_that_is_nan_fails_its_claim(monkeypatch):
    monkeypatch.setattr(
        "spin_theory.claims.objective.optimality_gap", lambda *_, **__: torch.tensor(math.nan)
    )
    names = ["least value, logistic", "5.2 necessity, logistic"]
    broken, whole = verify(seeds=range(2), names=names)
    assert not broken.holds
    assert broken.failures == 2
    assert broken.worst_residual == math.inf
    assert whole.holds


def test_verify_with_no_worker_is_refused():
    with pytest.raises(ValueError, match="jobs must be >= 1"):
        verify(seeds=range(1), jobs=0)


def test_claims_are_checked_by_pattern(capsys):
    assert main(["verify", "--instances", "1", "--jobs", "1", "--claims", "5.4*", "*hinge"]) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert names == [name for name in CASES if name.startswith("5.4") or name.endswith("hinge")]


def test_claims_are_listed_by_pattern(capsys):
    assert main(["verify", "--list", "--json", "--claims", "likelihood*"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        "likelihood rises, beta >= 1"
    ]


@pytest.mark.parametrize("more", [[], ["--list"]])
def test_a_pattern_that_names_no_claim_exits_with_two_and_says_what_there_is(more, capsys):
    assert main(["verify", "--claims", "5.2*", "6.1*", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no claim is named '6.1*'" in line
    assert all(name in line for name in CASES)
