"""The one exception that a user is meant to see, and how to tell that memory ran out."""


class UserError(Exception):
    """Bad input: printed as one sentence, exit code 2."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: torch has a class of its own for a GPU, and none for the CPU."""
    message = str(error).lower()
    phrases = ["out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "cannot allocate memory"]
    phrases += ["status_alloc_failed"]  # of cuBLAS and cuDNN, whose memory is not torch's
    return isinstance(error, MemoryError) or any(phrase in message for phrase in phrases)
