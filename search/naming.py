"""Where digests and seeds of recipes come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spaces.recipe import Recipe


@dataclass(frozen=True)
class Naming:
    """What determines models beside their stages."""

    digest_context: str
    """Canonical text of all that determines the bits of a model: base, settings of training, seed, machine."""
    seed_context: str
    """The same without what tells machines apart."""
    source_hashes: Mapping[str, str]
    """Source name to content hash."""

    def digests(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the digests of a recipe's prefixes, from the base on."""
        return recipe.prefix_digests(self.digest_context, self.source_hashes)

    def seeds(self, recipe: Recipe) -> tuple[int, ...]:
        """Return the seeds of a recipe's stages."""
        return recipe.stage_seeds(self.seed_context, self.source_hashes)
