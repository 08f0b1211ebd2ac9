"""Hypothesis strategies for whole spaces, as study.yaml would have them: most of what they draw is legal, not all.

    @given(any_space.studies())
    def test_...(data): spec = any_space.study(data)

A new method, adapter or setting: add it to METHODS, ADAPTERS, `combining` or `orders`, and every property of
tests/unit/test_any_space.py holds for it or fails. Data is plain, as a YAML reader gives it; nothing here is a spec.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from search.spec import StudySpec

Data = dict[str, Any]
Values = st.SearchStrategy[Any]

SOURCES = {
    "chat": "messages",
    "done": "prompt-completion",
    "pairs": "preference",
    "more": "preference",
    "marks": "unpaired-preference",
}
"""Name to format."""
PAIRS = ("pairs", "more")
READ = {
    "sft": ("chat", "done"),
    **dict.fromkeys(("dpo", "ipo", "orpo", "simpo"), PAIRS),
    "kto": ("marks", "pairs"),
}
"""Loss to the sources it reads; of each method `mixes` takes one or both."""
NAMES = ("tone", "taste", "sense")


def ints(low: int, high: int) -> Values:
    """A whole number, fixed, in a range or among choices."""
    one = st.integers(low, high)
    two = st.lists(one, min_size=2, max_size=2).map(sorted)
    ranges = st.builds(
        lambda ends, log: {"low": ends[0], "high": ends[1], **({"log": True} if log else {})},
        two,
        st.booleans() if low > 0 else st.just(False),
    )
    return st.one_of(one, ranges, choices(one))


def floats(low: float, high: float, is_exclusive: bool = False) -> Values:
    """A number, fixed, in a range or among choices."""
    one = st.integers(int(is_exclusive), 64).map(lambda n: round(low + (high - low) * n / 64, 6))
    two = st.lists(one, min_size=2, max_size=2).map(sorted)
    return st.one_of(one, two.map(lambda ends: {"low": ends[0], "high": ends[1]}), choices(one))


def choices(one: Values) -> Values:
    """A list to choose from."""
    return st.lists(one, min_size=1, max_size=3, unique=True).map(lambda each: {"choice": each})


def texts(*words: str) -> Values:
    """A word, fixed or among choices."""
    return st.one_of(st.sampled_from(words), choices(st.sampled_from(words)))


def some(optional: dict[str, Values], **required: Values) -> st.SearchStrategy[Data]:
    """A mapping with all of some keys and any of others."""
    return st.fixed_dictionaries(required, optional=optional)


BOOLS = st.one_of(st.booleans(), choices(st.booleans()))
LAYERS = st.one_of(
    texts("all", "0-1", "2-3", "50%-100%", "0,2-3"),
    st.builds(
        lambda side, point, name: {side: point, **({} if name is None else {"split": name})},
        st.sampled_from(("above", "below")),
        st.sampled_from((0.5, {"low": 0.25, "high": 0.75})),
        st.sampled_from((None, "middle")),
    ),
)
SMALL = {
    "alpha": floats(1.0, 64.0),
    "dropout": floats(0.0, 0.5),
    "targets": texts("all", "attention", "mlp", "q_proj,up_proj"),
    "exclude": texts("", "q_proj"),
    "layers": LAYERS,
}
ADAPTERS: dict[str, st.SearchStrategy[Data]] = {
    "full": some(
        {"targets": texts("everything", "all", "norms,mlp"), "layers": LAYERS}, kind=st.just("full")
    ),
    "lora": some(
        {
            **SMALL,
            "rank": ints(1, 64),
            "dora": BOOLS,
            "rslora": BOOLS,
            "init": texts("default", "gaussian", "pissa", "olora"),
            "lr_ratio": floats(1.0, 16.0),
            "ranks": some({"attention": ints(1, 8), "up_proj": ints(1, 8)}),
            "alphas": some({"mlp": floats(1.0, 32.0)}),
        },
        kind=st.just("lora"),
    ),
    "adalora": some(
        {
            **SMALL,
            "warmup_share": floats(0.0, 0.4),
            "final_share": floats(0.0, 0.4),
            "allocate_every_steps": ints(1, 4),
            "orthogonality": floats(0.0, 1.0),
        },
        kind=st.just("adalora"),
        init_rank=ints(7, 16),
        target_rank=ints(1, 8),
    ),
}


def shares(sources: tuple[str, ...]) -> Values:
    """Shares over sources, fixed or a simplex."""
    first, second = sources
    bound = st.sampled_from(({}, {"low": 0.2}, {"high": 0.6}, {"low": 0.2, "high": 0.8}))
    return st.one_of(
        st.just({first: 1.0}),
        st.integers(1, 9).map(lambda n: {first: n / 10, second: 1 - n / 10}),
        st.builds(lambda a, b: {"simplex": {first: a, second: b}}, bound, bound),
    )


def mixes(loss: str) -> Values:
    """A mix of every kind."""
    one = shares(READ[loss])
    return st.one_of(
        one,
        st.builds(lambda start, end: {"start": start, "end": end}, one, one),
        floats(0.5, 5.0).map(lambda t: {"temperature": t, "sources": list(READ[loss])}),
    )


SETTINGS: dict[str, dict[str, Values]] = {
    "sft": {},
    **{loss: {"beta": floats(0.0, 1.0, is_exclusive=True)} for loss in ("dpo", "ipo", "orpo")},
    "simpo": {"beta": floats(0.5, 4.0), "gamma": floats(0.0, 2.0)},
    "kto": {"desirable_weight": floats(0.0, 2.0), "undesirable_weight": floats(0.0, 2.0)},
}


def plain(loss: str) -> st.SearchStrategy[Data]:
    """What the method of one loss adds to an influence."""
    return some(SETTINGS[loss], method=st.just(loss), mix=mixes(loss))


@st.composite
def joint(draw: st.DrawFn) -> Data:
    """What a joint influence has: terms with weights of their own, or shared ones."""
    losses = draw(st.lists(st.sampled_from(list(READ)), min_size=1, max_size=3, unique=True))
    terms = {loss: draw(some(SETTINGS[loss], mix=mixes(loss))) for loss in losses}
    if draw(st.booleans()):
        terms["kl"] = {}
    data: Data = {"method": "joint", "terms": terms, "arbitration": draw(ARBITRATIONS)}
    if len(terms) > 1 and draw(st.booleans()):
        data["weights"] = {"simplex": {name: {} for name in terms}}
        return data
    for term in terms.values():
        ramp = st.builds(lambda start, end: {"start": start, "end": end}, WEIGHTS, WEIGHTS)
        term["weight"] = draw(st.one_of(WEIGHTS, ramp))
    return data


WEIGHTS = floats(0.0, 2.0)
ARBITRATIONS = texts("sum", "pcgrad", "normalised")
METHODS: dict[str, st.SearchStrategy[Data]] = {
    **{loss: plain(loss) for loss in READ},
    "joint": joint(),
}
DOSES = st.one_of(
    ints(1, 5000),
    st.just({"choice": [0, 300, 1000]}),
    st.just({"low": 0, "high": 4000, "step": 500}),
)


def influences() -> st.SearchStrategy[Data]:
    """An influence of any method with any adapter."""
    common = some(
        {
            "handoff": texts("merge", "stack", "detach", "continue"),
            "max_passes": st.sampled_from((0.5, 2.0)),
            "repeat": some({}, dose_factor=floats(0.1, 4.0)),
        },
        adapter=st.one_of(*ADAPTERS.values()),
        dose_tokens=DOSES,
        learning_rate=floats(1e-5, 1e-2),
    )
    merged = st.tuples(st.one_of(*METHODS.values()), common).map(lambda both: both[0] | both[1])
    # Without this, nearly every drawn space would have a handoff that some drawn order cannot follow.
    return st.one_of(merged.map(lambda data: data | {"handoff": "merge"}), merged)


HOW: st.SearchStrategy[Data] = some(
    {"density": floats(0.2, 1.0)}, how=texts("linear", "ties", "dare_linear", "dare_ties")
)
DIGESTS = tuple(digit * 64 for digit in "abc")


@st.composite
def combining(draw: st.DrawFn, names: tuple[str, ...]) -> Data:
    """An influence that trains others side by side, or merges stored models."""
    parts: Data = {}
    is_parallel = draw(st.booleans())
    for at, name in enumerate(("left", "right")):
        stages = st.lists(st.sampled_from(names), max_size=2)
        digest = st.sampled_from((DIGESTS[at], None) if at else (DIGESTS[at],))
        one = {"stages": draw(stages)} if is_parallel else {"digest": draw(digest)}
        parts[name] = {key: value for key, value in one.items() if value is not None}
    data: Data = {"method": "parallel" if is_parallel else "merge", "combination": draw(HOW)}
    if draw(st.booleans()):
        data["weights"] = {"simplex": {name: {} for name in parts}}
    else:
        for part in parts.values():
            part["weight"] = draw(floats(-1.0, 2.0))
    return {**data, "branches" if is_parallel else "models": parts}


def orders(names: tuple[str, ...]) -> st.SearchStrategy[Data]:
    """Rules of order, repetition, rounds and encoding for some influences."""
    pair = st.lists(st.sampled_from(names), min_size=2, max_size=2)
    return some(
        {
            "min_stages": st.sampled_from((1, 1, 2)),
            "max_stages": st.integers(1, 4),
            "max_repeats": st.integers(1, 3),
            "rounds": st.sampled_from((1, 2, {"choice": [1, 2, 4]}, {"low": 1, "high": 3})),
            "before": st.lists(pair, max_size=1),
            "per_position": st.booleans(),
            "encoding": st.sampled_from(("auto", "sequence", "keys")),
        }
    )


@st.composite
def studies(draw: st.DrawFn) -> Data:
    """A whole study of one to three influences that train, and perhaps one that combines models."""
    names = NAMES[: draw(st.integers(1, 3))]
    given = {name: draw(influences()) for name in names}
    if draw(st.booleans()):
        given["apart"] = draw(combining(names))
    return {
        "name": "any",
        "base": {"hub": "some/model"},
        "sources": {name: {"path": f"{name}.jsonl", "format": SOURCES[name]} for name in SOURCES},
        "influences": given,
        "order": draw(orders(tuple(given))),
        "suite": {"kind": {"evaluator": "preference", "source": "pairs"}},
        "objectives": [{"score": "kind.accuracy"}],
        "budget": {"trials": 4},
    }


def study(data: Data) -> StudySpec:
    """Return the study that data means, read as JSON so that lists are tuples.

    Raises:
        ValidationError: The data is no study.
    """
    return StudySpec.model_validate_json(json.dumps(data))
