"""Where vLLM declares the arguments of its engine; read, never imported."""

from dataclasses import dataclass


@dataclass
class EngineArgs:
    """Some of them."""

    model: str
    max_num_seqs: int | None = None
    enable_chunked_prefill: bool | None = None
