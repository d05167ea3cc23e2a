"""Whether DeepSpeed takes the settings under `deepspeed`, asked before anything is loaded.

DeepSpeed reads its settings by name and leaves what it does not know aside in silence, so a
misspelt key would be believed. Here it reads them from mappings that note which names it asks for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from spin_train.config.engine import engine_settings
from spin_train.config.schema import Config
from spin_train.errors import UserError, one_line
from spin_train.system.processes import cpu_only
from spin_train.system.surroundings import (
    home_variables,
    interpreter_variables,
    without_launchers,
)

__all__ = ["Noting", "refuse_unknown_settings", "settings_problem"]

_ANSWER = "spin_train: "


class Noting(dict[str, Any]):
    """A mapping that notes the names it is asked for, and so do the mappings in it."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__({k: Noting(v) if isinstance(v, dict) else v for k, v in values.items()})
        self.asked: set[object] = set()

    def __getitem__(self, name: str) -> Any:
        """Value of a name."""
        self.asked.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        """Names; with this, a mapping that is taken as `**arguments` is asked for each of them."""
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a name, or the default."""
        self.asked.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name."""
        self.asked.add(name)
        return super().__contains__(name)

    def unread(self) -> list[str]:
        """Dotted names that nobody has asked for, where names of that mapping were asked for.

        Examples
        --------
        >>> noting = Noting({"read": {"known": 1, "unknown": 2}, "passed on": {"any": 3}})
        >>> noting["read"]["known"], noting["passed on"]
        (1, {'any': 3})
        >>> noting.unread()
        ['read.unknown']
        """
        if not self.asked:
            return []
        found = []
        for name in self:
            value = dict.__getitem__(self, name)
            if name not in self.asked:
                found.append(name)
            elif isinstance(value, Noting):
                found += [f"{name}.{inner}" for inner in value.unread()]
        return found


def settings_problem(settings: dict[str, Any]) -> str | None:
    """Say what DeepSpeed does not take in its settings, or None."""
    from deepspeed import __version__
    from deepspeed.runtime.config import DeepSpeedConfig

    noting = Noting(settings)
    try:
        DeepSpeedConfig(noting)
    except Exception as error:  # of any type, from wherever a value is used first
        return f"DeepSpeed {__version__} refuses it: {one_line(error, 300)}"
    if unread := noting.unread():
        return f"DeepSpeed {__version__} has no {unread[0]}: correct or remove it"
    return None


def refuse_unknown_settings(config: Config) -> None:
    """Raise UserError if DeepSpeed would refuse or overlook anything under `deepspeed`."""
    if not config.deepspeed:
        return
    settings = engine_settings(
        config.zero_stage,
        dtype=config.training.dtype,
        offload=config.offload.model_dump(),
        further=config.deepspeed,
    )
    # What "auto" stands for follows later, from the run.
    settings |= {"train_batch_size": 1, "bf16": {**settings["bf16"], "enabled": False}}
    settings = {name: value for name, value in settings.items() if value != "auto"}
    asked = subprocess.run(  # not here: importing DeepSpeed changes the process
        [sys.executable, "-P", "-m", __name__],
        input=json.dumps(settings),
        env={
            **without_launchers(os.environ),
            **home_variables(),
            **interpreter_variables(os.environ),
            **({"DS_ACCELERATOR": "cpu"} if cpu_only() else {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line for line in asked.stdout.splitlines() if line.startswith(_ANSWER)]
    if asked.returncode != 0 or not answers:
        lines = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise UserError(f"deepspeed: DeepSpeed cannot be asked about it: {lines[-1]}")
    if problem := json.loads(answers[-1].removeprefix(_ANSWER)):
        raise UserError(f"deepspeed: {problem}")


if __name__ == "__main__":
    sys.stdout.write(_ANSWER + json.dumps(settings_problem(json.load(sys.stdin))) + "\n")
