#!/usr/bin/env python3
"""Write a BERT folder (safetensors) as an ONNX model folder.

    export_bert.py SRC_DIR DST_DIR

SRC_DIR is in the layout of the model hub: config.json, model.safetensors, tokenizer.json and, if the model has
them, modules.json, 1_Pooling/config.json, sentence_bert_config.json, config_sentence_transformers.json.
DST_DIR gets model.onnx and copies of the small files in the same layout. The same input gives the same bytes.

The graph, all float32, opset 17:
    input_ids, attention_mask, token_type_ids   int64  [batch, seq]
    last_hidden_state                           float  [batch, seq, hidden]

Needs numpy, onnx and safetensors (tools/requirements-export.txt).
"""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET = 17
# The IR version that belongs to opset 17; newer ones only shut out older runtimes.
IR_VERSION = 8

COPIED_FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
]

# What a masked position adds to its attention score, as BERT was trained; exp(-10000) is 0 in float32.
MASKED_SCORE = -10000.0

EMBEDDING_SUM = "embeddings/sum"


class ExportError(Exception):
    """The folder cannot be exported; the message says why in one sentence."""


class Graph:
    """Nodes and initializers of an ONNX graph under construction. A value is known by its name, a str."""

    def __init__(self):
        self.nodes = []
        self.initializers = {}

    def constant(self, name, values, dtype):
        """Add an initializer unless the name exists; returns the name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name)
        return name

    def add(self, op_type, inputs, name, **attributes):
        """Add a node with one output, which has the node's name; returns the name."""
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name


class Bert:
    """Builds the graph of one BERT encoder. The op patterns are those that ONNX Runtime fuses."""

    inputs = ("input_ids", "attention_mask", "token_type_ids")

    def __init__(self, config, weights):
        """`config`: the parsed config.json. `weights`: tensor name -> float array, linear weights [out, in]."""
        self.graph = Graph()
        self.weights = weights
        self.hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.epsilon = config["layer_norm_eps"]

    def weight(self, name):
        """Initializer with the weight's own name and shape."""
        return self.graph.constant(name, self.tensor(name), np.float32)

    def tensor(self, name):
        try:
            return self.weights[name]
        except KeyError:
            raise ExportError(f"model.safetensors has no tensor {name}") from None

    def linear(self, x, name):
        """x [..., in] -> [..., out]."""
        weight = self.graph.constant(f"{name}.weight", self.tensor(f"{name}.weight").T, np.float32)
        product = self.graph.add("MatMul", [x, weight], f"{name}/MatMul")
        return self.graph.add("Add", [product, self.weight(f"{name}.bias")], f"{name}/Add")

    def layer_norm(self, x, name, output=None):
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.graph.add("LayerNormalization", inputs, output or f"{name}/out", axis=-1, epsilon=self.epsilon)

    def embeddings(self):
        """-> [batch, seq, hidden]: word + position + segment, normalised."""
        g, name = self.graph, "embeddings"
        word = g.add("Gather", [self.weight(f"{name}.word_embeddings.weight"), "input_ids"], f"{name}/word")
        segment = g.add("Gather", [self.weight(f"{name}.token_type_embeddings.weight"), "token_type_ids"],
                        f"{name}/segment")
        # [seq] as a 1-d tensor, which is what Slice wants for a bound.
        length = g.add("Shape", ["input_ids"], f"{name}/length", start=1, end=2)
        zero = g.constant("zero", [0], np.int64)
        position = g.add("Slice", [self.weight(f"{name}.position_embeddings.weight"), zero, length],
                         f"{name}/position")
        both = g.add("Add", [word, position], f"{name}/word_position")
        total = g.add("Add", [both, segment], EMBEDDING_SUM)
        return self.layer_norm(total, f"{name}.LayerNorm")

    def mask(self):
        """attention_mask -> [batch, 1, 1, seq]: 0 where a token is, MASKED_SCORE where padding is."""
        g = self.graph
        rows = g.add("Unsqueeze", ["attention_mask", g.constant("axis_1", [1], np.int64)], "mask/rows")
        heads = g.add("Unsqueeze", [rows, g.constant("axis_2", [2], np.int64)], "mask/heads")
        present = g.add("Cast", [heads], "mask/present", to=TensorProto.FLOAT)
        absent = g.add("Sub", [g.constant("one", 1.0, np.float32), present], "mask/absent")
        return g.add("Mul", [absent, g.constant("masked_score", MASKED_SCORE, np.float32)], "mask/score")

    def attention(self, x, mask, name):
        """x [batch, seq, hidden] -> [batch, seq, hidden], before the residual is added."""
        g = self.graph
        size = self.hidden // self.heads
        split = g.constant("split_heads", [0, 0, self.heads, size], np.int64)
        join = g.constant("join_heads", [0, 0, self.hidden], np.int64)

        def heads(part, perm):
            linear = self.linear(x, f"{name}.self.{part}")
            parts = g.add("Reshape", [linear, split], f"{name}.self.{part}/Reshape")
            return g.add("Transpose", [parts], f"{name}.self.{part}/Transpose", perm=perm)

        query = heads("query", [0, 2, 1, 3])
        key = heads("key", [0, 2, 3, 1])
        value = heads("value", [0, 2, 1, 3])
        product = g.add("MatMul", [query, key], f"{name}.self/product")
        scale = g.constant("attention_scale", math.sqrt(size), np.float32)
        scaled = g.add("Div", [product, scale], f"{name}.self/scaled")
        scores = g.add("Add", [scaled, mask], f"{name}.self/scores")
        shares = g.add("Softmax", [scores], f"{name}.self/shares", axis=3)
        mixed = g.add("MatMul", [shares, value], f"{name}.self/mixed")
        ordered = g.add("Transpose", [mixed], f"{name}.self/ordered", perm=[0, 2, 1, 3])
        joined = g.add("Reshape", [ordered, join], f"{name}.self/joined")
        return self.linear(joined, f"{name}.output.dense")

    def gelu(self, x, name):
        """x * 0.5 * (1 + erf(x / sqrt(2)))."""
        g = self.graph
        scaled = g.add("Div", [x, g.constant("sqrt_2", math.sqrt(2.0), np.float32)], f"{name}/scaled")
        erf = g.add("Erf", [scaled], f"{name}/Erf")
        shifted = g.add("Add", [erf, g.constant("one", 1.0, np.float32)], f"{name}/shifted")
        product = g.add("Mul", [x, shifted], f"{name}/product")
        return g.add("Mul", [product, g.constant("half", 0.5, np.float32)], f"{name}/out")

    def layer(self, x, mask, name, output=None):
        """One encoder layer, [batch, seq, hidden] -> the same shape."""
        g = self.graph
        attended = g.add("Add", [self.attention(x, mask, f"{name}.attention"), x], f"{name}.attention/residual")
        x = self.layer_norm(attended, f"{name}.attention.output.LayerNorm")
        inner = self.linear(x, f"{name}.intermediate.dense")
        outer = self.linear(self.gelu(inner, f"{name}.intermediate/gelu"), f"{name}.output.dense")
        total = g.add("Add", [outer, x], f"{name}/residual")
        return self.layer_norm(total, f"{name}.output.LayerNorm", output)

    def model(self):
        """-> the checked onnx.ModelProto."""
        x, mask = self.embeddings(), self.mask()
        for i in range(self.layers):
            last = i == self.layers - 1
            x = self.layer(x, mask, f"encoder.layer.{i}", "last_hidden_state" if last else None)
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
                  for name in self.inputs]
        shape = ["batch", "seq", self.hidden]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
        # Shape inference loses "seq" in the sliced position table, and ONNX Runtime fuses an Add with its
        # LayerNormalization only where it can see that both summands have one shape.
        known = helper.make_tensor_value_info(EMBEDDING_SUM, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.graph.nodes, "bert", inputs, [output], value_info=[known],
                                  initializer=list(self.graph.initializers.values()))
        model = helper.make_model(graph, producer_name="pg_embed", ir_version=IR_VERSION,
                                  opset_imports=[helper.make_opsetid("", OPSET)])
        onnx.checker.check_model(model, full_check=True)
        return model


def check_config(config):
    """Refuse what this exporter would get wrong. Raises ExportError."""
    expected = {"model_type": "bert", "hidden_act": "gelu"}
    for key, value in expected.items():
        if config.get(key) != value:
            raise ExportError(f"config.json says {key} = {config.get(key)!r}, only {value!r} can be exported")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ExportError("only absolute position embeddings can be exported")


def write_atomically(path, data):
    """Write bytes so that `path` is either absent, as it was, or complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def export(source, destination):
    """Export the folder `source` into the folder `destination`, which is made if needed.

    model.onnx is written last: a folder that has one is complete. Raises ExportError, or OSError for the files.
    """
    source, destination = Path(source), Path(destination)
    config = json.loads((source / "config.json").read_text())
    check_config(config)
    # Checkpoints saved with a task head put the encoder under "bert.".
    weights = {name.removeprefix("bert."): tensor
               for name, tensor in load_file(source / "model.safetensors").items()}
    model = Bert(config, weights).model()
    for name in COPIED_FILES:
        if (source / name).exists():
            write_atomically(destination / name, (source / name).read_bytes())
    write_atomically(destination / "model.onnx", model.SerializeToString(deterministic=True))


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: export_bert.py SRC_DIR DST_DIR")
    try:
        export(sys.argv[1], sys.argv[2])
    except (ExportError, OSError) as error:
        sys.exit(f"export_bert.py: {error}")


if __name__ == "__main__":
    main()
