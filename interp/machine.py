"""How fast a machine is, measured in about two seconds on a few random layers, or assumed of an accelerator by name."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from interp.loads import Architecture, Load

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

AcceleratorName = Literal["a100", "h100", "h200"]
HOST_SECONDS = 1e-4
"""Packing trees, writing masks and records: seconds of Python a token, measured on two cores of an EPYC server."""
CELL_SECONDS = 1.5e-8
"""Rollout's product: seconds for each layer and pair of tokens, on the processor, measured likewise."""
SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.35, 0.7
"""What of its peak an accelerator is assumed to reach in a full batch, and of its bandwidth in a small one."""
LAUNCH_SECONDS = 8e-4
"""What the kernels of one layer are assumed to take to launch from Python, however few tokens they are for."""
PROBED = 32
"""Tokens of the opening, and layers' worth of trees, in what is timed."""
LEAST_BYTES = 1 << 27
"""Weights timed are at least so many bytes, more than a processor's cache: few layers would stay in it."""
SCORE_BYTES = 40
"""What an eager pass moves for one score: mask, softmax in float32, mean over heads and checks of it."""
MOST_VOCABULARY = 8192
"""Of a larger vocabulary so many tokens are timed, since the head's cost grows with it in a straight line."""


@dataclass(frozen=True)
class Accelerator:
    """What a data sheet says."""

    flops: float
    """Peak of dense bfloat16, FLOP/s."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes/s of its memory."""


ACCELERATORS: dict[AcceleratorName, Accelerator] = {
    "a100": Accelerator(312e12, 80e9, 2.04e12),
    "h100": Accelerator(989e12, 80e9, 3.35e12),
    "h200": Accelerator(989e12, 141e9, 4.8e12),
}


@dataclass(frozen=True)
class Machine:
    """What a run of one architecture meets with."""

    name: str
    """What it is, and whether it was measured."""
    itemsize: int
    """Bytes of a number."""
    pass_seconds: float
    """What a pass takes however few its tokens: reading all weights, or launching all kernels."""
    forward: float
    """FLOP/s of the layers in a full forward pass."""
    backward: float
    """FLOP/s of the gradient."""
    head: float
    """FLOP/s of the logits, with their sum over the vocabulary."""
    score: float
    """Seconds of an eager pass for one attention score beyond its FLOPs."""
    memory: int | float | None = None
    """Bytes of the accelerator; None: main memory."""

    def seconds(self, load: Load, of: Architecture) -> int | float:
        """How long the passes of a load take, with the packing before and the bookkeeping after them."""
        forward, backward = load.flops(of)
        head = 2 * of.hidden * of.vocabulary * load.reads
        compute = (forward - head) / self.forward + head / self.head + backward / self.backward
        latency = load.passes * self.pass_seconds * (1 + load.backward)
        cells = load.tokens * load.context * of.layers if load.eager else 0
        return latency + compute + load.tokens * HOST_SECONDS + cells * (of.heads * self.score + CELL_SECONDS)


def named(name: AcceleratorName, of: Architecture) -> Machine:
    """An accelerator that is not here, in bfloat16."""
    told = ACCELERATORS[name]
    rate = SHARE_OF_PEAK * told.flops
    weights = 2 * of.parameters / (SHARE_OF_BANDWIDTH * told.bandwidth)
    return Machine(
        f"{name}, {SHARE_OF_PEAK:.0%} of its peak of {told.flops / 1e12:.0f} TFLOP/s assumed, nothing measured",
        itemsize=2,
        pass_seconds=max(weights, of.layers * LAUNCH_SECONDS),
        forward=rate,
        backward=rate,
        head=rate,
        score=SCORE_BYTES / (SHARE_OF_BANDWIDTH * told.bandwidth),
        memory=told.memory,
    )


def least_seconds(body: Callable[[], object], device: "torch.device", *, most: float = 0.4) -> int | float:
    """The shortest of a few repetitions, as many as take `most` seconds together, the first one if it takes longer."""
    spent: list[float] = []
    while len(spent) < 2 or (sum(spent) < most and len(spent) < 8):
        begun = time.perf_counter()
        body()
        if device.type != "cpu":
            getattr(__import__("torch"), device.type).synchronize()
        spent.append(time.perf_counter() - begun)
        if spent[0] > most:
            break
    return min(spent)


def calibrated(config: "PretrainedConfig", of: Architecture, *, device: str, dtype: str) -> Machine:
    """This machine, by the engine itself on a few layers of random weights: so a model need not be here, nor fit.

    Timed are a pass of few tokens, one of many, one with its gradient, and the head: what the first two differ by is
    compute, and what is then left of the first is what every pass costs."""
    import torch
    from transformers import AutoModelForCausalLM

    from interp.checkpoints import device_named
    from interp.prefix import SharedPrefix, TokenTree

    where = device_named(device)
    kind = getattr(torch, {"auto": "bfloat16" if where.startswith("cuda") else "float32"}.get(dtype, dtype))
    layers = min(of.layers, -(-LEAST_BYTES * of.layers // (of.matrices * kind.itemsize)))
    few = shortened(config, layers=layers, vocabulary=min(of.vocabulary, MOST_VOCABULARY))
    model = AutoModelForCausalLM.from_config(few, dtype=kind).to(where).eval().requires_grad_(False)
    prefix = SharedPrefix(model, range(PROBED))
    deeper, place = of.layers / layers, model.device

    def timed(tokens: int, trees: int, *, gradient: bool = False) -> tuple[float, int | float, int | float]:
        """Seconds, forward and backward FLOPs of one pass, for as many layers as the architecture has."""
        tree = TokenTree()
        last = tree.insert([i % few.vocab_size for i in range(tokens)])[-1:]

        def forward() -> None:
            list(prefix.logits(PROBED, [tree] * trees, [last] * trees))

        def back() -> None:
            fed = prefix.embedded(tree.tokens).expand(trees, -1, -1).clone().requires_grad_()
            prefix.path_logits(PROBED, tree, last, fed).total.sum().backward()

        told = Load(1, trees * tokens, PROBED + tokens, 0, trees * tokens, backward=float(gradient))
        return (least_seconds(back if gradient else forward, place) * deeper, *told.flops(of))

    few_tokens, trees = timed(4, 1), 1
    many = timed(256, trees)
    if many[0] / deeper < 0.05:  # a pass of many tokens is one of more
        trees = 8
        many = timed(256, trees)
    both = timed(128, trees, gradient=True)
    forward = (many[1] - few_tokens[1]) / max(many[0] - few_tokens[0], many[0] / 10)
    pass_seconds = max(few_tokens[0] - few_tokens[1] / forward, few_tokens[0] / 10)
    back_seconds = max(both[0] - 2 * pass_seconds - both[1] / forward, both[0] / 10)
    states = torch.randn(64, of.hidden, device=place, dtype=kind)
    table = model.get_output_embeddings().weight
    head = least_seconds(lambda: (states @ table.T).float().logsumexp(-1), place)
    scores = torch.randn(1, of.heads, 1024, 1024, device=place, dtype=kind)
    eager = least_seconds(lambda: (scores + scores).softmax(-1, dtype=torch.float32).to(kind).float().mean(1), place)
    return Machine(
        f"{place.type}, {str(kind).removeprefix('torch.')}, measured on {layers} of {of.layers} layers",
        kind.itemsize,
        pass_seconds,
        forward,
        min(both[2] / back_seconds, forward),  # faster by noise only
        2 * 64 * table.shape[0] * of.hidden / head,
        eager / scores.numel(),
        torch.cuda.get_device_properties(place).total_memory if place.type == "cuda" else None,
    )


def shortened(config: "PretrainedConfig", *, layers: int, vocabulary: int) -> "PretrainedConfig":
    """The same layers, fewer of them, over a smaller vocabulary."""
    few = copy.deepcopy(config)
    few.num_hidden_layers, few.vocab_size = layers, vocabulary
    if getattr(few, "layer_types", None):
        few.layer_types = few.layer_types[:layers]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(few, name, 0)
    return few
