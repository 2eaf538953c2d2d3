"""Random small StableHLO programs with random sdy shardings, as text."""

from __future__ import annotations

from math import prod
from random import Random

MESHES = [
    [("x", 2), ("y", 4)],
    [("x", 2), ("y", 2), ("z", 2)],
    [("x", 8)],
    [("x", 2), ("y", 3)],
]
SIZES = [1, 2, 3, 4, 6, 8, 12, 16]
UNARY = ["tanh", "negate", "exponential", "sqrt"]
BINARY = ["add", "multiply", "subtract", "maximum"]

Shape = tuple[int, ...]


def tensor(shape: Shape, element: str = "f32") -> str:
    return "tensor<" + "".join(f"{s}x" for s in shape) + element + ">"


class ProgramWriter:
    """Writes one function; every choice comes from `random`."""

    def __init__(
        self,
        random: Random,
        *,
        sub_axes: bool = True,
        priorities: bool = True,
        regions: bool = True,
    ) -> None:
        self.random = random
        self.mesh = random.choice(MESHES)
        self.sub_axes, self.priorities, self.regions = sub_axes, priorities, regions
        self.lines: list[str] = []
        self.values: list[tuple[str, Shape]] = []
        self.count = 0
        self.group_id = 0
        self.constrained: set[str] = set()
        """Values that a sharding was demanded of: no members of groups, which might disagree."""
        self.grouped: set[str] = set()
        """Members of groups: of these no sharding is demanded any more."""

    def shape(self, rank: int | None = None) -> Shape:
        rank = self.random.choice([1, 2, 2, 2, 3, 3]) if rank is None else rank
        return tuple(self.random.choice(SIZES) for _ in range(rank))

    def sharding(self, rank: int) -> str:
        """A sharding of some axes, each on some dimension or replicated."""
        random = self.random
        free: list[tuple[str, int]] = []
        for name, size in self.mesh:
            if self.sub_axes and size == 4 and random.random() < 0.3:
                free += [(f'"{name}":(1)2', 2), (f'"{name}":(2)2', 2)]
            elif self.sub_axes and size == 8 and random.random() < 0.5:
                free += [(f'"{name}":(1)2', 2), (f'"{name}":(2)4', 4)]
            else:
                free.append((f'"{name}"', size))
        random.shuffle(free)
        dims: list[str] = []
        for _ in range(rank):
            axes: list[str] = []
            while free and random.random() < 0.35:
                axis = free.pop()[0]
                if axes and axis.split(":")[0] == axes[-1].split(":")[0]:
                    continue  # consecutive sub-axes must be written as one
                axes.append(axis)
            if random.random() < 0.4:
                axes.append("?")
            priority = ""
            if self.priorities and random.random() < 0.15 and axes:
                priority = f"p{random.randint(0, 3)}"
            dims.append("{" + ", ".join(axes) + "}" + priority)
        text = f"<@mesh, [{', '.join(dims)}]"
        if free and random.random() < 0.1:
            text += ", replicated={" + free[0][0] + "}"
        return text + ">"

    def emit(self, text: str, shape: Shape) -> str:
        name = f"%v{self.count}"
        self.count += 1
        self.lines.append(f"{name} = {text}")
        self.values.append((name, shape))
        return name

    def pick(self, rank: int | None = None) -> tuple[str, Shape]:
        found = [v for v in self.values if rank is None or len(v[1]) == rank]
        if found:
            return self.random.choice(found[-6:])
        shape = self.shape(rank)
        return self.constant(shape), shape

    def like(self, shape: Shape) -> str:
        """A value of this shape: an existing one, a constant, or one broadcast to it."""
        found = [name for name, own in self.values if own == shape]
        if found and self.random.random() < 0.8:
            return self.random.choice(found)
        return self.constant(shape)

    def constant(self, shape: Shape) -> str:
        choice = self.random.random()
        type_ = tensor(shape)
        if choice < 0.4:
            return self.emit(f"stablehlo.constant dense<1.0> : {type_}", shape)
        if choice < 0.7 and shape:
            dim = self.random.randrange(len(shape))
            return self.emit(f"stablehlo.iota dim = {dim} : {type_}", shape)
        return self.emit(
            f"stablehlo.broadcast_in_dim %s, dims = [] : (tensor<f32>) -> {type_}", shape
        )

    def step(self) -> None:
        random = self.random
        steps = [
            self.unary, self.binary, self.binary, self.dot, self.dot, self.reshape, self.reshape,
            self.transpose, self.reduce, self.broadcast, self.concatenate, self.slice, self.pad,
            self.constraint, self.dynamic_slice, self.gather,
        ]  # fmt: skip
        if self.regions:
            steps += [self.barrier, self.loop, self.case, self.manual, self.propagation_barrier]
            steps += [self.group, self.shared]
        random.choice(steps)()

    def unary(self) -> None:
        name, shape = self.pick()
        self.emit(f"stablehlo.{self.random.choice(UNARY)} {name} : {tensor(shape)}", shape)

    def binary(self) -> None:
        name, shape = self.pick()
        other = self.like(shape)
        op = self.random.choice(BINARY)
        self.emit(f"stablehlo.{op} {name}, {other} : {tensor(shape)}", shape)

    def dot(self) -> None:
        name, shape = self.pick(self.random.choice([2, 3]))
        batch = 1 if len(shape) == 3 and self.random.random() < 0.5 else 0
        other_shape = (*shape[:batch], shape[-1], self.random.choice(SIZES))
        other = self.like(other_shape)
        out = (*shape[:-1], other_shape[-1])
        dims = f"contracting_dims = [{len(shape) - 1}] x [{batch}]"
        if batch:
            dims = "batching_dims = [0] x [0], " + dims
        self.emit(
            f"stablehlo.dot_general {name}, {other}, {dims} : "
            f"({tensor(shape)}, {tensor(other_shape)}) -> {tensor(out)}",
            out,
        )

    def reshape(self) -> None:
        name, shape = self.pick()
        total, out = prod(shape), []
        rank = self.random.choice([1, 2, 2, 3, 4])
        for _ in range(rank - 1):
            size = self.random.choice([d for d in range(1, total + 1) if total % d == 0][:12])
            out.append(size)
            total //= size
        out.append(total)
        if self.random.random() < 0.5:
            self.random.shuffle(out)
        new = tuple(out)
        self.emit(f"stablehlo.reshape {name} : ({tensor(shape)}) -> {tensor(new)}", new)

    def transpose(self) -> None:
        name, shape = self.pick()
        order = list(range(len(shape)))
        self.random.shuffle(order)
        out = tuple(shape[d] for d in order)
        self.emit(
            f"stablehlo.transpose {name}, dims = {order} : ({tensor(shape)}) -> {tensor(out)}", out
        )

    def reduce(self) -> None:
        name, shape = self.pick()
        if len(shape) < 2:
            return
        dim = self.random.randrange(len(shape))
        out = shape[:dim] + shape[dim + 1 :]
        self.emit(
            f"stablehlo.reduce({name} init: %s) applies stablehlo.add across dimensions = [{dim}] "
            f": ({tensor(shape)}, tensor<f32>) -> {tensor(out)}",
            out,
        )

    def broadcast(self) -> None:
        name, shape = self.pick()
        if len(shape) > 3:
            return
        position = self.random.randrange(len(shape) + 1)
        out = (*shape[:position], self.random.choice(SIZES), *shape[position:])
        dims = [d for d in range(len(out)) if d != position]
        out = tuple(
            self.random.choice(SIZES) if s == 1 and d != position else s for d, s in enumerate(out)
        )
        self.emit(
            f"stablehlo.broadcast_in_dim {name}, dims = {dims} : "
            f"({tensor(shape)}) -> {tensor(out)}",
            out,
        )

    def concatenate(self) -> None:
        name, shape = self.pick()
        dim = self.random.randrange(len(shape))
        other = self.like(shape)
        out = tuple(2 * s if d == dim else s for d, s in enumerate(shape))
        self.emit(
            f"stablehlo.concatenate {name}, {other}, dim = {dim} : "
            f"({tensor(shape)}, {tensor(shape)}) -> {tensor(out)}",
            out,
        )

    def slice(self) -> None:
        name, shape = self.pick()
        starts = [self.random.randrange(s) if self.random.random() < 0.4 else 0 for s in shape]
        out = tuple(s - a for s, a in zip(shape, starts, strict=True))
        ranges = ", ".join(f"{a}:{s}" for a, s in zip(starts, shape, strict=True))
        self.emit(f"stablehlo.slice {name} [{ranges}] : ({tensor(shape)}) -> {tensor(out)}", out)

    def pad(self) -> None:
        name, shape = self.pick()
        low = [self.random.choice([0, 0, 1, 2]) for _ in shape]
        out = tuple(s + a for s, a in zip(shape, low, strict=True))
        zero = [0] * len(shape)
        self.emit(
            f"stablehlo.pad {name}, %s, low = {low}, high = {zero}, interior = {zero} : "
            f"({tensor(shape)}, tensor<f32>) -> {tensor(out)}",
            out,
        )

    def dynamic_slice(self) -> None:
        name, shape = self.pick()
        out = tuple(self.random.choice([s, s, 1]) for s in shape)
        indices = ", ".join(["%i"] * len(shape))
        types = ", ".join([tensor(shape)] + ["tensor<i32>"] * len(shape))
        piece = self.emit(
            f"stablehlo.dynamic_slice {name}, {indices}, sizes = {list(out)} : "
            f"({types}) -> {tensor(out)}",
            out,
        )
        if self.random.random() < 0.5:
            types = ", ".join([tensor(shape), tensor(out)] + ["tensor<i32>"] * len(shape))
            self.emit(
                f"stablehlo.dynamic_update_slice {name}, {piece}, {indices} : "
                f"({types}) -> {tensor(shape)}",
                shape,
            )

    def gather(self) -> None:
        name, shape = self.pick(2)
        count = self.random.choice(SIZES)
        indices = f"%g{self.count}"
        self.lines.append(f"{indices} = stablehlo.iota dim = 0 : tensor<{count}x1xi32>")
        out = (count, shape[1])
        self.emit(
            f'"stablehlo.gather"({name}, {indices}) <{{dimension_numbers = #stablehlo.gather<'
            "offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], "
            f"index_vector_dim = 1>, slice_sizes = array<i64: 1, {shape[1]}>}}> : "
            f"({tensor(shape)}, tensor<{count}x1xi32>) -> {tensor(out)}",
            out,
        )

    def constraint(self) -> None:
        name, shape = self.pick()
        if name in self.grouped:
            return
        self.constrained.add(name)
        self.constrained.add(f"%v{self.count}")
        self.emit(
            f"sdy.sharding_constraint {name} {self.sharding(len(shape))} : {tensor(shape)}", shape
        )

    def barrier(self) -> None:
        name, shape = self.pick()
        self.emit(f"stablehlo.optimization_barrier {name} : {tensor(shape)}", shape)

    def propagation_barrier(self) -> None:
        name, shape = self.pick()
        direction = self.random.choice(["NONE", "FORWARD", "BACKWARD"])
        self.emit(
            f"sdy.propagation_barrier {name} allowed_direction={direction} : {tensor(shape)}", shape
        )

    def group(self) -> None:
        """Two values that must share a sharding (those without one of their own)."""
        name, shape = self.pick()
        free = [
            other
            for other, own in self.values
            if own == shape and other.startswith("%v") and other not in self.constrained
        ]
        if name not in free or len(free) < 2:
            return
        self.group_id += 1
        for member in sorted({name, self.random.choice(free)}):
            self.grouped.add(member)
            self.lines.append(
                f"sdy.sharding_group {member} group_id = {self.group_id} : {tensor(shape)}"
            )

    def shared(self) -> None:
        """Constants that are read more than once, and are often in a group."""
        name, shape = self.pick()
        type_ = tensor(shape)
        constant = self.constant(shape)
        follower = self.emit(f"stablehlo.negate {constant} : {type_}", shape)
        both = self.emit(f"stablehlo.add {follower}, {constant} : {type_}", shape)
        self.emit(
            f"stablehlo.multiply {name}, {self.random.choice([constant, both])} : {type_}", shape
        )
        if self.random.random() < 0.7:
            self.group()

    def case(self) -> None:
        name, shape = self.pick()
        other = self.like(shape)
        type_ = tensor(shape)
        branches = [
            f"{{\n  %b = stablehlo.{op} {value}, {value} : {type_}\n"
            f"  stablehlo.return %b : {type_}\n }}"
            for op, value in ((self.random.choice(BINARY), name), ("add", other))
        ]
        self.emit(f'"stablehlo.case"(%i) ({", ".join(branches)}) : (tensor<i32>) -> {type_}', shape)

    def manual(self) -> None:
        """A manual computation over one axis of one dimension (or replicated)."""
        name, shape = self.pick()
        if name in self.grouped:
            return
        axis, size = self.random.choice(self.mesh)
        dims = [d for d, s in enumerate(shape) if s % size == 0]
        split = self.random.choice(dims) if dims and self.random.random() < 0.7 else None
        closed = self.random.random() < 0.3
        open_ = "" if closed else "?"
        parts = [
            "{" + ", ".join([f'"{axis}"'] * (d == split) + [open_] * bool(open_)) + "}"
            for d in range(len(shape))
        ]
        replicated = f', replicated={{"{axis}"}}' if split is None else ""
        sharding = f"<@mesh, [{', '.join(parts)}]{replicated}>"
        local = tuple(s // size if d == split else s for d, s in enumerate(shape))
        self.emit(
            f"sdy.manual_computation({name}) in_shardings=[{sharding}] out_shardings=[{sharding}] "
            f'manual_axes={{"{axis}"}} (%l: {tensor(local)}) {{\n'
            f"  %m = stablehlo.{self.random.choice(UNARY)} %l : {tensor(local)}\n"
            f"  sdy.return %m : {tensor(local)}\n }} : ({tensor(shape)}) -> {tensor(shape)}",
            shape,
        )
        self.constrained.add(self.values[-1][0])

    def loop(self) -> None:
        name, shape = self.pick()
        type_ = tensor(shape)
        other = self.like(shape)
        op = self.random.choice(BINARY)
        self.count += 1
        result = f"%w{self.count}"
        self.lines.append(
            f"{result}:2 = stablehlo.while(%it = %i, %x = {name}) : tensor<i32>, {type_} cond {{\n"
            "  %p = stablehlo.compare LT, %it, %i : (tensor<i32>, tensor<i32>) -> tensor<i1>\n"
            "  stablehlo.return %p : tensor<i1>\n } do {\n"
            f"  %n = stablehlo.{op} %x, {other} : {type_}\n"
            f"  stablehlo.return %it, %n : tensor<i32>, {type_}\n }}"
        )
        self.values.append((f"{result}#1", shape))

    def write(self, steps: int) -> str:
        random = self.random
        args: list[str] = []
        for index in range(random.randint(1, 4)):
            shape = self.shape()
            name = f"%a{index}"
            attribute = ""
            if random.random() < 0.7:
                attribute = f" {{sdy.sharding = #sdy.sharding{self.sharding(len(shape))}}}"
            args.append(f"{name}: {tensor(shape)}{attribute}")
            self.values.append((name, shape))
        for _ in range(steps):
            self.step()
        count = random.randint(1, 3)
        made = [v for v in self.values if not v[0].startswith("%a")] or self.values
        results = [made[-1]] + [random.choice(made) for _ in range(count - 1)]
        types = ", ".join(tensor(shape) for _, shape in results)
        annotated = ", ".join(
            tensor(shape)
            + (
                f" {{sdy.sharding = #sdy.sharding{self.sharding(len(shape))}}}"
                if random.random() < 0.2
                else ""
            )
            for _, shape in results
        )
        axes = ", ".join(f'"{name}"={size}' for name, size in self.mesh)
        body = "\n ".join(self.lines)
        return (
            f"sdy.mesh @mesh = <[{axes}]>\n"
            f"func.func @main({', '.join([*args, '%s: tensor<f32>', '%i: tensor<i32>'])}) "
            f"-> ({annotated}) {{\n {body}\n"
            f" return {', '.join(name for name, _ in results)} : {types}\n}}"
        )


def random_program(seed: int, steps: int = 8, **options: bool) -> str:
    return ProgramWriter(Random(seed), **options).write(steps)
