"""What each operation does with the units of an activation: the only lists of operation names.

The names are those of PyTorch's functions, without underscores at the ends (see
`unitprobe.layers.calls.operation_name`). With these lists `layers` follows the unit axis, `weights`
follows the weights of a unit, and `ablation` follows a change of one unit.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of a text.

    Examples
    --------
    >>> sorted(words("relu gelu"))
    ['gelu', 'relu']
    """
    return frozenset(text.split())


#: Nonlinearities of a single tensor. Each value depends on one value of the input.
_NONLINEARITIES_OF_VALUES = words(
    "relu relu6 leaky_relu threshold elu celu selu softplus gelu silu mish "
    "sigmoid hardsigmoid logsigmoid log_sigmoid hardswish hardtanh tanh tanhshrink softsign"
)
#: All nonlinearities: also those with a parameter or noise for each unit, and GLU, which multiplies
#: one half of the units by the other. Softmax is not one of them: it normalizes along an axis, in
#: most networks that of attention weights, which have no units.
NONLINEARITIES = _NONLINEARITIES_OF_VALUES | words("prelu rrelu glu")
#: `Layer.kind` of a nonlinearity that is made of operations and has no name of its own.
UNNAMED = "nonlinearity"
#: Kinds of nonlinearities for which PyTorch has no function.
COMPOSED_KINDS = frozenset(("relu2", UNNAMED))
NONLINEARITIES |= COMPOSED_KINDS
#: Nonlinearities without negative values.
NEVER_NEGATIVE = words("relu relu2 relu6 softplus sigmoid hardsigmoid")

#: Arithmetic of values at the same position.
_ARITHMETIC = words(
    "add sub rsub mul div neg abs exp sqrt rsqrt square pow clamp clamp_min clamp_max clip"
)
#: Each value depends on the values at the same position of the inputs only.
POINTWISE = _NONLINEARITIES_OF_VALUES | _ARITHMETIC

#: The same values, perhaps of another type.
COPIES = words("clone contiguous detach to float type_as")
#: The same values in evaluation mode.
DROPOUTS = words(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout"
)
#: Combine positions of one unit.
POOLS = words(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool2d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)
#: Change the number of positions.
RESAMPLES = words("interpolate upsample")
#: Join, halve or pad the units.
CHANGES_OF_COUNT = words("cat concat glu pad")

#: Change the order or the shape of values, or select some. The axes of the result are found with a
#: second run on indices.
_REARRANGES = words(
    "T chunk expand expand_as flatten flip getitem index_select mT moveaxis movedim narrow permute "
    "pixel_shuffle pixel_unshuffle repeat reshape roll select split squeeze swapaxes swapdims t "
    "tensor_split transpose unbind unflatten unsqueeze view view_as"
)
#: Reduce an axis; the other axes keep their values in order.
_REDUCES = words("amax amin max mean min std sum var")
#: Leave values along the remaining axes in order, so that these axes can be followed by indices.
MOVES = _REARRANGES | _REDUCES
#: Those of them that may select by indices in another tensor.
PICKS = words("getitem index_select")

#: Make units of axis 1.
CONVOLUTIONS = words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
#: Make units of the last axis.
LINEAR = words("linear bilinear")
RECURRENT_CELLS = words("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
#: Take a sequence; return the sequence of states and the last state.
RECURRENT = words("lstm gru rnn_tanh rnn_relu")
#: Normalize maps with units in axis 1.
NORMS_OF_MAPS = words("batch_norm instance_norm group_norm")
#: Normalize along the last axes.
NORMS_OF_LAST = words("layer_norm rms_norm")
#: Matrix products, of activations or with a weight.
PRODUCTS = words("matmul bmm mm")
#: Sum over axes that depend on the arguments. Their axes are found by changing one unit.
CONTRACTIONS = words(
    "einsum tensordot inner outer addmm addbmm baddbmm addmv mv multi_dot chain_matmul kron cdist "
    "gather take_along_dim fold unfold"
)

#: New tensors that take nothing but the shape or type of an activation.
CREATIONS = words(
    "new_empty new_full new_ones new_tensor new_zeros empty_like full_like ones_like rand_like "
    "randint_like randn_like zeros_like"
)
#: One function to PyTorch, many operations to a reader of activations.
COMPOSITES = words("multi_head_attention_forward")
#: Pass a value of a tensor on to Python: ``if x.sum() > 0``, ``float(x)``, ``x.tolist()``.
VALUES = words("allclose array bool contains equal float index int is_nonzero item numpy tolist")
#: Return a tensor whose size depends on values.
DATA_DEPENDENT_SIZES = words("argwhere masked_select nonzero unique unique_consecutive")

#: The plain operation of a reflected one: ``2 - x`` is a subtraction.
REFLECTED = {"rsub": "sub", "rdiv": "div", "rpow": "pow", "rmatmul": "matmul", "ifloordiv": "div"}

#: `Layer.kind` of the operations that do not have the kind of their own name.
KINDS = {
    **dict.fromkeys(CONVOLUTIONS, "conv"),
    **dict.fromkeys(LINEAR, "linear"),
    **dict.fromkeys(NORMS_OF_MAPS | NORMS_OF_LAST | {"local_response_norm"}, "norm"),
    **dict.fromkeys(POOLS, "pool"),
    **dict.fromkeys(("rnn_tanh", "rnn_relu", "rnn_tanh_cell", "rnn_relu_cell"), "rnn"),
    "lstm_cell": "lstm",
    "gru_cell": "gru",
}

#: The nonlinearity of a class whose name in lower case is not that of the function.
NONLINEARITY_CLASSES = {
    "geglu": "glu",
    "gelutanh": "gelu",
    "leakyrelu": "leaky_relu",
    "hardmish": "mish",
    "hardswishme": "hardswish",
    "quickgelu": "gelu",
    "swish": "silu",
    "swishme": "silu",
}
