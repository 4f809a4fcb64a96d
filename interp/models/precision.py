"""In which precision a model is read: float32 wherever it fits, and products that are what they are called."""

from typing import TYPE_CHECKING

from interp.errors import UserError

if TYPE_CHECKING:
    import torch

BYTES = 4
"""Of a weight in float32."""
ROOM = 0.25
"""What a run needs beside the weights, as a share of them: activations, keys and values, masks."""
LEAST_ROOM = 2 << 30
"""The least that it needs, in bytes."""


def fits_in_float32(parameters: int, free: int) -> bool:
    """Whether a model of so many parameters, and a run on it, fit into `free` bytes in float32."""
    weights = BYTES * parameters
    return weights + max(ROOM * weights, LEAST_ROOM) <= free


def free_bytes(place: str, *, spread: bool = False) -> int | None:
    """The free memory of an accelerator, or of all of them where a model is spread; None for other devices."""
    import torch

    if not place.startswith("cuda"):
        return None
    devices = range(torch.cuda.device_count()) if spread else [torch.device(place)]
    return sum(int(torch.cuda.mem_get_info(device)[0]) for device in devices)


def chosen_dtype(wanted: str, parameters: int, free: int | None, *, training: bool = False) -> "torch.dtype":
    """The precision that `wanted` stands for.

    auto: float32 wherever weights and run fit, since in bfloat16 the same text read twice differs by more than many
    effects; else bfloat16. training: for training and sampling, where it is bfloat16 on every accelerator.
    free: bytes on the accelerator; None where there is none, and all is float32."""
    import torch

    if wanted == "auto":
        fits = free is None or (not training and fits_in_float32(parameters, free))
        return torch.float32 if fits else torch.bfloat16
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def exact_products(place: str) -> None:
    """Turns off what multiplies float32 in fewer bits, and sees whether it is off.

    TensorFloat-32 keeps ten bits of a number's fraction. Errors: UserError where products are still rounded so."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    small = 1 + 2.0**-12 * torch.eye(64, device=place)
    if not torch.equal(small @ torch.eye(64, device=place), small):
        raise UserError(f"--device {place}: multiplies float32 in fewer bits (TF32, bfloat16); switch that off first")
