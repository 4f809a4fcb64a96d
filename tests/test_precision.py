"""In which precision a model is read, and that its products have it."""

import pytest
import torch

from interp.errors import UserError, ran_out_of_memory
from interp.models import checkpoints
from interp.models.checkpoints import Loading, loaded_checkpoint, refuse_lacking_kernel
from interp.models.precision import chosen_dtype, exact_products, fits_in_float32, free_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("billions", "memory", "fits"), [(8, 80, True), (9.2, 80, True), (8, 40, True), (8, 32, False), (70, 141, False)]
)
def test_a_model_is_read_in_float32_where_weights_and_a_run_fit(billions, memory, fits):
    parameters, free = int(billions * 1e9), memory * GIB
    assert fits_in_float32(parameters, free) is fits
    assert chosen_dtype("auto", parameters, free) == (torch.float32 if fits else torch.bfloat16)
    assert chosen_dtype("auto", parameters, free, training=True) == torch.bfloat16
    assert chosen_dtype("bfloat16", parameters, free) == torch.bfloat16
    assert chosen_dtype("float32", parameters, free, training=True) == torch.float32


def test_a_small_model_needs_room_for_its_run_as_well():
    assert not fits_in_float32(1000, 2 * GIB) and fits_in_float32(1000, 3 * GIB)


def test_without_an_accelerator_all_is_float32():
    assert free_bytes("cpu") is None and free_bytes("mps") is None
    for training in (False, True):
        assert chosen_dtype("auto", 10**12, None, training=training) == torch.float32


@pytest.mark.parametrize(("free", "dtype"), [(8 * GIB, torch.float32), (2 * GIB, torch.bfloat16)])
def test_the_weights_are_counted_before_they_are_loaded(tiny_checkpoint, tiny_model, monkeypatch, free, dtype):
    counted = []
    monkeypatch.setattr("interp.models.precision.free_bytes", lambda place, spread: free)
    monkeypatch.setattr(checkpoints, "_parameters", spy(checkpoints._parameters, counted))
    folder = str(tiny_checkpoint("gemma2"))
    assert loaded_checkpoint(folder, Loading(device="cpu")).model.dtype == dtype
    assert counted == [tiny_model("gemma2").num_parameters()]
    assert loaded_checkpoint(folder, Loading(device="cpu", training=True)).model.dtype == torch.bfloat16
    assert len(counted) == 1, "asked only where it decides"


def spy(function, found):
    def wrapped(*given):
        found.append(function(*given))
        return found[-1]

    return wrapped


def test_products_in_fewer_bits_are_found(monkeypatch):
    exact_products("cpu")
    product = torch.Tensor.__matmul__

    def rounded(one, other):  # as TensorFloat-32 does: ten bits of the fraction
        cut = [(x.view(torch.int32) & ~((1 << 13) - 1)).view(torch.float32) for x in (one, other)]
        return product(*cut)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with pytest.raises(UserError, match="multiplies float32 in fewer bits"):
        exact_products("cpu")


def test_loading_switches_such_products_off(tiny_checkpoint):
    torch.set_float32_matmul_precision("medium")
    try:
        loaded_checkpoint(str(tiny_checkpoint("llama")), Loading(device="cpu"))
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_kernel_without_soft_capping_or_sinks_is_refused(tiny_model, kernel):
    import copy

    capped = copy.copy(tiny_model("gemma2"))
    capped.config = copy.deepcopy(capped.config)
    capped.config._attn_implementation = kernel
    sinking = copy.copy(tiny_model("llama"))
    sinking.config = copy.deepcopy(sinking.config)
    sinking.config._attn_implementation = kernel
    sinking._parameters = {"layer.sinks": torch.nn.Parameter(torch.zeros(2))}
    plain = copy.copy(tiny_model("llama"))
    refuse_lacking_kernel("plain", plain)
    for model, word in ((capped, "soft-capping"), (sinking, "sinks")):
        if kernel == "eager":
            refuse_lacking_kernel("x", model)
        else:
            with pytest.raises(UserError, match=f"its attention has {word}, which the kernel sdpa leaves out"):
                refuse_lacking_kernel("x", model)


def test_what_cublas_says_is_known_as_a_lack_of_memory():
    said = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert ran_out_of_memory(RuntimeError(said)) and not ran_out_of_memory(RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED"))
