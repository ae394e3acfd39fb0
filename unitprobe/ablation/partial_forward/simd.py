"""Sixteen numbers at a time, in compiled loops.

A compiler makes vector instructions of a plain loop where it can show that what is written is not
read again, which takes it a test for each pair of arrays before every loop; loops over few units
then spend their time on tests. The loops of `winograd_loops` name their vectors explicitly. The
code is LLVM's, which knows the vectors of every processor: 16 numbers are one register with
AVX-512, two with AVX2 and four on ARM.

This module needs numba, and is imported only where a loop is compiled.

Notes
-----
A *pointer* is the address of the first number of an array, from `floats`; whoever takes it keeps
the array. A *vector* is `WIDTH` float32 numbers. Vectors are added, subtracted and multiplied by
one another, and multiplied by a float32 number from the left.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array

#: Numbers in a vector.
WIDTH = 16

_NUMBER = ir.FloatType()
_VECTOR = ir.VectorType(_NUMBER, WIDTH)
_POINTER = types.CPointer(types.float32)


class _VectorType(types.Type):  # type: ignore[misc]
    """The type of a vector, to numba."""


_vector = _VectorType("vector")


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """What a vector is to LLVM."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)


def _floats(_: Any, array: Any) -> Any:
    """``floats(array)``: the pointer to a contiguous array of float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return make_array(signature.args[0])(context, builder, arguments[0]).data

    return _POINTER(array), generate


def _load(_: Any, pointer: Any, index: Any) -> Any:
    """``load(pointer, index)``: the vector of the numbers from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_vector_at(builder, *arguments), align=4)

    return _vector(_POINTER, types.intp), generate


def _store(_: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """``store(pointer, index, vector)``: write a vector from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _vector_at(builder, *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(_POINTER, types.intp, _vector), generate


def _load_number(_: Any, pointer: Any, index: Any) -> Any:
    """``load_number(pointer, index)``: one number; of an array's, numba would test the index."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return types.float32(_POINTER, types.intp), generate


def _spread(_: Any, number: Any) -> Any:
    """``spread(number)``: the vector of one number, WIDTH times."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(32)
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], ir.Constant(integer, 0))
        places = ir.Constant(ir.VectorType(integer, WIDTH), [0] * WIDTH)
        return builder.shuffle_vector(first, nothing, places)

    return _vector(types.float32), generate


def _rectify(_: Any, vector: Any) -> Any:
    """``rectify(vector)``: 0 instead of numbers below 0; NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(_VECTOR, [0.0] * WIDTH)
        below = builder.fcmp_ordered("<", arguments[0], zero)
        return builder.select(below, zero, arguments[0])

    return _vector(_vector), generate


def _shift(_: Any, pointer: Any, index: Any) -> Any:
    """``shift(pointer, index)``: the pointer to the number at `index`, which need not be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return _POINTER(_POINTER, types.intp), generate


def _fetch(_: Any, pointer: Any, index: Any) -> Any:
    """``fetch(pointer, index)``: have a vector brought near the processor; no more than a hint."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        place = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), byte)
        # For reading, into the second cache, data.
        builder.call(prefetch, [place, *(ir.Constant(integer, number) for number in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(_POINTER, types.intp), generate


def _vector_at(builder: Any, pointer: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), _VECTOR.as_pointer())


floats = intrinsic(_floats)
load = intrinsic(_load)
store = intrinsic(_store)
load_number = intrinsic(_load_number)
spread = intrinsic(_spread)
rectify = intrinsic(_rectify)
shift = intrinsic(_shift)
fetch = intrinsic(_fetch)


def part(function: Callable[..., Any]) -> Any:
    """Compile a function that compiled loops call, into each of them.

    Parameters
    ----------
    function : callable
        Of numbers, vectors and pointers.

    Examples
    --------
    >>> import numpy as np
    >>> @part
    ... def double(pointer, index):
    ...     store(pointer, index, load(pointer, index) + load(pointer, index))
    >>> @numba.njit
    ... def first_doubled(array):
    ...     double(floats(array), 0)
    >>> numbers = np.ones(17, np.float32)
    >>> first_doubled(numbers)
    >>> numbers[[0, 15, 16]]
    array([2., 2., 1.], dtype=float32)
    """
    return numba.njit(error_model="numpy", fastmath={"contract"}, forceinline=True)(function)


def _define(operation: Any, instruction: str) -> None:
    """Let an operator of Python compute with vectors."""

    def compute(_: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # A product and a sum may become one operation, as in `compiled`.
            return getattr(builder, instruction)(*arguments, flags=("contract",))

        return _vector(_vector, _vector), generate

    of_vectors = intrinsic(compute)

    def vector_and_vector(left: Any, right: Any) -> Any:
        return of_vectors(left, right)

    def number_and_vector(left: Any, right: Any) -> Any:
        return of_vectors(spread(left), right)

    def choose(left: Any, right: Any) -> Any:
        if right is not _vector:
            return None
        return {_vector: vector_and_vector, types.float32: number_and_vector}.get(left)

    overload(operation)(choose)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
