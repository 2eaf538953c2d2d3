"""Random numbers."""

from __future__ import annotations

from xdsl.irdl import operand_def, prop_def, result_def, traits_def
from xdsl.traits import MemoryReadEffect, MemoryWriteEffect, Pure

from .attributes import RngAlgorithm, RngDistribution
from .base import AnyTensor, StableHLOOp, irdl_op_definition


@irdl_op_definition
class RngOp(StableHLOOp):
    """Random numbers from the device's own state."""

    name = "stablehlo.rng"

    a = operand_def(AnyTensor)
    b = operand_def(AnyTensor)
    shape = operand_def(AnyTensor)
    rng_distribution = prop_def(RngDistribution)
    result = result_def(AnyTensor)

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())


@irdl_op_definition
class RngBitGeneratorOp(StableHLOOp):
    """Random bits from a given state, and the state after it."""

    name = "stablehlo.rng_bit_generator"

    initial_state = operand_def(AnyTensor)
    rng_algorithm = prop_def(RngAlgorithm)
    output_state = result_def(AnyTensor)
    output = result_def(AnyTensor)

    traits = traits_def(Pure())


OPERATIONS = [RngOp, RngBitGeneratorOp]
