"""The mutation check: the promises broken one by one in the product's own code, and the simulation sees each.

A mutation is the source of a module with some of its text replaced; text that is not found once fails the test.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from textwrap import indent

import pytest
import simulation
from conftest import ROOT

from app.roles import features
from tables import store

SEEDS = 400


@dataclass(frozen=True)
class Mutation:
    """What is broken: a module, its text before and after; and the count that tells."""

    path: str
    replaced: dict[str, str]
    seen_as: str


FEATURES, ROLE, STORE = "agents/features.py", "app/roles/features.py", "tables/store.py"
EMIT = """        for vectors in made:
            if len(vectors):
                await emit(vectors)
"""
SAVE = """                states.save(batch.partition, {key: arena.dump(key) for key in now.listed[:first]})
"""
MUTATIONS = {
    "save before emit": Mutation(FEATURES, {
        EMIT: "",
        "        if batch.ends_epoch:\n": "        if batch.ends_epoch or len(made[0]):\n",
        SAVE: SAVE + indent(EMIT, " " * 8),
    }, "lost"),
    "ack in finally": Mutation(FEATURES, {
        EMIT: "        try:\n" + indent(EMIT, " " * 4) + "        finally:\n            batch.ack()\n",
    }, "lost"),
    "guard off": Mutation(FEATURES, {
        "        made = now.engine.apply(batch.columns)\n":
            "        for key in now.engine.arena.keys if len(batch.columns) else ():\n"
            "            row, first = now.engine.arena.row(key), int(batch.columns.offset[0])\n"
            "            row[at.NEXT_OFFSET] = min(row[at.NEXT_OFFSET], first)\n"
            "        made = now.engine.apply(batch.columns)\n",
        "from schemas.feature_sets import FeatureSet\n":
            "from schemas.feature_sets import FeatureSet\nfrom tables import layout as at\n",
    }, "wrong"),
    "symbols whose records were all repeats are not saved": Mutation(FEATURES, {
        "        self.engine = engine\n":
            "        self.engine = engine\n"
            "        self.known = {key: engine.arena.row(key)[at.NEXT_OFFSET] for key in engine.arena.keys}\n",
        "*self.engine.arena.touched()]": "*self.effects()]",
        "    def acknowledge(self) -> None:\n":
            "    def effects(self):\n"
            "        now = {key: self.engine.arena.row(key)[at.NEXT_OFFSET] for key in self.engine.arena.touched()}\n"
            "        found = [key for key, offset in now.items() if self.known.get(key) != offset]\n"
            "        self.known |= now\n"
            "        return found\n\n"
            "    def acknowledge(self) -> None:\n",
        "from schemas.feature_sets import FeatureSet\n":
            "from schemas.feature_sets import FeatureSet\nfrom tables import layout as at\n",
    }, "lost"),
    "a vector is not awaited": Mutation(ROLE, {
        "        await self.producer.send(output, self.partition, messages)\n":
            "        self.producer.enqueue(output, self.partition, messages)\n",
    }, "lost"),
    "a commit does not wait for the changelog": Mutation(ROLE, {
        "        await self._states().settle()\n": "",
    }, "lost"),
    "a commit does not wait for the dead letters": Mutation(ROLE, {
        "        await self._letters.settle()\n": "",
    }, "lost"),
    "the last changelog record wins": Mutation(STORE, {
        "        if applied >= found[key][0]:\n": "        if applied >= -1:\n",
    }, "lost"),
}  # fmt: skip


def mutated(mutation: Mutation) -> types.ModuleType:
    """The module with its text replaced."""
    source = (ROOT / mutation.path).read_text(encoding="utf-8")
    for before, after in mutation.replaced.items():
        assert source.count(before) == 1, f"{mutation.path} has changed: {before!r}"
        source = source.replace(before, after)
    module = types.ModuleType(mutation.path.removesuffix(".py").replace("/", "."))
    exec(compile(source, mutation.path, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_promise_breaks_the_simulation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mutated(MUTATIONS[name])
    match MUTATIONS[name].path:
        case "agents/features.py":
            monkeypatch.setattr(features, "features_agent", module.features_agent)
        case "app/roles/features.py":
            monkeypatch.setattr(features, "FeaturesWork", module.FeaturesWork)
        case "tables/store.py":
            monkeypatch.setattr(store, "newest", module.newest)
    assert simulation.simulate(0, []).ok, "without a fault nobody can tell"
    told = MUTATIONS[name].seen_as
    assert any(getattr(simulation.simulate(seed), told) for seed in range(SEEDS)), f"{SEEDS} seeds do not see it"
