import importlib.metadata

import pytest

from spin_theory.__main__ import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # negative betas and nan came back as a diagram
        (["phase", "--games", "2", "--betas", "-1", "--inner-steps", "1"], "beta must be finite"),
        (["phase", "--games", "2", "--betas", "nan", "--inner-steps", "1"], "beta must be finite"),
        (["phase", "--games", "2", "--history-weight", "nan"], "history_weight must be finite"),
        (["phase", "--games", "2", "--history-weight", "0.1"], "--inner-steps without exact"),
        (["phase", "--games", "2", "--loss-type", "hinge"], "--inner-steps without exact"),
        (["phase", "--games", "2", "--loss-type", "correlation"], "no closed form"),
        (["phase", "--games", "2", "--learning-rate", "0"], "learning_rate must be finite and > 0"),
        (["phase", "--games", "2", "--smallest", "0"], "smallest must be"),
        (["phase", "--games", "100000000", "--responses", "2"], "at most 100000000 cells"),
        (["phase", "--plot", "figure.nothing"], "must end in one of"),
        (["phase", "--algorithm", "tspin", "--opponent", "mixed"], "--opponent last"),
        (["play", "--algorithm", "tspin", "--opponent", "average"], "--opponent last"),
        (["play", "--pairs", "5"], "--pairs needs --solver"),
        (["play", "--pairs", "5", "--solver", "minimiser"], "--pairs needs --solver"),
        (["play", "--loss-type", "correlation"], "no closed form"),
        (["play", "--loss-type", "correlation", "--solver", "minimiser"], "no minimum"),
        (["play", "--history-weight", "0.1"], "no closed form; use --solver minimiser"),
        (["play", "--loss-type", "hinge"], "no closed form; use --solver minimiser"),
        (["play", "--solver", "minimiser", "--history-weight", "-1"], "history_weight must be"),
        (["play", "--opponent", "geometric", "--base-weight", "2"], "base_weight must be"),
        (["play", "--opponent", "moving", "--decay", "1"], "decay must be in"),
        (["play", "--solver", "momentum", "--momentum", "1"], "momentum must be in"),
        (["phase", "--optimiser", "momentum", "--momentum", "1"], "momentum must be in"),
        (["play", "--solver", "gd", "--learning-rate", "nan"], "learning_rate must be"),
        (["play", "--solver", "gd", "--learning-rate", "inf"], "learning_rate must be finite"),
        (["play", "--responses", "200000", "--solver", "minimiser"], "GB of memory"),
        (["play", "--solver", "gd", "--pairs", "100000000000000"], "GB of memory"),
        (["play", "--responses", "20000000", "--solver", "gd", "--pairs", "9"], "at most 16777216"),
    ],
)
def test_flags_that_make_no_game_exit_with_two_and_one_line(flags, message, capsys):
    assert main(flags) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"spin-theory {flags[0]}: ")
    assert message in line
    assert captured.out == ""


@pytest.mark.parametrize(
    "flags",
    [
        ["play", "--solver", "newton"],
        ["play", "--opponent", "first"],
        ["play", "--algorithm", "dpo"],
        ["play", "--earlier", "0"],
        ["play", "--pairs", "0"],
        ["play", "--inner-steps", "exact"],
        ["phase", "--inner-steps", "-1"],
        ["phase", "--inner-steps", "many"],
        ["phase", "--inner-steps"],
        ["phase", "--betas"],
        ["phase", "--games", "0"],
        ["phase", "--solver", "gd"],
        ["phase", "--prompts", "2"],
        ["phase", "--optimiser", "sgd"],
        ["verify", "--jobs", "0"],
        ["verify", "--seed", "-1"],
        ["verify", "--plot", "figure.png"],
    ],
)
def test_flags_that_do_not_parse_exit_with_two_and_one_line(flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize("command", ["verify", "play", "phase"])
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["phase", "--inner-steps", "foo"], "must be an integer >= 0 or exact, got 'foo'"),
        (["play", "--inner-steps", "foo"], "must be an integer >= 1, got 'foo'"),
        (["play", "--seed", str(2**63)], f"must be at most 2^62, got {2**63}"),
    ],
)
def test_a_flag_that_is_no_integer_says_what_it_takes(flags, says, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    assert capsys.readouterr().err.endswith(f"{says}\n")


def test_help_shows_each_default_once_and_as_it_is_typed(capsys):
    with pytest.raises(SystemExit):
        main(["phase", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    flags = {flag.split()[0]: flag for flag in text.partition("options: ")[2].split(" --")[1:]}
    assert flags["inner-steps"].endswith("(default: 1 3 10 30 100 300 exact)")
    assert flags["betas"].endswith("(default: 0.1 0.2 0.3 0.5 0.7 1.0 2.0 5.0)")
    assert flags["optimiser"].endswith("(default: gd)")
    assert all(flag.count("default") <= 1 for flag in flags.values())
    assert "None" not in text


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"spin-theory {importlib.metadata.version('spin-toolkit')}"
    ]
