#!/usr/bin/env python3
"""Write the quantised twin of a model folder: the same model with 8-bit matrix multiplications.

    quantize_model.py FOLDER NEW_FOLDER

NEW_FOLDER gets FOLDER's small files, a model.onnx and a pg_embed.json that names the model it is the twin of.

Each multiplication with a matrix of weights [in, out] becomes one of integers:
    activations   uint8, zero point 128, one scale a token: 127 for the largest of its values. A text's vector is then the
                  same bit by bit whatever other texts are in its batch, which one scale a tensor, as onnxruntime's
                  quantize_dynamic has it, does not give.
    weights       int8, one scale a column. Seven bits: with eight, processors without VNNI overflow, as they add pairs of
                  products in 16 bits. Measured: nothing is lost by it (STS-B .8203, as with float32).
Where the activations come from a layer normalisation with weight g and bias b, they are first divided by sqrt(g^2 + b^2) and
the rows of the matrix multiplied by it. That evens out columns of very different size, as SmoothQuant does
(https://arxiv.org/abs/2211.10438), but needs no texts to calibrate with. Measured: .8172 without it.
Everything else stays float32: biases, normalisation, the products within attention, word embeddings.

Needs tools/requirements-fuse.txt. The same input gives the same bytes.
Exit code: 0 written, 1 not written (one sentence on stderr says why).
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import xxhash
from onnx import helper, numpy_helper

from export_bert import COPIED_FILES, write_atomically
from fuse_model import MICROSOFT, find_model, first_output, fuse, has_microsoft_operators, load, sample_inputs

# Largest absolute values of the integers.
ACTIVATION = 127
WEIGHT = 63

# Before it, what is written here means something else. The model hub's files have 11 or more.
LEAST_OPSET = 11
# From these opsets on, Split takes its sizes and ReduceMax its axes as an input.
SIZES_AS_INPUT = 13
AXES_AS_INPUT = 18

# Least cosine between the vectors of a text, which are means of hidden states, for texts of random tokens. Measured: .98 with
# all-minilm-l6-v2. Less is no rounding: something else has gone wrong.
LEAST_COSINE = 0.9

# The input of an operator that is a layer normalisation's weight; its bias is the next.
FIRST_NORM_WEIGHT = {"LayerNormalization": 1, "SkipLayerNormalization": 2, "EmbedLayerNormalization": 5}


class QuantizeError(Exception):
    """The folder cannot be quantised; the message says why in one sentence."""


class Quantizer:
    """Rewrites the nodes of one onnx.GraphProto."""

    def __init__(self, model):
        self.graph = model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producers = {output: node for node in self.graph.node for output in node.output}
        self.nodes = []
        self.added = {}
        # Name of activations -> the names of (their integers, the largest absolute value of each token)
        self.quantized = {}

    def constant(self, name, values):
        """Add an initializer unless the name exists; returns the name."""
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def add(self, op_type, inputs, name, **attributes):
        """Add a node with one output, which has the node's name; returns the name."""
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def is_matrix(self, name):
        tensor = self.tensors.get(name)
        return tensor is not None and len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT

    def values(self, name):
        return numpy_helper.to_array(self.tensors[name])

    def smoothing(self, x):
        """What the columns of the activations `x` are divided by: float32 [in], or None."""
        node = self.producers.get(x)
        first = FIRST_NORM_WEIGHT.get(node.op_type) if node is not None else None
        names = node.input[first:first + 2] if first is not None else []
        if len(names) < 2 or any(name not in self.tensors for name in names):
            return None
        weight, bias = (self.values(name) for name in names)
        # A column that is always 0 stays so.
        return np.maximum(np.sqrt(weight**2 + bias**2), 1e-6, dtype=np.float32)

    def largest(self, x):
        """The largest absolute value of each token: [batch, seq, 1]."""
        absolute = self.add("Abs", [x], f"{x}/abs")
        if self.opset < AXES_AS_INPUT:
            return self.add("ReduceMax", [absolute], f"{x}/largest", axes=[-1], keepdims=1)
        last = self.constant("q8/last_axis", np.array([-1], np.int64))
        return self.add("ReduceMax", [absolute, last], f"{x}/largest", keepdims=1)

    def quantize(self, x, smoothing):
        """Activations -> (their integers, the largest absolute value of each token), once for all that share them."""
        if x not in self.quantized:
            smooth = x
            if smoothing is not None:
                smooth = self.add("Mul", [x, self.constant(f"{x}/smoothing", 1 / smoothing)], f"{x}/smooth")
            # It is not 0: no token is all zeros behind a layer normalisation, an activation or an attention.
            largest = self.largest(smooth)
            unit = self.add("Div", [smooth, largest], f"{x}/scaled")
            integers = self.add("QuantizeLinear", [unit, self.scale(), self.zero()], f"{x}/q8")
            self.quantized[x] = (integers, largest)
        return self.quantized[x]

    def scale(self):
        return self.constant("q8/scale", np.float32(1 / ACTIVATION))

    def zero(self):
        return self.constant("q8/zero", np.uint8(128))

    def multiplication(self, x, matrix, output):
        """The activations `x` times the matrix of weights, by name."""
        weights = self.values(matrix).astype(np.float32)
        smoothing = self.smoothing(x)
        if smoothing is not None:
            weights = weights * smoothing[:, None]
        integers, largest = self.quantize(x, smoothing)
        scales = np.maximum(np.abs(weights).max(axis=0) / WEIGHT, np.finfo(np.float32).tiny).astype(np.float32)
        quantized = np.clip(np.round(weights / scales), -WEIGHT, WEIGHT).astype(np.int8)
        # Smoothing makes another matrix of it for each that it is multiplied with.
        name = matrix if smoothing is None else f"{matrix}/{x}"
        inputs = [integers, self.constant(f"{name}/q8", quantized), self.scale(),
                  self.constant(f"{name}/scales", scales), self.zero()]
        product = self.add("MatMulIntegerToFloat", inputs, f"{output}/unit", domain=MICROSOFT)
        return self.add("Mul", [product, largest], output)

    def attention(self, node):
        """Replace `node`, an Attention, which multiplies by its weights itself."""
        x, matrix, bias, mask = node.input[:4]
        output = node.output[0]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        product = self.multiplication(x, matrix, f"{output}/product")
        # MultiHeadAttention would add the bias, but takes longer. Measured: a third with 256 tokens.
        whole = self.add("Add", [product, bias], f"{output}/qkv")
        parts = [f"{output}/{part}" for part in ("query", "key", "value")]
        self.split(whole, parts, len(self.values(bias)) // len(parts))
        self.add("MultiHeadAttention", [*parts, "", mask], output, domain=MICROSOFT, **attributes)

    def split(self, x, parts, size):
        """The activations `x` in parts of one size, by name."""
        sizes = [size] * len(parts)
        if self.opset < SIZES_AS_INPUT:
            node = helper.make_node("Split", [x], parts, name=f"{x}/split", axis=-1, split=sizes)
        else:
            constant = self.constant(f"q8/split_{size}", np.array(sizes, np.int64))
            node = helper.make_node("Split", [x, constant], parts, name=f"{x}/split", axis=-1)
        self.nodes.append(node)

    def run(self):
        """Returns how many multiplications it has replaced."""
        gelus = {node.input[0] for node in self.graph.node if node.op_type == "Gelu"}
        count = 0
        for node in self.graph.node:
            if node.op_type == "MatMul" and self.is_matrix(node.input[1]):
                self.multiplication(*node.input, node.output[0])
                count += 1
                continue
            if is_plain_attention(node) and self.is_matrix(node.input[1]):
                self.attention(node)
                count += 1
                continue
            if node.op_type == "Add" and node.output[0] in gelus:
                # ONNX Runtime would fuse the two to BiasGelu, which takes longer. Measured: 3 % to 10 % of a run.
                node.op_type = "Sum"
            self.nodes.append(node)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend([*kept, *self.added.values()])
        return count


def is_plain_attention(node):
    """Whether it is one that fuse_model.py makes of BERT's: with a bias and a mask, and nothing besides."""
    return (node.op_type == "Attention" and node.domain == MICROSOFT and len(node.input) == 4 and all(node.input)
            and {a.name for a in node.attribute} <= {"num_heads", "mask_filter_value"})


def quantize(path, config):
    """-> the quantised onnx.ModelProto of the file `path`. Raises QuantizeError."""
    model = load(path)
    # As fuse_model.py leaves it, or as it would.
    if not has_microsoft_operators(model):
        model = fuse(model, config).model
    quantizer = Quantizer(model)
    if quantizer.opset < LEAST_OPSET:
        raise QuantizeError(f"{path} has opset {quantizer.opset}; {LEAST_OPSET} or more is needed")
    if quantizer.run() == 0:
        raise QuantizeError(f"{path} has no float32 matrix of weights that could be quantised")
    if not any(opset.domain == MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


def least_cosine(before, after, config):
    """Between the vectors of some texts by two files. A cross-encoder's scores of them are one vector."""
    inputs, mask = sample_inputs(config)
    a, b = (first_output(path, inputs).astype(np.float64) for path in (before, after))
    if a.ndim == 3:
        a, b = ((hidden * mask[..., None]).sum(axis=1) for hidden in (a, b))
    if a.shape[-1] == 1:
        a, b = a.T, b.T
    return float(((a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))).min())


def write_twin(source, destination):
    """Write the twin of the folder `source`. model.onnx is written last. Returns the least cosine. Raises QuantizeError,
    OSError, ValueError."""
    path, config = find_model(source)
    model = quantize(path, config)
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / "model.onnx"
        onnx.save(model, str(new))
        cosine = least_cosine(path, new, config)
        if not cosine >= LEAST_COSINE:
            raise QuantizeError(f"its vectors would be others: the cosine of a text's two is {cosine:.3f}")
        for name in COPIED_FILES:
            if (source / name).exists():
                write_atomically(destination / name, (source / name).read_bytes())
        # XXH3, as pg_embed knows files by: the twin is none of a model whose graph has changed.
        origin = {"twin_of": source.name, "graph": xxhash.xxh3_128(path.read_bytes()).hexdigest()}
        write_atomically(destination / "pg_embed.json", (json.dumps(origin) + "\n").encode())
        write_atomically(destination / "model.onnx", new.read_bytes())
    return cosine


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: quantize_model.py FOLDER NEW_FOLDER")
    try:
        # Not where a symbolic link leads: the link's name is the model's.
        cosine = write_twin(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
    # The library raises whatever it comes upon in a model that it does not know.
    except Exception as error:
        sys.exit(f"quantize_model.py: {error}")
    print(f"wrote {sys.argv[2]}: vectors of random texts have a cosine of {cosine:.3f} or more with those of the model")


if __name__ == "__main__":
    main()
