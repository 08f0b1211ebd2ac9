"""ReplayTable: recorded scores and seconds of every recipe of a finite space, so that a search can be replayed.

table = ReplayTable.load(Path("results/replay/table.parquet"))
node = table.node(recipe)          # a spaces.recipe.Recipe, or the digest of its choices
node.scores["structure"], node.stage_seconds, node.evaluate_seconds
table.children(node.digest)        # the recipes with one stage more
table.front(), table.true_hypervolume, table.hypervolume([node.digest])

Every prefix of a recipe is a node; the base is the node of depth 0. No torch, no Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search.errors import DataError
from search.front import front_mask, hypervolume
from spaces.recipe import Recipe, Stage

CHOICES = ("influence", "dose_tokens", "learning_rate", "rank")
"""What tells two stages of the space apart; a column per position of the recipe, from 1."""
METADATA_KEY = b"apportion"
STDERR = ".stderr"

Row = dict[str, Any]


@dataclass(frozen=True)
class Objective:
    """A score to improve, with the reference point of the hypervolume."""

    score: str
    direction: str
    reference: float

    @property
    def sign(self) -> float:
        """1 where lower is better, -1 where the score is negated into a loss."""
        return 1.0 if self.direction == "minimise" else -1.0


@dataclass(frozen=True)
class Node:
    """One recipe: what its last stage cost, and the scores of the model after it."""

    digest: str
    parent: str | None
    """Digest of the recipe without its last stage; None for the base."""
    choices: tuple[dict[str, Any], ...]
    """Per stage, influence, dose in tokens, learning rate and rank (None where all weights train)."""
    scores: dict[str, float | None] = field(repr=False)
    """None where the score is missing."""
    stderrs: dict[str, float | None] = field(repr=False)
    """Standard errors over items."""
    stage_seconds: float
    """CPU seconds of the last stage, set-up included; 0 for the base."""
    evaluate_seconds: float
    """CPU seconds of the suite."""
    tokens: int
    """Tokens that the last stage trained."""
    reason: str | None
    """Why the recipe failed or a score is missing."""

    @property
    def depth(self) -> int:
        """Stages."""
        return len(self.choices)

    @property
    def order(self) -> tuple[str, ...]:
        """Influences, first to last."""
        return tuple(choice["influence"] for choice in self.choices)


class ReplayTable:
    """All recipes of a space, by the digest of their choices."""

    def __init__(self, nodes: Iterable[Node], objectives: Sequence[Objective]) -> None:
        """Index the nodes.

        Raises:
            DataError: A node's parent is missing, or no base.
        """
        self.nodes = {node.digest: node for node in nodes}
        self.objectives = tuple(objectives)
        self._children: dict[str, list[Node]] = {digest: [] for digest in self.nodes}
        for node in self.nodes.values():
            if node.parent is None:
                continue
            if node.parent not in self.nodes:
                raise DataError(
                    f"replay table: the parent {node.parent[:12]} of {node.digest[:12]} is missing; "
                    "build the table to its end"
                )
            self._children[node.parent].append(node)
        if choices_digest(()) not in self.nodes:
            raise DataError("replay table: the base is missing; build the table to its end")

    @classmethod
    def load(cls, path: Path, objectives: Sequence[Objective] | None = None) -> ReplayTable:
        """Read a table that `write_table` wrote.

        Args:
            path: The file.
            objectives: What a search improves; by default those of the study that was recorded.

        Raises:
            DataError: It is missing, unreadable or incomplete, or an objective was not recorded.
        """
        try:
            table = pq.read_table(path)
            metadata = json.loads(table.schema.metadata[METADATA_KEY])
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: is not a replay table ({type(error).__name__}); "
                "build it with build_table.py"
            ) from None
        names = metadata["scores"]
        chosen = objectives or [Objective(**each) for each in metadata["objectives"]]
        for objective in chosen:
            if objective.score not in names:
                raise DataError(
                    f"{path}: has no score {objective.score}; recorded are {', '.join(names)}"
                )
        return cls((_node(row, names) for row in table.to_pylist()), chosen)

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, key: str | Recipe) -> bool:
        return _digest(key) in self.nodes

    def node(self, key: str | Recipe) -> Node:
        """Return a recipe's node.

        Raises:
            KeyError: The recipe is not in the space.
        """
        return self.nodes[_digest(key)]

    @property
    def base(self) -> Node:
        """The untouched base."""
        return self.nodes[choices_digest(())]

    def children(self, key: str | Recipe) -> tuple[Node, ...]:
        """Return the recipes that have this one as their prefix and one stage more."""
        return tuple(self._children[_digest(key)])

    def path(self, key: str | Recipe) -> tuple[Node, ...]:
        """Return the nodes from the base to a recipe, both included."""
        node = self.node(key)
        before = () if node.parent is None else self.path(node.parent)
        return (*before, node)

    def is_measured(self, node: Node) -> bool:
        """Tell whether a node has all objectives."""
        return all(node.scores[objective.score] is not None for objective in self.objectives)

    def losses(self, nodes: Iterable[Node]) -> NDArray[np.float64]:
        """Return objectives as losses, shape (nodes, objectives); NaN where one is missing."""
        rows = [[_loss(node, objective) for objective in self.objectives] for node in nodes]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.objectives))

    @cached_property
    def reference(self) -> NDArray[np.float64]:
        """The reference point of the hypervolume as losses, shape (objectives,)."""
        return np.array([each.sign * each.reference for each in self.objectives])

    def front(self) -> tuple[Node, ...]:
        """Return the recipes that no other one dominates, failed ones left out; equal ones are all in."""
        nodes = [node for node in self.nodes.values() if self.is_measured(node)]
        mask = front_mask(self.losses(nodes))
        return tuple(node for node, is_in in zip(nodes, mask, strict=True) if is_in)

    def hypervolume(self, digests: Iterable[str]) -> float:
        """Return the hypervolume of some recipes, in the product of the objectives' units."""
        nodes = [self.nodes[digest] for digest in digests]
        return hypervolume(
            self.losses(node for node in nodes if self.is_measured(node)), self.reference
        )

    @cached_property
    def true_hypervolume(self) -> float:
        """The hypervolume of all recipes."""
        return self.hypervolume(self.nodes)


def choices_digest(stages: Sequence[Stage]) -> str:
    """Return the hex SHA-256 of what was chosen at each stage. Equal for equal recipes of one space only."""
    return digest_of([stage_choices(stage) for stage in stages])


def stage_choices(stage: Stage) -> dict[str, Any]:
    """Return what tells this stage from others of the space, by the names in CHOICES."""
    values = (
        stage.influence,
        stage.dose_tokens,
        stage.learning_rate,
        getattr(stage.adapter, "rank", None),
    )
    return dict(zip(CHOICES, values, strict=True))


def digest_of(choices: Sequence[Mapping[str, Any]]) -> str:
    """Return the digest of choices as `stage_choices` gives them."""
    return hashlib.sha256(
        json.dumps([[choice[name] for name in CHOICES] for choice in choices]).encode()
    ).hexdigest()


def write_table(
    path: Path,
    rows: Sequence[Row],
    score_names: Sequence[str],
    objectives: Sequence[Objective],
    n_positions: int,
    provenance: Mapping[str, Any],
) -> None:
    """Write rows as parquet, whole or not at all.

    Args:
        path: The file.
        rows: As build_table.py makes them.
        score_names: Scores of the suite, in order.
        objectives: What a search improves.
        n_positions: Stages of the longest recipe.
        provenance: What, where and when; kept in the file's metadata.
    """
    metadata = {
        "scores": list(score_names),
        "objectives": [vars(each) for each in objectives],
        "provenance": dict(provenance),
    }
    schema = _schema(score_names, n_positions)
    table = pa.Table.from_pylist(list(rows), schema=schema).replace_schema_metadata(
        {METADATA_KEY: json.dumps(metadata)}
    )
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)


def _schema(score_names: Sequence[str], n_positions: int) -> Any:
    kinds = dict(zip(CHOICES, (pa.string(), pa.int64(), pa.float64(), pa.int64()), strict=True))
    fields = [("digest", pa.string()), ("parent", pa.string()), ("depth", pa.int64())]
    for position in range(1, n_positions + 1):
        fields += [(f"{name}_{position}", kind) for name, kind in kinds.items()]
    for name in score_names:
        fields += [(name, pa.float64()), (name + STDERR, pa.float64())]
    seconds = ("train_seconds", "setup_seconds", "evaluate_seconds")
    fields += [(name, pa.float64()) for name in (*seconds, "stage_cpu", "evaluate_cpu")]
    fields += [("tokens", pa.int64()), ("n_steps", pa.int64()), ("seed", pa.int64())]
    return pa.schema([*fields, ("last_loss", pa.float64()), ("reason", pa.string())])


def _node(row: Row, score_names: Sequence[str]) -> Node:
    choices = tuple(
        {name: row[f"{name}_{position}"] for name in CHOICES}
        for position in range(1, row["depth"] + 1)
    )
    if digest_of(choices) != row["digest"]:
        raise DataError(
            f"replay table: row {row['digest'][:12]} does not have the digest of its choices; "
            "build the table anew"
        )
    return Node(
        digest=row["digest"],
        parent=row["parent"],
        choices=choices,
        scores={name: row[name] for name in score_names},
        stderrs={name: row[name + STDERR] for name in score_names},
        stage_seconds=row["stage_cpu"],
        evaluate_seconds=row["evaluate_cpu"],
        tokens=row["tokens"],
        reason=row["reason"],
    )


def _digest(key: str | Recipe) -> str:
    return key if isinstance(key, str) else choices_digest(key.stages)


def _loss(node: Node, objective: Objective) -> float:
    value = node.scores[objective.score]
    return float("nan") if value is None else objective.sign * value
