"""Parallel methods: how `parallelize` is to lay a program out on a mesh."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from .runtime.devices import is_count

if TYPE_CHECKING:
    from autopar.passes.importing.methods import MethodOptions
    from autopar.passes.planning.auto_shard import AutoShardPass

    from .decisions import Decisions
    from .plans import Plan

logger = logging.getLogger("autopar")


@dataclass(frozen=True)
class Method:
    """Base of the methods on one mesh.

    `mesh`: a jax Mesh, a shape such as (2, 4), or None for what `parallelize` is given.
    `num_micro_batches`: split the batch into this many parts and accumulate gradients; None: what
    `parallelize` is given, else whole. Where `parallelize` is given either as well, it has to be
    the same.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()

    mesh: Any = None
    num_micro_batches: int | None = None
    micro_batch_reduction: str = "mean"
    """How the gradients and float scalar results of microbatches are put together: mean or sum."""
    batch_axis: str | None = None
    """The mesh axis that the method uses; None: all axes, as one."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further options of the pass annotate-method (small_tensor_elements)."""

    def __post_init__(self) -> None:
        """ValueError names the option that is wrong."""
        from autopar.passes.importing.methods import MethodOptions

        self._check()
        known = [f.name for f in fields(MethodOptions) if f.name not in ("method", "batch_axis")]
        for option in self.options:
            if option not in known:
                raise ValueError(
                    f"options of {type(self).__name__}: {option!r} is unknown; known options: "
                    f"{', '.join(known)}"
                )
        MethodOptions(self.name, self.batch_axis, **self.options)

    def _check(self) -> None:
        if not isinstance(self.options, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"options={self.options!r}: expected a dict of names and values")
        if self.mesh is not None:
            from .meshes import mesh_shape

            mesh_shape(self.mesh)
        check_num_micro_batches(self.num_micro_batches)
        check_reduction(self.micro_batch_reduction)

    def annotation(self, mesh: Any) -> MethodOptions:
        """What annotate-method is to do on a jax Mesh; ValueError for an axis that it has not."""
        from autopar.passes.importing.methods import MethodOptions

        return MethodOptions(self.name, **self._pass_options(mesh))

    def planner(self, mesh: Any) -> AutoShardPass | None:
        """The pass that decides in the place of propagation, if there is one."""
        return None

    def decisions(self, mesh: Any) -> Decisions | None:
        """What is decided already on a jax Mesh, if anything is."""
        return None

    @property
    def splits_batch(self) -> bool:
        """Whether the method has to know which arguments are the batch."""
        return not self.follows

    @property
    def follows(self) -> bool:
        """Whether the shardings of arguments are the user's wish."""
        return False

    def _pass_options(self, mesh: Any) -> dict[str, Any]:
        if self.batch_axis is None:
            return self.options
        if self.batch_axis not in mesh.axis_names:
            known = ", ".join(map(str, mesh.axis_names))
            raise ValueError(f"batch_axis={self.batch_axis!r}: the mesh's axes are {known}")
        return {**self.options, "batch_axis": self.batch_axis}


def check_num_micro_batches(count: Any) -> None:
    """ValueError where `count` is neither a whole number of at least 1 nor None."""
    if count is not None and not is_count(count):
        raise ValueError(f"num_micro_batches={count!r}: expected a whole number of at least 1")


def check_reduction(reduction: str) -> None:
    """ValueError where `reduction` is none."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"micro_batch_reduction={reduction!r}: expected 'mean' or 'sum'")


@dataclass(frozen=True)
class AutoShardParallel(Method):
    """Every value where a step takes least time by the cost model, within a device's memory
    (`auto-shard`); shardings that the user gives bind.

    `options` are those of the pass: cluster, memory_per_device, objective, time_limit, seed, …;
    values of Python (`"zero": 3`, `"memory_per_device": 16 * 2**30`) or the command line's text.
    The cluster is by default the preset that is nearest to the mesh's devices.
    """

    name = "auto"
    aliases = ("alpa",)

    def __post_init__(self) -> None:
        """ValueError names the option that is wrong."""
        self._check()
        if self.batch_axis is not None:
            raise ValueError(
                f"batch_axis={self.batch_axis!r}: AutoShardParallel takes it among its options: "
                f"options={{'batch_axis': {self.batch_axis!r}}}"
            )
        self._planner(self.options)

    @property
    def splits_batch(self) -> bool:
        return False

    def annotation(self, mesh: Any) -> MethodOptions:
        from autopar.passes.importing.methods import MethodOptions

        return MethodOptions("shard")

    def planner(self, mesh: Any) -> AutoShardPass:
        from .runtime.devices import device_memory

        options: dict[str, Any] = {}
        if "cluster" not in self.options:
            devices = list(mesh.devices.flat)
            options["cluster"] = nearest_preset(devices[0].platform, devices[0].device_kind)
            options["memory_per_device"] = device_memory(devices)
        made = self._planner({**options, **self.options})
        self._check_solver(made.solver)
        return made

    @staticmethod
    def _check_solver(name: str | None) -> None:
        """ValueError where nobody registered it: the pass speaks of the command line's --load."""
        if name is None:
            return
        from autopar.passes.solver.registry import solver_names

        from .plugins import load_installed_plugins

        load_installed_plugins()
        known = solver_names()
        if name not in known:
            raise ValueError(
                f"options of AutoShardParallel: solver={name!r} is unknown; registered: "
                f"{', '.join(known) or 'none'}; import the module that calls register_solver"
            )

    @staticmethod
    def known_options() -> list[str]:
        """The names that `options` may have."""
        from autopar.passes.planning.auto_shard import AutoShardPass

        return [f.name for f in fields(AutoShardPass) if f.name not in ("grid", "axis_names")]

    @staticmethod
    def _planner(options: dict[str, Any]) -> AutoShardPass:
        from autopar.passes.manager import checked_option
        from autopar.passes.planning.auto_shard import AutoShardPass

        known = AutoShardParallel.known_options()
        for option in options:
            if option not in known:
                raise ValueError(
                    f"options of AutoShardParallel: {option!r} is unknown; known options: "
                    f"{', '.join(known)}"
                )
        checked: dict[str, Any] = {}
        for option, value in options.items():
            try:
                checked[option] = checked_option(AutoShardPass, option, value)
            except ValueError as error:
                raise ValueError(
                    f"options of AutoShardParallel: {option}={value!r}: {error}"
                ) from None
        return AutoShardPass(**checked)


@dataclass(frozen=True)
class DataParallel(Method):
    """Every device has the whole state and a part of the batch; gradients are all-reduced."""

    name = "dp"


@dataclass(frozen=True)
class Zero2Parallel(Method):
    """Data parallelism with the optimizer state and the gradients sharded (ZeRO-2)."""

    name = "zero2"


@dataclass(frozen=True)
class Zero3Parallel(Method):
    """Data parallelism with the parameters sharded as well (ZeRO-3, FSDP): they are gathered
    before their uses in the forward phase and again in the backward phase."""

    name = "zero3"
    aliases = ("fsdp",)


FSDP = Zero3Parallel


@dataclass(frozen=True)
class ShardParallel(Method):
    """Follows the user's own annotations: NamedSharding of arguments, with_sharding_constraint,
    shard_map; everything else is propagated from them."""

    name = "shard"

    def __post_init__(self) -> None:
        """ValueError names the option that is wrong."""
        super().__post_init__()
        said = {"batch_axis": self.batch_axis, "options": self.options}
        for option, value in said.items():
            if value:
                raise ValueError(
                    f"{option}={value!r}: ShardParallel lays nothing out by itself, it follows the "
                    "shardings of arguments and constraints: leave it out"
                )

    @property
    def follows(self) -> bool:
        return True


def nearest_preset(platform: str, kind: str) -> str:
    """The cluster preset for a device by its platform and kind, as JAX names them; a log line says
    so where there is none of the kind."""
    from autopar.passes.cost.cluster import preset_of

    if platform == "cpu":
        return "cpu"
    preset = preset_of(kind)
    if preset is not None:
        return preset
    nearest = "tpu-v5e" if platform == "tpu" else "8xh100"
    logger.warning(
        "auto-shard knows no cluster of %r devices, and takes %s for it, with their own memory: "
        'name one by options={"cluster": ...}; autopar profile-cluster measures one',
        kind,
        nearest,
    )
    return nearest


_METHODS: tuple[type[Method], ...] = (
    AutoShardParallel,
    DataParallel,
    Zero2Parallel,
    Zero3Parallel,
    ShardParallel,
)
_BY_NAME = {name: cls for cls in _METHODS for name in (cls.name, *cls.aliases)}
DEFAULT_METHOD = "auto"
"""The best road that this version has, when no method is given."""


def method_names(*, aliases: bool = False) -> tuple[str, ...]:
    """The methods by name; with `aliases` every string that `parallelize` takes."""
    return tuple(_BY_NAME) if aliases else tuple(cls.name for cls in _METHODS)


def resolve_method(method: Method | Plan | str | None) -> Method:
    """A method object from what the user gave; ValueError names the known strings."""
    from .plans import Plan

    if isinstance(method, Plan):
        from .plan_reuse import ReusedPlan

        return ReusedPlan.of(method)
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        raise ValueError(f"method={method.__name__} is a class: give a method, {method.__name__}()")
    name = DEFAULT_METHOD if method is None else method
    if not isinstance(name, str) or name not in _BY_NAME:  # pyright: ignore[reportUnnecessaryIsInstance]
        known = ", ".join(method_names(aliases=True))
        raise ValueError(f"method={method!r} is unknown; known methods: {known}")
    return _BY_NAME[name]()
