import json
import os
import subprocess
import sys

import pytest

from spin_theory.__main__ import main

SMALL = ["--iterations", "2", "--responses", "3"]
PLAY, PHASE = ["play", *SMALL], ["phase", *SMALL, "--betas", "0.3", "1", "--games", "2"]


def lines_of(capsys):
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


@pytest.mark.parametrize(
    "flags",
    [
        ["--prompts", "3", "--seed", "7", "--smallest", "0.1"],
        ["--beta", "0.5", "2"],
        ["--loss-type", "exponential"],
        ["--solver", "minimiser"],
        ["--solver", "minimiser", "--loss-type", "hinge"],
        ["--solver", "gd", "--inner-steps", "3", "--learning-rate", "0.3"],
        ["--solver", "adam", "--loss-type", "hinge"],
        ["--solver", "rmsprop", "--loss-type", "correlation"],
        ["--solver", "gd", "--pairs", "5", "--prompts", "2"],
        ["--opponent", "mixed", "--earlier", "2"],
        ["--opponent", "geometric", "--base-weight", "0.25"],
        ["--opponent", "average"],
        ["--opponent", "moving", "--decay", "0.5"],
        ["--opponent", "mixed", "--solver", "minimiser", "--history-weight", "0.1"],
        ["--algorithm", "tspin"],
        ["--algorithm", "tspin", "--solver", "minimiser", "--history-weight", "0.1"],
        ["--algorithm", "tspin", "--solver", "gd", "--history-weight", "0.1", "--pairs", "9"],
        ["--algorithm", "tspin", "--solver", "minimiser", "--loss-type", "hinge"],
        ["--responses", "1"],
    ],
)
def test_every_game_that_makes_sense_is_played(flags, capsys):
    assert main([*PLAY, *flags]) == 0
    table = lines_of(capsys)
    history = "--history-weight" in flags and "tspin" not in flags
    assert len(table) == 2 + 3 + 1 + history  # head, rule, p_0 to p_2, how it ends
    assert main([*PLAY, *flags, "--json"]) == 0
    rows = json.loads("\n".join(lines_of(capsys)))
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert all(row["tv"] >= 0 for row in rows)


@pytest.mark.parametrize(
    "flags",
    [
        ["--inner-steps", "1", "exact"],
        ["--inner-steps", "0", "2", "--optimiser", "adam", "--learning-rate", "0.1"],
        ["--inner-steps", "1", "--optimiser", "rmsprop", "--loss-type", "hinge"],
        ["--inner-steps", "1", "--loss-type", "correlation"],
        ["--inner-steps", "exact", "--loss-type", "exponential", "--seed", "3"],
        ["--inner-steps", "1", "exact", "--opponent", "mixed", "--earlier", "2"],
        ["--inner-steps", "exact", "--opponent", "geometric", "--base-weight", "1"],
        ["--inner-steps", "exact", "--opponent", "average"],
        ["--inner-steps", "1", "exact", "--algorithm", "tspin"],
        ["--inner-steps", "2", "--algorithm", "tspin", "--history-weight", "0.1"],
        ["--inner-steps", "1", "exact", "--responses", "1"],
        ["--inner-steps", "exact", "--iterations", "400"],
    ],
)
def test_every_diagram_that_makes_sense_is_computed(flags, capsys):
    steps = flags[1 : next((k for k in range(1, len(flags)) if flags[k][:2] == "--"), None)]
    assert main([*PHASE, *flags]) == 0
    head, names, _, *rows = [line for line in lines_of(capsys) if not line.startswith("*")]
    assert head.startswith("log10")
    assert names.split()[-len(steps) :] == steps
    assert [row.split()[0] for row in rows] == ["0.3", "1"]
    assert main([*PHASE, *flags, "--json"]) == 0
    cells = json.loads("\n".join(lines_of(capsys)))
    expected = [None if step == "exact" else int(step) for step in steps]
    assert [(cell["beta"], cell["inner_steps"]) for cell in cells] == [
        (beta, step) for beta in (0.3, 1.0) for step in expected
    ]
    assert all(0 <= cell["diverged"] <= 1 for cell in cells)


def test_the_effective_beta_of_exact_play_is_the_beta(capsys):
    assert main([*PLAY, "--beta", "0.7", "--json"]) == 0
    rows = json.loads("\n".join(lines_of(capsys)))
    assert rows[0]["effective_beta"] is None
    assert [row["effective_beta"] for row in rows[1:]] == pytest.approx([0.7, 0.7])


DIVERGES = "the game diverges from the first iteration on: each iteration multiplies"


@pytest.mark.parametrize(
    ("flags", "end"),
    [
        ("--beta 0.5", "the game is a cycle of 2: each iteration multiplies the log-ratio"),
        ("--beta 1", "the game reaches the data in one iteration (multiplier 0)"),
        ("--beta 5", "the game approaches the data: each iteration multiplies the log-ratio"),
        ("--beta 0.1 --iterations 40", DIVERGES),
        ("--beta 0.1 --solver minimiser --iterations 2", DIVERGES),
        ("--beta 1e10", "the game approaches the data: each iteration multiplies the log-ratio"),
        ("--beta 0.5 --loss-type exponential", "the game reaches the data in one iteration"),
        ("--algorithm tspin", "the game is a cycle of 2"),
        ("--algorithm tspin --beta 2", "the game approaches p_data^(1/3), normalised"),
        ("--algorithm tspin --beta 0.9", DIVERGES),
        ("--opponent geometric --beta 2", "the game approaches p_data (p_0/p_data)^0.3333"),
        ("--smallest 1 --beta 0.1", "the game starts at the data"),
        ("--responses 1 --beta 0.1", "the only response has probability 1"),
        # nothing is proved of these: only what the iterates show
        ("--history-weight 1 --solver minimiser", "KL from the data has grown since iteration 2"),
        ("--solver gd --inner-steps 1 --learning-rate 1e-9 --beta 0.1", "TV from the data has"),
        ("--solver gd --learning-rate 1e-30", "no iterate moved but for rounding"),
        ("--beta 0.5 0.5 2", "no end is in sight"),
        ("--opponent average --beta 3", "TV from the data has fallen since iteration"),
        ("--opponent mixed --beta 0.1", "KL from the data has grown since"),
        (
            "--loss-type hinge --solver minimiser --iterations 30",
            "the last iterates repeat every 2",
        ),
        ("--algorithm tspin --history-weight 0.1 --solver minimiser --beta 0.7", "no end is in"),
    ],
)
def test_how_a_game_ends_is_proved_or_only_what_the_iterates_show(flags, end, capsys):
    flags = flags.split()
    betas = flags[1:4] if flags[:2] == ["--beta", "0.5"] and flags[2:3] == ["0.5"] else []
    iterations = [] if "--iterations" in flags else ["--iterations", str(len(betas) or 10)]
    assert main(["play", *flags, *iterations]) == 0
    lines = lines_of(capsys)
    history = "--history-weight" in flags and "tspin" not in flags
    assert lines[-1 - history].startswith(end)


def test_a_game_that_outgrows_float64_prints_what_it_has_and_why_it_stopped(capsys):
    flags = ["play", "--beta", "0.1", "--iterations", "400"]
    assert main(flags) == 0
    lines = lines_of(capsys)
    assert lines[-1].startswith(DIVERGES)
    assert lines[-1].endswith("it stopped: p_323 cannot be computed: its log-probs outgrow float64")
    assert [line.split()[0] for line in lines[2:-1]] == [str(k) for k in range(323)]
    assert all(line.split()[2] == "0.1" for line in lines[3:-1])  # the effective beta
    assert main([*flags, "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)) == 323
    assert (
        captured.err
        == "spin-theory play: p_323 cannot be computed: its log-probs outgrow float64\n"
    )


@pytest.mark.parametrize(
    ("weight", "says"),
    [("1", "rests nowhere"), ("1e-4", "rests at (p_data - w p_0) / (1 - w), TV")],
)
def test_a_history_weight_in_spin_says_what_game_that_is(weight, says, capsys):
    assert main([*PLAY, "--history-weight", weight, "--solver", "minimiser"]) == 0
    assert f"SPIN pushed away from p_0: it {says}" in lines_of(capsys)[-1]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (AssertionError("no factor"), 70, "this is our fault, please report it: AssertionError"),
        (ZeroDivisionError("one\ntwo"), 70, "please report it: ZeroDivisionError: one ("),
        (MemoryError(), 2, "there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "not enough memory"),
        (ValueError("beta must be ..."), 2, "beta must be"),
        (OSError("no space"), 2, "no space"),
    ],
)
def test_a_crash_is_one_line_and_never_the_exit_code_of_a_claim(
    error, code, says, monkeypatch, capsys
):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("spin_theory.__main__.play", broken)
    assert main(PLAY) == code
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("spin-theory play: ")
    assert says in line


@pytest.mark.parametrize("command", [PLAY, [*PHASE, "--inner-steps", "1", "exact"]])
@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_plot_writes_a_figure(command, suffix, magic, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"figure.{suffix}"
    assert main([*command, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(magic)
    assert lines_of(capsys)


def run(flags, *, stdout, unbuffered=False):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    if unbuffered:
        environment["PYTHONUNBUFFERED"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "spin_theory", *flags],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )


@pytest.mark.process
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_pipe_that_is_closed_early_gives_no_traceback(unbuffered):
    # what `| head` leaves; buffered, all was written by the interpreter as it ended: exit 120
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = run([*PLAY, "--json"], stdout=writer, unbuffered=unbuffered)
    finally:
        os.close(writer)
    assert ran.stderr == ""
    assert ran.returncode == 141


@pytest.mark.process
def test_the_module_is_a_command_that_exits_as_main_does():
    ran = run([*PLAY, "--json"], stdout=subprocess.PIPE)
    assert ran.returncode == 0
    assert len(json.loads(ran.stdout)) == 3
    ran = run(["phase", "--betas", "-1", "--games", "1"], stdout=subprocess.PIPE)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1


def test_momentum_reaches_both_commands(capsys):
    printed = []
    for command in (["play", "--solver"], ["phase", "--inner-steps", "3", "--optimiser"]):
        for momentum in ("0.1", "0.9"):
            assert main([*command, "momentum", "--momentum", momentum, "--iterations", "2"]) == 0
            printed.append(capsys.readouterr().out)
    assert printed[0] != printed[1]
    assert printed[2] != printed[3]
