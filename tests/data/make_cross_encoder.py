#!/usr/bin/env python3
"""Generate a tiny cross-encoder and what it must answer. Run it without arguments.

Writes, beside this file:
    tiny-cross/                 tiny-bert's shape and tokenizer with other weights, a pooler and one logit, in the layout of
                                cross-encoder/ms-marco-MiniLM-L6-v2 on the hub
    tiny-cross.expected.json    pairs of texts with the ids and token types of both, cut at 64 tokens, and the logit
The values come from Python's tokenizers and onnxruntime, one pair at a time, without padding; a pair that is too long is cut as
sentence-transformers' CrossEncoder has it cut ("longest first").

Needs what make_tiny_bert.py needs.
"""

import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from make_tiny_bert import (DATA, HEADS, HIDDEN, INTERMEDIATE, LAYERS, MAX_TOKENS, SEED, TEXTS, make_tokenizer, make_weights,
                            vocabulary, write_json)
from export_bert import Bert, write_atomically

FOLDER = DATA / "tiny-cross"

LONG = "the man of the house and the child of the city read a paper about the river and the mountain " * 5
QUERIES = ["how does the database search a table?", "red apple", "", "日本語 cat", LONG]
DOCUMENTS = TEXTS + [LONG, "The database reads the pages of an index and finds the rows of a table."]


def with_head(model):
    """`model` with one logit a text in the place of its hidden states: a dense layer on the first token's, tanh, and another."""
    random = np.random.default_rng(SEED + 1)
    tensors = {"pooler.weight": random.standard_normal((HIDDEN, HIDDEN)) / HIDDEN ** 0.5,
               "pooler.bias": random.standard_normal(HIDDEN) * 0.1,
               "classifier.weight": random.standard_normal((HIDDEN, 1)),
               "classifier.bias": random.standard_normal(1)}
    graph = model.graph
    graph.initializer.extend(numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items())
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "first_token"))
    graph.node.extend([
        helper.make_node("Gather", ["last_hidden_state", "first_token"], ["first"], "first", axis=1),
        helper.make_node("Gemm", ["first", "pooler.weight", "pooler.bias"], ["pooler/dense"], "pooler/dense"),
        helper.make_node("Tanh", ["pooler/dense"], ["pooler"], "pooler"),
        helper.make_node("Gemm", ["pooler", "classifier.weight", "classifier.bias"], ["logits"], "logits"),
    ])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1]))
    onnx.checker.check_model(model, full_check=True)
    return model


def expected():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    for query in QUERIES:
        for document in DOCUMENTS:
            tokenizer.no_truncation()
            token_count = len(tokenizer.encode(query, document).ids)
            tokenizer.enable_truncation(MAX_TOKENS, strategy="longest_first")
            encoding = tokenizer.encode(query, document)
            ids, types = np.array([encoding.ids]), np.array([encoding.type_ids])
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
            logit = session.run(["logits"], inputs)[0][0, 0]
            yield {"query": query, "document": document, "tokens": len(encoding.ids),
                   "truncated": token_count > MAX_TOKENS, "logit": float(f"{logit:.7g}")}


def main():
    vocab = vocabulary()
    config = {
        "architectures": ["BertForSequenceClassification"], "hidden_act": "gelu", "hidden_size": HIDDEN,
        "id2label": {"0": "LABEL_0"}, "intermediate_size": INTERMEDIATE, "label2id": {"LABEL_0": 0},
        "layer_norm_eps": 1e-12, "max_position_embeddings": MAX_TOKENS, "model_type": "bert",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "pad_token_id": 0,
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity", "type_vocab_size": 2,
        "vocab_size": len(vocab)}
    write_json(FOLDER / "config.json", config)
    write_json(FOLDER / "tokenizer_config.json", {"model_max_length": MAX_TOKENS, "tokenizer_class": "BertTokenizer"})
    make_tokenizer(vocab).save(str(FOLDER / "tokenizer.json"))
    weights = make_weights(config)
    # So that a score depends on which of its texts a word is in.
    weights["embeddings.token_type_embeddings.weight"] *= 5
    model = with_head(Bert(config, weights).model())
    write_atomically(FOLDER / "model.onnx", model.SerializeToString(deterministic=True))
    pairs = ",\n".join("  " + json.dumps(pair) for pair in expected())
    write_atomically(DATA / "tiny-cross.expected.json", f'{{"pairs": [\n{pairs}\n]}}\n'.encode())


if __name__ == "__main__":
    main()
