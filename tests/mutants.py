"""Break the loss path on purpose, one line at a time, and see which test notices.

``python -m tests.mutants`` edits a copy of the repository, never the working tree, and exits with 1
if a mutant survives the fast tests.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("spin_theory", "spin_train", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """One wrong line."""

    name: str
    path: str
    old: str
    new: str

    def apply(self, root):
        """Edit the copy at `root`; its unbroken source comes back."""
        path = root / self.path
        source = path.read_text(encoding="utf-8")
        count = source.count(self.old)
        if count != 1:
            raise AssertionError(f"{self.name}: {self.old!r} is {count} times in {self.path}")
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")
        return source


LOSSES = "spin_theory/losses.py"
LOGPS = "spin_train/logps.py"
PACKING = "spin_train/packing.py"
ATTENTION = "spin_train/attention.py"
HEAD = "spin_train/head.py"
OBJECTIVE = "spin_train/objective.py"
BATCHING = "spin_train/batching.py"
TRAINER = "spin_train/trainer.py"
DECODING = "spin_train/decoding.py"
GENERATION = "spin_train/generation.py"
EVALUATION = "spin_train/evaluation.py"
SELECTION = "spin_train/selection.py"
SHAPES = "spin_train/shapes.py"
METER = "spin_theory/meter.py"
INNER = "spin_theory/inner_problems.py"
NEWTON = "spin_theory/newton.py"
CERTIFICATES = "spin_theory/certificates.py"
CHAIN = "spin_theory/hinge.py"
OPPONENTS = "spin_theory/opponents.py"
SOLVERS = "spin_theory/solvers.py"
DYNAMICS = "spin_theory/dynamics.py"
STABILITY = "spin_theory/stability.py"
EVIDENCE = "spin_theory/evidence.py"
OF_OBJECTIVES = "spin_theory/objective_claims.py"
OF_GAMES = "spin_theory/game_claims.py"
OF_TSPIN = "spin_theory/tspin_claims.py"
FAMILIES = "spin_theory/families.py"
WITNESSES = "spin_theory/witnesses.py"
PHASE = "spin_theory/phase.py"
COMMANDS = "spin_theory/__main__.py"

TESTS = {
    LOSSES: ["tests/theory/test_losses.py", "tests/train/test_objective.py"],
    LOGPS: ["tests/train/test_logps.py"],
    PACKING: ["tests/train/test_packing.py", "tests/train/test_logps.py"],
    ATTENTION: ["tests/train/test_attention.py"],
    HEAD: ["tests/train/test_head.py", "tests/train/test_logps.py"],
    OBJECTIVE: ["tests/train/test_objective.py"],
    BATCHING: ["tests/train/test_batching.py"],
    TRAINER: ["tests/train/test_trainer.py"],
    DECODING: ["tests/train/test_hf_engine.py"],
    GENERATION: ["tests/train/test_generation.py"],
    EVALUATION: ["tests/train/test_evaluation.py"],
    SELECTION: ["tests/train/test_selection.py"],
    SHAPES: ["tests/train/test_rows.py", "tests/train/test_turns.py"],
    METER: ["tests/theory/test_meter.py"],
    INNER: ["tests/theory/test_inner_problems.py"],
    NEWTON: ["tests/theory/test_newton.py"],
    CERTIFICATES: ["tests/theory/test_certificates.py"],
    CHAIN: ["tests/theory/test_hinge.py"],
    OPPONENTS: ["tests/theory/test_opponents.py"],
    SOLVERS: ["tests/theory/test_solvers.py"],
    DYNAMICS: ["tests/theory/test_dynamics.py"],
    STABILITY: ["tests/theory/test_stability.py"],
    EVIDENCE: ["tests/theory/test_evidence.py"],
    OF_OBJECTIVES: ["tests/theory/test_objective_claims.py"],
    OF_GAMES: ["tests/theory/test_game_claims.py"],
    OF_TSPIN: ["tests/theory/test_tspin_claims.py"],
    FAMILIES: ["tests/theory/test_families.py"],
    WITNESSES: ["tests/theory/test_witnesses.py"],
    PHASE: ["tests/theory/test_phase.py"],
    COMMANDS: ["tests/theory/test_main.py"],
}

_MARGIN = "penalty(beta * (real_log_ratio - generated_log_ratio))"
_CURRENT = "current_advantage = policy_real_logps - policy_generated_logps"
_HISTORY = "historical_advantage = policy_generated_logps - policy_proto_logps"
_REAL = "real_log_ratio = policy_real_logps - opponent_real_logps"
_GENERATED = "generated_log_ratio = policy_generated_logps - opponent_generated_logps"
_OWN_OR_PROMPT = "(response[key] == response[query]) | (response[key] == group[key])"

MUTANTS = [
    Mutant(
        "margin: sign",
        LOSSES,
        _MARGIN,
        "penalty(beta * (generated_log_ratio - real_log_ratio))",
    ),
    Mutant(
        "margin: sum", LOSSES, _MARGIN, "penalty(beta * (real_log_ratio + generated_log_ratio))"
    ),
    Mutant("beta dropped", LOSSES, _MARGIN, "penalty(real_log_ratio - generated_log_ratio)"),
    Mutant("beta outside", LOSSES, _MARGIN, "beta * penalty(real_log_ratio - generated_log_ratio)"),
    Mutant(
        "logistic: argument",
        LOSSES,
        "-functional.logsigmoid(margin)",
        "-functional.logsigmoid(-margin)",
    ),
    Mutant(
        "logistic: value", LOSSES, "-functional.logsigmoid(margin)", "functional.logsigmoid(margin)"
    ),
    Mutant(
        "logistic: softplus",
        LOSSES,
        "-functional.logsigmoid(margin)",
        "functional.softplus(-margin)",
    ),
    Mutant(
        "hinge: slope",
        LOSSES,
        "torch.clamp(1 - margin, min=0)",
        "torch.clamp(1 - 2 * margin, min=0)",
    ),
    Mutant("hinge: place", LOSSES, "torch.clamp(1 - margin, min=0)", "torch.clamp(-margin, min=0)"),
    Mutant("exponential: sign", LOSSES, "torch.exp(-margin)", "torch.exp(margin)"),
    Mutant("correlation: constant", LOSSES, "return 1 - margin", "return -margin"),
    Mutant(
        "reference of real",
        LOSSES,
        _REAL,
        "real_log_ratio = policy_real_logps - opponent_generated_logps",
    ),
    Mutant(
        "reference of generated",
        LOSSES,
        _GENERATED,
        "generated_log_ratio = policy_generated_logps - opponent_real_logps",
    ),
    Mutant("no reference", LOSSES, _REAL, "real_log_ratio = policy_real_logps"),
    Mutant(
        "history: sign",
        LOSSES,
        _HISTORY,
        "historical_advantage = policy_proto_logps - policy_generated_logps",
    ),
    Mutant(
        "history: of real",
        LOSSES,
        _HISTORY,
        "historical_advantage = policy_real_logps - policy_proto_logps",
    ),
    Mutant("history: weight dropped", LOSSES, "history_weight * penalty(", "penalty("),
    Mutant(
        "history: beta dropped",
        LOSSES,
        "penalty(beta * historical_advantage)",
        "penalty(historical_advantage)",
    ),
    Mutant(
        "current: against proto",
        LOSSES,
        _CURRENT,
        "current_advantage = policy_real_logps - policy_proto_logps",
    ),
    Mutant(
        "current: beta dropped",
        LOSSES,
        "penalty(beta * current_advantage)",
        "penalty(current_advantage)",
    ),
    Mutant("sft: sign", LOSSES, "return -policy_real_logps", "return policy_real_logps"),
    Mutant("broadcasting", LOSSES, "if len(set(shapes.values())) > 1:", "if False:"),
    Mutant(
        "mean for sum",
        LOGPS,
        ".index_add(0, owners, token_logps.double())",
        ".index_add(0, owners, token_logps.double()) / owners.bincount()",
    ),
    Mutant("full logits: shift", LOGPS, "range(len(prompt) - 1, len(", "range(len(prompt), len("),
    Mutant("float32 for float64", LOGPS, "logits if logits.dtype == torch.float64 else ", ""),
    Mutant(
        "never checked", LOGPS, "if error <= tolerance and seen <= _BLIND_TOLERANCE:", "if True:"
    ),
    Mutant("blindness not checked", LOGPS, " and seen <= _BLIND_TOLERANCE", ""),
    Mutant("value not checked", LOGPS, "error <= tolerance and ", ""),
    Mutant("left in evaluation mode", LOGPS, "module.train(training)", "pass"),
    Mutant(
        "attention not put back",
        LOGPS,
        "if not (packed and torch.is_grad_enabled() and module.is_activation_checkpointing):",
        "if not packed:",
    ),
    Mutant(
        "attention put back before the second forward",
        LOGPS,
        "if not (packed and torch.is_grad_enabled() and module.is_activation_checkpointing):",
        "if True:",
    ),
    Mutant(
        "positions do not restart", PACKING, "range(s.before, s.keys)", "range(s.start, s.stop)"
    ),
    Mutant(
        "first token's predictor", PACKING, "last_of_prompt = place - 1", "last_of_prompt = place"
    ),
    Mutant(
        "responses see each other",
        PACKING,
        f"own_or_prompt = {_OWN_OR_PROMPT}",
        "own_or_prompt = True",
    ),
    Mutant("groups see each other", PACKING, "(group[query] == group[key]) & own", "own"),
    Mutant("window: one more", PACKING, "distance < window", "distance <= window"),
    Mutant("the future is seen", PACKING, "(distance >= 0)", "(distance >= -1)"),
    Mutant(
        "prompt unseen",
        ATTENTION,
        "    return blocks\n",
        "    return [_Block(b.start, b.stop, b.spans[-1:]) for b in blocks]\n",
    ),
    Mutant(
        "window: one more key",
        ATTENTION,
        "distance < window)\n    return",
        "distance <= window)\n    return",
    ),
    Mutant("scaling twice", ATTENTION, "alpha=scaling", "alpha=scaling * scaling"),
    Mutant("softcap without slope", ATTENTION, "of_scores *= slope", "pass"),
    Mutant("keys: gradient unscaled", ATTENTION, "of_keys.mul_(scaling)", "of_keys"),
    Mutant(
        "prompt's gradient of the last only",
        ATTENTION,
        "tokens[start:stop] += part",
        "tokens[start:stop] = part",
    ),
    Mutant("head: target's share", HEAD, "of_target * weight[targets[chunk]] - grad", "-grad"),
    Mutant(
        "head: cap without slope", HEAD, "probs if slope is None else probs.mul_(slope)", "probs"
    ),
    Mutant("head: scale of the gradient", HEAD, "* slope * scale  # (C, 1)", "* slope  # (C, 1)"),
    Mutant(
        "head: chunk kept for another",
        HEAD,
        "for start in reversed(starts):",
        "for start in starts:",
    ),
    Mutant("head: a chunk kept too many", HEAD, "keep=keep and start == starts[-1]", "keep=keep"),
    Mutant("head: two chunks alive", HEAD, "del probs  # before", "pass  # before"),
    Mutant(
        "head: underflow",
        HEAD,
        "(logit - largest + probs.amax(-1, keepdim=True).log())",
        "probs.gather(-1, chosen).log()",
    ),
    Mutant("head: bfloat16 sums", HEAD, "else logits.float()", "else logits"),
    Mutant("head: adapter's first chunk only", HEAD, "total += term", "total.copy_(term)"),
    Mutant(
        "SPIN: roles", OBJECTIVE, '"spin": ("real", "generated"),', '"spin": ("generated", "real"),'
    ),
    Mutant(
        "T-SPIN: roles",
        OBJECTIVE,
        '"tspin": ("real", "generated", "proto")',
        '"tspin": ("real", "proto", "generated")',
    ),
    Mutant(
        "SPIN: opponent for policy",
        OBJECTIVE,
        "opponent_real_logps=reference_logps[:, 0]",
        "opponent_real_logps=policy_logps[:, 0]",
    ),
    Mutant(
        "T-SPIN: proto's column",
        OBJECTIVE,
        "policy_proto_logps=scores[:, 2]",
        "policy_proto_logps=scores[:, 1]",
    ),
    Mutant(
        "T-SPIN_ref: no reference",
        OBJECTIVE,
        "policy_logps - reference_logps if",
        "policy_logps if",
    ),
    Mutant(
        "T-SPIN_ref: the opponent's",
        OBJECTIVE,
        '"tspin_ref": "reference"',
        '"tspin_ref": "opponent"',
    ),
    Mutant("control: scale dropped", OBJECTIVE, "return self.scale * sft_loss", "return sft_loss"),
    Mutant("control: slope dropped", OBJECTIVE, " * abs(slope.item())", ""),
    Mutant(
        "schedule: first value always",
        OBJECTIVE,
        'beta=config.at("beta", iteration)',
        'beta=config.at("beta", 0)',
    ),
    Mutant(
        "weight: ranks", BATCHING, "weight = self._ranks / len(batch)", "weight = 1 / len(batch)"
    ),
    Mutant(
        "weight: of the micro-batch",
        BATCHING,
        "weight = self._ranks / len(batch)",
        "weight = self._ranks / len(mine)",
    ),
    Mutant("weight: of fillers", BATCHING, "weight=0.0", "weight=1.0"),
    Mutant(
        "roles of an example",
        BATCHING,
        '{"real": real, "generated": sample}',
        '{"real": sample, "generated": real}',
    ),
    Mutant(
        "scores in another order",
        BATCHING,
        "[_number(response.opponent_logps) for response in responses]",
        "[_number(response.opponent_logps) for response in responses[::-1]]",
    ),
    Mutant("rows lost", BATCHING, "sorted([*heap, *full]", "sorted([*heap]"),
    Mutant("budget not kept", BATCHING, "count <= 1 or total <= tokens", "True"),
    Mutant(
        "shared out in order", BATCHING, "key=lambda i: (-self._tokens[i], i)", "key=lambda i: i"
    ),
    Mutant(
        "mean of the micro-batch",
        TRAINER,
        "batch.weight * losses.sum()",
        "batch.weight * losses.mean()",
    ),
    Mutant("weight not used", TRAINER, "batch.weight * losses.sum()", "losses.sum()"),
    Mutant(
        "scaled for accumulation twice",
        TRAINER,
        "loss_is_scaled_for_ga = True",
        "loss_is_scaled_for_ga = False",
    ),
    Mutant(
        "step-0 check: always passes",
        TRAINER,
        "if not bool((log_ratio <= constant + per_token * lengths).all()):",
        "if False:",
    ),
    Mutant(
        "step-0 check: one sign only",
        TRAINER,
        "(policy_logps - opponent_logps).abs()",
        "(policy_logps - opponent_logps)",
    ),
    Mutant(
        "inner: sampler for data",
        INNER,
        "scores, self.data.log_probs, self.sampler.log_probs",
        "scores, self.sampler.log_probs, self.data.log_probs",
    ),
    Mutant("inner: beta of the policy", INNER, "logits = scores / self.beta", "logits = scores"),
    Mutant(
        "inner: history's direction",
        INNER,
        "self.sampler.log_probs[:, :, None] + self.initial.log_probs[:, None, :]",
        "self.initial.log_probs[:, :, None] + self.sampler.log_probs[:, None, :]",
    ),
    Mutant("Newton: own pairs", NEWTON, "fill_(-math.inf)", "clone()"),
    Mutant("Newton: one step", NEWTON, "MAX_STEPS = 2000", "MAX_STEPS = 1"),
    Mutant(
        "certificate: no repair",
        CERTIFICATES,
        "        shift = (1 - share) * shift",
        "        share = 0.0\n        shift = (1 - share) * shift",
    ),
    Mutant(
        "certificate: correction's sign", CERTIFICATES, "if surplus > 0 else", "if surplus < 0 else"
    ),
    Mutant("certificate: branches forgotten", CERTIFICATES, "net[parent] += net[node]", "pass"),
    Mutant("certificate: one pass", CERTIFICATES, "PASSES = 3", "PASSES = 1"),
    Mutant("certificate: own pairs dropped", CERTIFICATES, " + at_zero,", ","),
    Mutant("bound: violation once", CHAIN, "- responses * violation", "- violation"),
    Mutant("bound: no violation", CHAIN, "- responses * violation", ""),
    Mutant(
        "mixing: wrong reference",
        OPPONENTS,
        "policies[-1 - earlier :]), reference=policies[-1])",
        "policies[-1 - earlier :]), reference=policies[0])",
    ),
    Mutant(
        "mixing: all iterates",
        OPPONENTS,
        "_average(policies[-1 - earlier :])",
        "_average(policies)",
    ),
    Mutant(
        "mixture: weights swapped",
        OPPONENTS,
        "(1 - base_weight) * last + base_weight * first",
        "(1 - base_weight) * first + base_weight * last",
    ),
    Mutant("steps: history dropped", SOLVERS, "if problem.history_weight > 0:", "if False:"),
    Mutant(
        "steps: proto of the data",
        SOLVERS,
        "(problem.data, problem.sampler, initial)",
        "(problem.data, problem.sampler, problem.data)",
    ),
    Mutant("game: first beta always", DYNAMICS, "beta=betas[iteration]", "beta=betas[0]"),
    Mutant(
        "game: history of the last iterate", DYNAMICS, "initial=start,", "initial=policies[-1],"
    ),
    Mutant(
        "game: steps from the start",
        DYNAMICS,
        "start=policies[-1], generator",
        "start=start, generator",
    ),
    Mutant(
        "linearised: reference forgotten",
        STABILITY,
        "step = carried.flatten(1) + moved_scores",
        "step = moved_scores",
    ),
    Mutant(
        "linearised: curvature one-sided", STABILITY, "curvature = curvature + curvature.T", "pass"
    ),
    Mutant(
        "effective beta: exponential's half",
        STABILITY,
        "(1 - multiplier(beta=1.0, loss_type=loss_type)) / share",
        "1 / share",
    ),
    Mutant("iterations: one early", STABILITY, "return last + 1", "return last"),
    Mutant(
        "evidence: nan passed over",
        EVIDENCE,
        "math.nan if any(map(math.isnan, found)) else max(found)",
        "max(found)",
    ),
    Mutant("meter: not checked", OF_OBJECTIVES, "            meter - of_pairs,\n", ""),
    Mutant(
        "existence: exponent",
        OF_GAMES,
        "(beta - 1) * math.log(opponent_ratio)",
        "beta * math.log(opponent_ratio)",
    ),
    Mutant(
        "Theorem 1: sign of history",
        OF_TSPIN,
        "current + history_weight * historical",
        "current - history_weight * historical",
    ),
    Mutant(
        "quantised: one half only",
        FAMILIES,
        "not (least(own / 2) < start <= least(2 * largest))",
        "not least(own / 2) < start",
    ),
    Mutant(
        "witnesses: the data's for any policy",
        WITNESSES,
        "(policy or data).log_probs",
        "data.log_probs",
    ),
    Mutant("draw: log-prob at the temperature", DECODING, "if temperature != 1.0:", "if False:"),
    Mutant(
        "draw: an id too far",
        DECODING,
        "uniforms[:, None] * total, right=True)",
        "uniforms[:, None] * total) + 1",
    ),
    Mutant(
        "parity: nan passes",
        GENERATION,
        "if not difference <= constant",
        "if difference > constant",
    ),
    Mutant(
        "one seed a prompt", GENERATION, "iteration, prompt_id, number)", "iteration, prompt_id, 0)"
    ),
    Mutant("KL: sign", EVALUATION, "[-value for value in", "[value for value in"),
    Mutant("patience: one more", SELECTION, "since >= patience", "since > patience"),
    Mutant("best: of equals the latest", SELECTION, "min(judged, key", "min(reversed(judged), key"),
    Mutant(
        "first turn: the last", SHAPES, "response=row.messages[first]", "response=row.messages[-1]"
    ),
    Mutant("meter: tuned on what it judges", METER, "_values(*halves[1]", "_values(*halves[0]"),
    Mutant("meter: level", METER, "-math.log1p(-confidence)", "math.log1p(confidence)"),
    Mutant("phase: refusals as diverged", PHASE, '"log_probs must be finite"', '"finite"'),
    Mutant("pipe: flushed too late", COMMANDS, "sys.stdout.flush()", "pass"),
]


def copy_repository(folder):
    """Copy what the tests need."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)


def run_tests(folder, tests):
    """Run tests in the copy; their exit code, and the first that failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),  # before an editable install of the working tree
        "PYTHONDONTWRITEBYTECODE": "1",  # an edit within a second must not meet old bytecode
        "HYPOTHESIS_PROFILE": "ci",
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^FAILED \S*::(\S+)", ran.stdout, re.MULTILINE)
    if ran.returncode not in (0, 1) or (ran.returncode == 1 and failed is None):
        raise AssertionError(f"the tests did not run:\n{ran.stdout}{ran.stderr}")
    return failed[1] if failed else None


def main():
    """Try every mutant; 1 if one survives."""
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        copy_repository(folder)
        for test in sorted({test for tests in TESTS.values() for test in tests}):
            killer = run_tests(folder, [test])
            if killer is not None:
                raise AssertionError(f"{killer} fails without any mutant")
        for mutant in MUTANTS:
            source = mutant.apply(folder)
            killer = run_tests(folder, TESTS[mutant.path])
            (folder / mutant.path).write_text(source, encoding="utf-8")
            survivors += killer is None
            print(f"{mutant.path:24} {mutant.name:30} {killer or 'SURVIVED'}", flush=True)
    print(f"{len(MUTANTS)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
