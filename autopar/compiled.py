"""A program that runs: `CompiledProgram`."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import logging
from typing import Any

import jax
from jax.sharding import NamedSharding

from autopar.lowering.jax_compat import ArrayImpl, is_key_dtype, key_data, key_impl
from autopar.passes.planning.words import size_text
from autopar.runtime.embedded import MeshExecutable

from .argument_avals import ArgumentAval, host_value
from .lowered import LoweredProgram
from .meshes import MeshChoice
from .plans import Plan

logger = logging.getLogger("autopar")


def peak_bytes(stats: Any) -> int:
    """The most memory of one device that an executable uses, by its own analysis."""
    parts = (stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.temp_size_in_bytes)
    return sum(parts) - stats.alias_size_in_bytes


class CompiledProgram:
    """A program compiled for the devices of its mesh.

    `static`, `context`: the values of static arguments and JAX's settings that it was traced with.
    """

    def __init__(self, lowered: LoweredProgram, static: Any = None, context: Any = None) -> None:
        self.lowered = lowered
        self.static, self.context = static, context
        self.tree = lowered.call.tree
        program = lowered.road.program()
        choice = MeshChoice(program.grid, lowered.meshes, [])
        parts = lowered.parts
        self.executable = MeshExecutable(
            program,
            choice.devices,
            choice.mesh,
            parts["host_callbacks"],
            parts["keepalive"],
            sharding_of=choice.sharding,
            result_avals=lowered.outs,
            has_effects=bool(parts["unordered_effects"] or parts["host_callbacks"]),
        )
        self._tell_memory_above_limit()
        self.mesh = choice.mesh
        self._out_tree = lowered.out_tree
        self._follow = lowered.call.request.follow
        self._requested = lowered.call.shardings
        self._slots: list[ArgumentAval] = lowered.call.avals
        self._shardings = self.executable.input_shardings
        # The last aval and sharding that were found right, to be recognised by identity.
        self._seen_avals: list[Any] = [None] * len(self._slots)
        self._seen_shardings: list[Any] = list(self._shardings)
        self._donated = sorted(lowered.donated)
        self._kept_donations = sorted(lowered.donated - lowered.aliases.keys())

    def _tell_memory_above_limit(self) -> None:
        """Says so where the executable needs more than its plan was to: a plan is held against an
        estimate of what XLA does."""
        planner = self.lowered.road.planner
        if planner is None:
            return
        limit, used = planner.limit(), peak_bytes(self.memory_analysis())
        if used > limit:
            logger.warning(
                "the program was planned for %s a device, and XLA's executable takes %s: "
                "memory_per_device=%d leaves room for what the plan did not count",
                size_text(limit),
                size_text(used),
                limit * limit // used,
            )

    @property
    def plan(self) -> Plan:
        """What was decided for the program, with XLA's own figure of temporary memory."""
        plan = self.lowered.plan
        if plan.temporary_bytes is None:
            stats = self.memory_analysis()
            plan.temporary_bytes = getattr(stats, "temp_size_in_bytes", None)
        return plan

    @property
    def input_shardings(self) -> Any:
        """The shardings of the arguments, as jax's compiled object has them: (args, kwargs)."""
        return jax.tree.unflatten(self.tree, self._shardings)

    @property
    def output_shardings(self) -> Any:
        """The pytree of result shardings."""
        return jax.tree.unflatten(self._out_tree, self.executable.output_shardings)

    def as_text(self) -> str:
        """The optimized HLO of one device."""
        return "\n".join(m.to_string() for m in self.executable.loaded.hlo_modules())

    def cost_analysis(self) -> Any:
        """XLA's figures of one device (FLOPs, bytes accessed)."""
        found = self.executable.loaded.cost_analysis()
        return found[0] if isinstance(found, list) else found

    def memory_analysis(self) -> Any:
        """XLA's memory figures of one device (bytes)."""
        return self.executable.loaded.get_compiled_memory_stats()

    def bind(self, leaves: list[Any]) -> list[Any] | None:
        """The flat arguments placed as the program wants them; None if it was compiled for others.

        This runs at every call: arguments that lie right and were seen before cost a few
        attribute reads.
        """
        seen_avals, seen_shardings = self._seen_avals, self._seen_shardings
        wrong: list[int] = []
        for index, leaf in enumerate(leaves):
            if type(leaf) is ArrayImpl:
                if leaf.is_deleted():  # XLA would bring the process down
                    raise RuntimeError(
                        f"{self.lowered.leaves[index].name} has been deleted, as what an earlier "
                        "call took by donation is: pass that call's result, or do not donate it"
                    )
                if leaf.aval is not seen_avals[index]:
                    if not self._slots[index].fits(leaf):
                        return None
                    seen_avals[index] = leaf.aval
                if leaf.sharding is not seen_shardings[index]:
                    wrong.append(index)
            elif self._slots[index].fits(leaf):
                wrong.append(index)
            else:
                return None
        if not wrong:
            return leaves
        placed = list(leaves)
        for index in wrong:
            value = self._placed(index, leaves[index])
            if value is None:
                return None
            placed[index] = value
        return placed

    def accepts(self, leaves: list[Any]) -> bool:
        """Whether the program was compiled for such arguments (ShapeDtypeStructs included)."""
        for index, leaf in enumerate(leaves):
            if not self._slots[index].fits(leaf):
                return False
            own = getattr(leaf, "sharding", None) if self._follow else None
            if isinstance(own, NamedSharding) and own != self._requested[index]:
                if not own.is_equivalent_to(self._shardings[index], len(leaf.shape)):
                    return False
        return True

    def place(self, leaves: list[Any]) -> list[Any] | None:
        """The flat arguments as jax.Arrays where the program wants them, PRNG keys as keys; None
        if it was compiled for others."""
        placed = self.bind(leaves)
        if placed is None:
            return None
        return [
            jax.random.wrap_key_data(value, impl=key_impl(slot.dtype))
            if slot.dtype is not None and is_key_dtype(slot.dtype)
            else value
            for value, slot in zip(placed, self._slots, strict=True)
        ]

    def _placed(self, index: int, leaf: Any) -> Any:
        """One argument where the program wants it; None if the user wants it elsewhere."""
        target = self._shardings[index]
        if isinstance(leaf, jax.Array):
            own = leaf.sharding
            if own.is_equivalent_to(target, leaf.ndim):
                if type(leaf) is ArrayImpl:
                    self._seen_shardings[index] = own
                return key_data(leaf) if is_key_dtype(leaf.dtype) else leaf
            if isinstance(own, NamedSharding):
                if self._follow and own != self._requested[index]:
                    return None
                if own.num_devices > 1 and own.device_set != target.device_set:
                    raise ValueError(
                        f"{self.lowered.leaves[index].name} lies on {own.num_devices} devices, the "
                        f"program runs on {target.num_devices}{_overlap(own, target)}: place it "
                        "with jax.device_put(x, NamedSharding(mesh, spec)) on the program's mesh"
                    )
            if is_key_dtype(leaf.dtype):
                leaf = key_data(leaf)
        return jax.device_put(host_value(leaf), target)

    def execute(self, leaves: list[Any], placed: list[Any]) -> Any:
        """Runs on flat arguments that `bind` placed; gives the function's result tree."""
        if self._donated and len(set(map(id, leaves))) < len(leaves):
            self._check_donated_once(leaves)
        results = self.executable.run(placed)
        if placed is not leaves:
            self._free(leaves, placed)
        for index in self._kept_donations:
            _delete(placed[index])
        return jax.tree.unflatten(self._out_tree, results)

    def _check_donated_once(self, leaves: list[Any]) -> None:
        """ValueError where a donated array is passed twice: XLA would bring the process down."""
        for index in self._donated:
            for other, leaf in enumerate(leaves):
                if leaf is leaves[index] and other != index and isinstance(leaf, jax.Array):
                    names = [self.lowered.leaves[i].name for i in (index, other)]
                    raise ValueError(
                        f"{names[0]} is donated, and the same array is passed as {names[1]}: pass "
                        "a copy (jnp.copy), or do not donate it"
                    )

    def _free(self, leaves: list[Any], placed: list[Any]) -> None:
        """Deletes donated arguments of which a copy was donated."""
        for index in self._donated:
            if leaves[index] is not placed[index]:
                _delete(leaves[index])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs on the dynamic arguments; TypeError where they are not those it was compiled for."""
        leaves, tree = jax.tree.flatten((args, kwargs))
        placed = self.bind(leaves) if tree == self.tree else None
        if placed is None:
            difference = self._difference(leaves, tree)
            raise TypeError(f"{difference}: call the parallelized function instead")
        return self.execute(leaves, placed)

    def _difference(self, leaves: list[Any], tree: Any) -> str:
        """Why the program does not take the arguments."""
        if tree != self.tree:
            return f"the arguments are {tree}, the program was compiled for {self.tree}"
        for leaf, slot, known in zip(leaves, self._slots, self.lowered.leaves, strict=True):
            if not slot.fits(leaf):
                given = ArgumentAval(leaf)
                return f"{known.name} is {given}, the program was compiled for {slot}"
        for leaf, target, known in zip(leaves, self._shardings, self.lowered.leaves, strict=True):
            own = getattr(leaf, "sharding", None)
            if isinstance(own, NamedSharding) and not own.is_equivalent_to(target, leaf.ndim):
                return (
                    f"{known.name} lies as {own.spec}, the program was compiled for {target.spec}"
                )
        return "the arguments are not those that the program was compiled for"


def _delete(leaf: Any) -> None:
    if isinstance(leaf, jax.Array) and not leaf.is_deleted():
        leaf.delete()


def _overlap(own: NamedSharding, target: NamedSharding) -> str:
    return "" if own.num_devices != target.num_devices else " other ones"
