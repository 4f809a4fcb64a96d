"""What a run asks of a model, by formula: passes, tokens, logits, and from them FLOPs and bytes. Arithmetic only."""

import math
from dataclasses import dataclass, replace

from interp.attribution import FIRST_NODES, SCREENED
from interp.diagnose import ASKED_AT_ONCE, AT_ONCE, SAMPLED_AT_ONCE, Diagnose
from interp.elicitation import TYPICAL_TOKENS
from interp.evaluate import AT_ONCE as EVALUATED_AT_ONCE
from interp.prefix import ROW_TOKENS

Number = int | float

STEPS = 11
"""After how many steps the last open answer of a batch is assumed to be written, of the 15 that it may take."""
NODES = FIRST_NODES + 2 * FIRST_NODES
"""Points of a path of integrated gradients: two successive counts are the fewest that settle it."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a decoder."""

    parameters: int
    """All of them; tied ones once."""
    matrices: int
    """Weights of the matrices in the layers: each is multiplied and added once for a token."""
    layers: int
    """How many there are."""
    hidden: int
    """Width of the residual stream."""
    intermediate: int
    """Width within the MLP."""
    heads: int
    """Heads of the queries."""
    kv_heads: int
    """Heads of the keys and values."""
    head_dim: int
    """Width of a head."""
    vocabulary: int
    """How many tokens there are."""

    def cache_bytes(self, itemsize: int) -> int:
        """What keys and values of one token take."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize

    def activation_bytes(self, itemsize: int) -> int:
        """What one token leaves in one layer for a backward pass through frozen weights: the two norms' inputs (in
        float32 and normalised), queries, keys, values and the attention's output, and three tensors of the MLP.

        A frozen matrix needs its own weights only, so that its input is not kept."""
        attention = 2 * (self.heads + self.kv_heads) * self.head_dim
        return itemsize * (attention + 3 * self.intermediate) + 2 * self.hidden * (4 + itemsize)


@dataclass(frozen=True)
class Lengths:
    """Tokens of the parts of a prompt, means over a sample of the questions."""

    opening: Number
    """Instruction and examples, with the template around them."""
    question: Number
    """From there to the answer."""
    answer: Number
    """The right answer."""
    looks: Number
    """The right answer in other letter case, or with a full stop."""
    tail: Number
    """From the answer to the confidence."""
    levels: Number
    """Nodes of the tree of all levels."""
    hint: Number
    """From where a prompt with a hint leaves the one without to its confidence."""
    spans: tuple[Number, ...]
    """For each span within the opening, the tokens from its first to the opening's end."""
    several: Number
    """Share of the answers that have more than one token."""
    foils: Number
    """Other questions' answers that are put to a question."""
    fillers: int
    """Fillers that tokens are replaced by."""
    reply: Number
    """What the model writes for an answer, its end included."""
    choices: int = 0
    """The fewest choices that a question has; 0: open questions."""

    @property
    def below(self) -> Number:
        """Tokens from an answer's first to the last level."""
        return self.answer + self.tail + self.levels

    @property
    def own(self) -> Number:
        """Tokens of an answered prompt after the opening, with all levels."""
        return self.question + self.below

    def candidates(self, wanted: int) -> int:
        """Sampled answers whose divergence is measured: of choices no more than there are."""
        return min(wanted, self.choices) if self.choices else wanted


@dataclass(frozen=True)
class Load:
    """Forward passes of one kind, and backward passes where there are any."""

    passes: Number
    """How many."""
    tokens: Number
    """Tokens read in them, over all."""
    context: Number
    """Keys that attention is computed over for each of them; what the mask hides is computed as well."""
    reads: Number
    """Tokens whose logits over the vocabulary are made."""
    largest: Number
    """Tokens of the largest pass."""
    rows: Number = 1.0
    """Rows of the largest pass, each of which has a cache of its own."""
    most_reads: Number = 1.0
    """Logits of the largest pass."""
    backward: Number = 0.0
    """Share of the layers that a gradient goes back through."""
    eager: bool = False
    """Attention scores are held, a layer at a time, and their means over heads kept for all layers."""

    def flops(self, of: Architecture) -> tuple[Number, Number]:
        """(forward, backward). Forward: 2 for each weight of a matrix and token; 4 for each layer, head's width and
        pair of query and key (scores, then their sum of values); the head's for each logit that is made. Backward
        through frozen weights: each product is taken once more, for the gradient of what came in alone, and
        attention's two become four."""
        attention = 4 * of.layers * of.heads * of.head_dim * self.context * self.tokens
        body, head = 2 * of.matrices * self.tokens, 2 * of.hidden * of.vocabulary * self.reads
        back = self.backward * (body + 2 * attention) + (head if self.backward else 0)
        return body + attention + head, back

    def attention_bytes(self, of: Architecture, itemsize: int) -> Number:
        """What attention holds beside the cache: the mask and, where it is eager, one layer's scores in every head,
        three times: masked, their softmax in float32, and that as it goes on."""
        scores = of.heads * (2 * itemsize + 4) if self.eager else 0
        return self.largest * self.context * (itemsize + scores)

    def kept_bytes(self, of: Architecture) -> Number:
        """Means over heads that are kept in float32, in main memory: the lower triangles of all layers."""
        return of.layers * self.largest * self.context / 2 * 4 if self.eager else 0.0

    def working_bytes(self, of: Architecture, itemsize: int) -> Number:
        """The largest of the passes, beside weights and attention: keys and values, logits (as they come, in float32
        where they are not, and a row of them once more) and, with a gradient, what is kept for it."""
        cache = self.rows * self.context * of.cache_bytes(itemsize)
        wider = 4 if itemsize < 4 else 0
        logits = self.most_reads * of.vocabulary * (itemsize + wider + 4 / self.rows)
        kept = self.largest * of.layers * self.backward * of.activation_bytes(itemsize)
        passing = self.largest * itemsize * (4 * of.hidden + 3 * of.intermediate)
        return cache + logits + kept + passing


Loads = tuple[Load, ...]


def packed(
    count: Number,
    at_once: Number,
    tokens: Number,
    reads: Number,
    prefix: Number,
    batch_tokens: int,
    *,
    row: int = ROW_TOKENS,
) -> Load:
    """`count` trees of so many tokens and reads below a prefix, `at_once` in a call, packed into rows and batches."""
    together = min(count, at_once)
    passes = math.ceil(together * tokens / batch_tokens)
    largest = max(tokens, min(together * tokens, batch_tokens))
    rows = math.ceil(largest / max(row, tokens))
    return Load(
        passes=math.ceil(count / at_once) * passes,
        tokens=count * tokens,
        context=prefix + largest / rows,
        reads=count * reads,
        largest=largest,
        rows=rows,
        most_reads=reads * largest / tokens,
    )


def written(questions: Number, at_once: Number, copies: Number, lengths: Lengths, batch_tokens: int) -> Loads:
    """Prompts read once each, and `copies` continuations of each grown token by token."""
    if not questions:
        return ()
    each = lengths.question + copies * TYPICAL_TOKENS  # how the generator fills its batches
    calls, together = math.ceil(questions / at_once), min(questions, at_once)
    batches = math.ceil(together * each / batch_tokens)
    prompts = packed(questions, at_once, lengths.question, 1, lengths.opening, batch_tokens)
    steps = lengths.reply - 1 if lengths.choices else max(STEPS, lengths.reply)
    copied = questions * copies
    grown = Load(
        passes=calls * batches * steps,
        tokens=copied * max(lengths.reply - 1, 0),
        context=prompts.context + together * copies / batches * max(lengths.reply - 1, 0) / prompts.rows / 2,
        reads=copied * max(lengths.reply - 1, 0),
        largest=together * copies / batches,
        rows=prompts.rows,
        most_reads=together * copies / batches,
    )
    return replace(prompts, passes=calls * batches), grown


def sampled(questions: Number, lengths: Lengths, candidates: int, tries: int, batch_tokens: int) -> Loads:
    """Rounds of samples, half-way between the fewest and the most that may be drawn for a question; none of choices."""
    fewest = max(4, candidates)
    wanted, drawn = (fewest + max(tries, fewest)) / 2, 0.0
    loads: Loads = ()
    while drawn < wanted and not lengths.choices:
        copies = min(max(8.0, 2.0 * candidates) if drawn else fewest, wanted - drawn)
        loads += written(questions, SAMPLED_AT_ONCE, copies, lengths, batch_tokens)
        drawn += copies
    return loads


def jsd(n: Number, lengths: Lengths, batch_tokens: int, candidates: int) -> Loads:
    """The right answer, two looks of it, wrong or sampled ones, other questions', and once more with a hint."""
    end = lengths.tail + lengths.levels
    others = lengths.foils + max(candidates - 1, 2)  # the right answer is among the sampled ones
    below = (1 + others) * (lengths.answer + end) + 2 * (lengths.looks + end) + lengths.hint + lengths.levels
    reads = (4 + others) * (1 + lengths.levels + lengths.answer)
    return (packed(n, AT_ONCE["jsd"], lengths.question + below, reads, lengths.opening, batch_tokens),)


def rollout(n: Number, lengths: Lengths) -> Loads:
    """Whole prompts, from their first token, with attention in sight."""
    width = lengths.opening + lengths.own - lengths.levels
    together = min(n, AT_ONCE["rollout"])
    passes = math.ceil(n / AT_ONCE["rollout"])
    return (Load(passes, n * width, width, n, together * width, rows=together, most_reads=together, eager=True),)


def masking(n: Number, lengths: Lengths, batch_tokens: int) -> Loads:
    """The question once, then the rest as it is, under each filler and under two cuts."""
    variants = 3 + lengths.fillers
    prefix = lengths.opening + lengths.question
    return (
        packed(n, 1, lengths.question, 1, lengths.opening, batch_tokens),
        packed(n * variants, variants, lengths.below, 1 + lengths.levels, prefix, batch_tokens),
    )


def attribution(n: Number, lengths: Lengths, batch_tokens: int, path: str = "answer") -> Loads:
    """Spans replaced by each filler, then single tokens (path answer: a few of the opening's and all others, tokens:
    all; prompt: none), and passes with gradient along the path."""
    opening, own, reads = lengths.opening, lengths.own, 1 + lengths.levels + lengths.answer
    alone = own - lengths.levels

    def replaced(many: Number, tokens: Number, below: Number, of: Number = n) -> Load:
        return packed(of * many, many, tokens, reads, below, batch_tokens)

    def gradient(many: Number, tokens: Number, below: Number) -> Load:
        each = max(1, ROW_TOKENS // tokens)
        return replace(packed(n * many, each, tokens, reads, below, batch_tokens), backward=1.0)

    question = packed(n, 1, lengths.question, 1, opening, batch_tokens)
    loads = [replaced(1, own, opening), replaced(1, own, opening), replaced(3 * lengths.fillers, own, opening)]
    loads += [replaced(lengths.fillers, own + span, opening - span) for span in lengths.spans]
    if path == "prompt":
        return (*loads, replaced(2, opening + own, 0), gradient(2 * (NODES + 4 * FIRST_NODES), opening + own, 0))
    loads += [question, gradient(lengths.several * NODES, lengths.below, opening + lengths.question)]
    screened = min(SCREENED, opening)
    if path == "tokens":
        loads += [replaced(1, own + opening / 2, opening / 2, n * opening)]
    else:
        loads += [replaced(1, own + opening / 2, opening / 2, n * screened), gradient(1, opening + own, 0)]
    return (*loads, replaced(alone, own, opening))


def evaluation(n: Number, lengths: Lengths, batch_tokens: int) -> Loads:
    """Each question's answer, and the confidence after it."""
    reads = 1 + lengths.levels + lengths.answer
    read = packed(n, EVALUATED_AT_ONCE["read"], lengths.own, reads, lengths.opening, batch_tokens)
    return (*written(n, EVALUATED_AT_ONCE["answer"], 1, lengths, batch_tokens), read)


def row_of(examples: Number, answers: int, lengths: Lengths, count: Number, *, backward: Number = 0.0) -> Load:
    """`count` rows that hold so many examples each, with so many answers to every question; read in one pass each."""
    width = lengths.opening + examples * (lengths.question + answers * lengths.below)
    reads = examples * answers * (1 + lengths.levels + lengths.answer)
    return Load(count, count * width, width, count * reads, width, most_reads=reads, backward=backward)


def diagnosis(options: Diagnose, lengths: Lengths, there: int, *, accuracy: Number, processes: int) -> dict[str, Loads]:
    """`interp.diagnose` on data with so many questions, by part: what one of several processes does of it."""
    n, size = min(options.n, max(1.0, accuracy * there)), options.batch_tokens
    candidates, share, sets = lengths.candidates(options.candidates), n / processes, options.shot_sets
    asked = min(there, ASKED_AT_ONCE * math.ceil(n / accuracy / ASKED_AT_ONCE))
    return {
        "answers": written(asked / processes, ASKED_AT_ONCE / processes, 1, lengths, size),
        "wrong answers": sampled(share, lengths, candidates, options.tries, size),
        "jsd": jsd(share, lengths, size, candidates) * sets,
        "rollout": rollout(share, lengths) * sets,
        "masking": masking(share, lengths, size) * sets,
        "attribution": attribution(min(n, options.n_attribution) / processes, lengths, size, options.path) * sets,
    }
