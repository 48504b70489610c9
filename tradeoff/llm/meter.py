"""Cost of training: time, tokens, floating-point operations and memory."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tradeoff.llm.models import below_adapters

# Dense bf16 tensor-core peaks of NVIDIA's data sheets, in FLOP/s, by a part of the device's name.
# The first match counts, so slower cards come before the name that they share.
PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
}


@dataclass(frozen=True)
class Costs:
    """Floating-point operations of a model, by the convention of arXiv 2204.02311, appendix B.

    Attributes
    ----------
    weights
        Number of weights that multiply every token: all matrices except embeddings.
    head
        Number of these that belong to the output layer, which multiply scored tokens only.
    layers, width
        Layers and width of the attention, whose cost grows with the square of the length. The width
        is that of all heads together.
    trained
        Whether gradients of these weights are computed: not with adapters, whose own cost is left
        out.
    """

    weights: int
    head: int
    layers: int
    width: int
    trained: bool

    @classmethod
    def of(cls, model: Any) -> Costs:
        """Read the sizes from a model of transformers, with or without adapters."""
        base = below_adapters(model)
        config = base.config.get_text_config()
        head = base.get_output_embeddings()
        looked_up = {id(m.weight) for m in base.modules() if isinstance(m, torch.nn.Embedding)}
        inner = sum(
            value.numel()
            for name, value in base.named_parameters()
            if value.ndim >= 2
            and "lora_" not in name
            and id(value) not in looked_up
            and value is not head.weight
        )
        size = head.weight.numel()
        heads = getattr(config, "num_attention_heads", 0)
        each = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        return cls(
            weights=inner + size,
            head=size,
            layers=config.num_hidden_layers,
            width=heads * each,
            trained=any(p.requires_grad for p in base.parameters() if p.ndim >= 2)
            and not hasattr(model, "get_base_model"),
        )

    def forward(self, lengths: list[int], scored: int) -> float:
        """FLOPs of one forward pass over sequences of these lengths.

        Parameters
        ----------
        lengths
            Tokens of each sequence; attention is causal, so half of the square counts.
        scored
            Number of tokens that reach the output layer.
        """
        tokens, squares = sum(lengths), sum(n * n for n in lengths)
        inner = 2.0 * (self.weights - self.head) * tokens
        return inner + 2.0 * self.head * scored + 2.0 * self.layers * self.width * squares

    @property
    def passes(self) -> float:
        """Cost of a forward and backward pass in forward passes: three, or two if frozen."""
        return 3.0 if self.trained else 2.0

    def update(self, lengths: list[int], scored: int) -> float:
        """FLOPs of a forward and backward pass."""
        return self.passes * self.forward(lengths, scored)


class Meter:
    """Meter of the cost of training; reading it waits for the device once.

    Parameters
    ----------
    device
        Device of this process.
    processes
        Number of processes that share the work, each with a device like this one.

    Attributes
    ----------
    seconds, tokens, flops
        Cost of training, over all processes, without evaluations. Probes of MAXRIGHT take time and
        operations, but their tokens do not count, as they give no gradient.
    """

    def __init__(self, device: torch.device, processes: int = 1) -> None:
        self.device, self.processes = device, processes
        self.seconds = 0.0
        self.tokens = 0
        self.flops = 0.0
        self._since: float | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def start(self) -> None:
        """Start the clock, unless it is already running."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Wait for the device and stop the clock."""
        if self._since is not None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def add(self, tokens: int, flops: float) -> None:
        """Add work of all processes."""
        self.tokens += tokens
        self.flops += flops

    def speed(self) -> dict[str, float]:
        """Mean speed so far, over all processes, and peak memory of this process."""
        found = {"tokens_per_second": self.tokens / max(self.seconds, 1e-12)}
        if (share := self.utilisation()) is not None:
            found["model_flops_utilisation"] = share
        return found | {"peak_memory_bytes": float(self.peak_memory())}

    def summary(self) -> dict[str, Any]:
        """Cost of the whole run."""
        return {**self.state(), **self.speed()}

    def state(self) -> dict[str, float]:
        """State for a checkpoint."""
        return {"seconds": self.seconds, "tokens": self.tokens, "flops": self.flops}

    def set_state(self, found: dict[str, float]) -> None:
        """Restore :meth:`state`."""
        self.seconds, self.flops = found["seconds"], found["flops"]
        self.tokens = int(found["tokens"])

    def peak_memory(self) -> int:
        """Peak memory in bytes: of tensors on a CUDA device, otherwise of the whole process."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return resident_peak()

    def utilisation(self) -> float | None:
        """Share of the devices' bf16 peak that training reached; None if unknown."""
        peak = peak_flops(self.device)
        if peak is None or not self.seconds:
            return None
        return self.flops / self.seconds / peak / self.processes


def peak_flops(device: torch.device) -> float | None:
    """Peak bf16 operations per second of a CUDA device, by its data sheet; None if unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def resident_peak() -> int:
    """Peak resident memory of this process, in bytes.

    On Linux `getrusage` may give a new process the peak of its parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(peak.split()[1])
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found
