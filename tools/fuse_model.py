#!/usr/bin/env python3
"""Fuse the operators of a model folder's graph with ONNX Runtime's own tool, so that it takes less time.

    fuse_model.py FOLDER

Replaces FOLDER's model.onnx (or onnx/model.onnx) if attention becomes one operator a layer, which ONNX Runtime's C library
does not do by itself, and if the new graph gives the same hidden states, to TOLERANCE of the largest of them. Any other
model stays as it is; one line says which.

Needs tools/requirements-fuse.txt.
Exit code: 0 whatever became of the model, 1 if its folder cannot be read.
"""

import contextlib
import io
import json
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

from export_bert import write_atomically

# float32 has 6e-8, and a dozen layers add to it. Measured with all-minilm-l6-v2: 1e-6.
TOLERANCE = 1e-5

# Texts of these many tokens are compared, in one batch: padding must not matter.
LENGTHS = [1, 7, 32, 64]

MICROSOFT = "com.microsoft"


class NotFused(Exception):
    """The model stays as it is; the message says why."""


def find_model(folder):
    """-> (the folder's ONNX file, its parsed config.json). Raises OSError, ValueError."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("model.onnx", "onnx/model.onnx"):
        if (folder / name).is_file():
            return folder / name, config
    raise FileNotFoundError(f"{folder} has no model.onnx")


def config_number(config, *names):
    """The number that config.json has under one of these names, which differ between architectures; 0 if it has none."""
    return next((config[name] for name in names if name in config), 0)


def load(path):
    """-> the onnx.ModelProto of the file `path`, with its weights."""
    model = onnx.load(str(path))
    # Old files list weights among the inputs, too, where nothing takes them for constants.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def has_microsoft_operators(model):
    return any(node.domain == MICROSOFT for node in model.graph.node)


def fuse(model, config):
    """`model` with what can be fused in it: normalisation, GELU, attention. -> optimizer.OnnxModel"""
    options = FusionOptions("bert")
    # ONNX Runtime would do this one by itself; quantize_model.py has use for the parts.
    options.enable_bias_gelu = False
    # What it prints and logs is for who writes such tools.
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return optimizer.optimize_model(
            model, model_type="bert", num_heads=config_number(config, "num_attention_heads", "n_heads"),
            hidden_size=config_number(config, "hidden_size", "dim"), opt_level=0, optimization_options=options)


def sample_inputs(config):
    """Texts of random tokens, of several lengths, padded on the right. -> (inputs by name, mask), int64 [texts, tokens]"""
    generator = np.random.default_rng(1)
    # Some models number positions from 2.
    longest = min(LENGTHS[-1], config.get("max_position_embeddings", 512) - 2)
    lengths = np.minimum(LENGTHS, longest)
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    ids = generator.integers(5, config["vocab_size"], mask.shape) * mask
    positions = np.arange(longest) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids), "position_ids": positions}, mask


def first_output(path, inputs):
    """The first output of the model in the file `path`, of those inputs that it has."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    return session.run(None, {name: value for name, value in inputs.items() if name in wanted})[0]


def check(before, after, config):
    """Compare two files. Raises NotFused."""
    inputs, mask = sample_inputs(config)
    a, b = first_output(before, inputs), first_output(after, inputs)
    if a.ndim == 3:
        a, b = a * mask[..., None], b * mask[..., None]
    difference = float(np.abs(a - b).max() / np.abs(a).max())
    if not difference <= TOLERANCE:
        raise NotFused(f"its hidden states would be others, by {difference:.1e}")


def replace(path, config):
    """Put the fused graph in the place of the file `path`. Raises NotFused."""
    model = load(path)
    if has_microsoft_operators(model):
        raise NotFused("it has ONNX Runtime's own operators already")
    fused = fuse(model, config)
    layers = config_number(config, "num_hidden_layers", "n_layers")
    found = fused.get_fused_operator_statistics().get("Attention", 0)
    if found == 0 or found != layers:
        raise NotFused(f"attention can be fused in {found} of {layers} layers")
    with tempfile.TemporaryDirectory() as scratch:
        new = Path(scratch) / "model.onnx"
        onnx.save(fused.model, str(new))
        check(path, new, config)
        write_atomically(path, new.read_bytes())


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: fuse_model.py FOLDER")
    try:
        path, config = find_model(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"fuse_model.py: {error}")
    try:
        replace(path, config)
    # The tool and the library raise whatever they come upon in a model that they do not know.
    except Exception as error:
        print(f"left as it is: {path}: {error}")
    else:
        print(f"fused {path}")


if __name__ == "__main__":
    main()
