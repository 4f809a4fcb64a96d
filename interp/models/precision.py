"""Decides the precision in which a model runs: float32 wherever it fits, with products in full float32.

The module knows numbers of weights and bytes, not checkpoints."""

from typing import TYPE_CHECKING

from interp.errors import UserError

if TYPE_CHECKING:
    import torch

BYTES = 4
"""Bytes of a weight in float32."""
ROOM = 0.25
"""The memory that a run needs beside the weights, as a share of theirs: activations, keys and values, masks."""
LEAST_ROOM = 2 << 30
"""The least memory that a run needs beside the weights, in bytes (2 GiB)."""


def fits_in_float32(parameters: int, free: int) -> bool:
    """Whether a model with this many parameters, and a run on it, fit into `free` bytes in float32."""
    weights = BYTES * parameters
    return weights + max(ROOM * weights, LEAST_ROOM) <= free


def free_bytes(place: str, *, spread: bool = False) -> int | None:
    """The free memory of a GPU in bytes.

    Args:
        place: the device, such as cuda:1.
        spread: whether the model is spread over all GPUs; their free memory is then added up.

    Returns:
        None for devices other than cuda.
    """
    import torch

    if not place.startswith("cuda"):
        return None
    devices = range(torch.cuda.device_count()) if spread else [torch.device(place)]
    return sum(int(torch.cuda.mem_get_info(device)[0]) for device in devices)


def chosen_dtype(wanted: str, parameters: int, free: int | None, *, training: bool = False) -> "torch.dtype":
    """The precision that `wanted` stands for.

    Args:
        wanted: the name of a dtype of torch, or auto: float32 wherever weights and run fit, else bfloat16. In bfloat16
            the same text read twice differs by more than many effects.
        parameters: how many weights the model has.
        free: free bytes on the accelerator; None without an accelerator, where auto is float32.
        training: whether the model is for training, or the sampling before it: auto is then bfloat16 on every
            accelerator.
    """
    import torch

    if wanted == "auto":
        fits = free is None or (not training and fits_in_float32(parameters, free))
        return torch.float32 if fits else torch.bfloat16
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def exact_products(place: str) -> None:
    """Turns off multiplication of float32 in fewer bits (TensorFloat-32), and checks that it is off.

    Raises:
        UserError: where products are still rounded to fewer bits.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    # 1 + 2^-12 needs twelve bits of fraction: float32 has 23, TensorFloat-32 ten, bfloat16 seven
    probe = 1 + 2.0**-12 * torch.eye(64, device=place)
    if not torch.equal(probe @ torch.eye(64, device=place), probe):
        raise UserError(f"--device {place}: multiplies float32 in fewer bits (TF32, bfloat16); switch that off first")
