#!/usr/bin/env python3
"""Write a model folder in gte-small's shape with made-up weights: for measuring time and memory, nothing else.

    made_up_model.py CONFIG_DIR DST_DIR

CONFIG_DIR has the config.json and tokenizer.json (tests/data/gte-small). The weights are random numbers of the size
that BERT starts its training from, always the same ones.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from export_bert import COPIED_FILES, Bert, write_atomically  # noqa: E402

SEED = 1


class MadeUpWeights:
    """Stands in for the tensors of a safetensors file: a tensor's shape follows from its name."""

    def __init__(self, config):
        self.config = config
        self.random = np.random.default_rng(SEED)

    def __getitem__(self, name):
        config, hidden = self.config, self.config["hidden_size"]
        kind = name.rsplit(".", 1)[1]
        if "LayerNorm" in name:
            return np.full(hidden, 1.0 if kind == "weight" else 0.0, np.float32)
        if "embeddings" in name:
            rows = {"word": "vocab_size", "position": "max_position_embeddings", "token": "type_vocab_size"}
            return self.values(config[rows[name.split(".")[1].split("_")[0]]], hidden)
        inner, outer = config["intermediate_size"], hidden
        linear = name.rsplit(".", 1)[0]
        if linear.endswith("intermediate.dense"):
            shape = (inner, outer)
        elif linear.endswith("output.dense") and "attention" not in linear:
            shape = (outer, inner)
        else:
            shape = (outer, outer)
        return self.values(*shape) if kind == "weight" else self.values(shape[0])

    def values(self, *shape):
        return self.random.normal(0.0, self.config["initializer_range"], shape).astype(np.float32)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: made_up_model.py CONFIG_DIR DST_DIR")
    source, destination = map(Path, sys.argv[1:])
    config = json.loads((source / "config.json").read_text())
    destination.mkdir(parents=True, exist_ok=True)
    for name in COPIED_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, destination / name)
    model = Bert(config, MadeUpWeights(config)).model()
    write_atomically(destination / "model.onnx", model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
