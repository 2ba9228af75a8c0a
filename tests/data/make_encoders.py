#!/usr/bin/env python3
"""Generate tiny encoders of other architectures than tiny-bert's and what they must answer. Run it without arguments.

Writes encoders/NAME/ beside this file, each with random weights from a fixed seed and an expected.json (as
tiny-bert.expected.json, with mean pooled vectors):
    roberta         byte-level BPE, no token types; the graph numbers positions by itself, from 2
    xlm-roberta     unigram; an input `position_ids`, numbered from 2
    distilbert      WordPiece, no token types, names of its own in config.json; weights in a file beside model.onnx
    float16         BERT with float16 weights and output, and an input `position_ids`, numbered from 0
The vectors come from Python's tokenizers and onnxruntime, one text at a time, without padding. The unigram tokenizer is
trained anew by each run, with a little luck in it.

Needs what make_tiny_bert.py needs.
"""

import json

import numpy as np
import onnx
import onnxruntime
from onnxruntime.transformers.float16 import convert_float_to_float16
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from make_tiny_bert import (DATA, HEADS, HIDDEN, INTERMEDIATE, LAYERS, MAX_TOKENS, TEXTS, make_tokenizer, make_weights,
                            normalised, vocabulary, write_json)
from export_bert import EMBEDDING_SUM, Bert, write_atomically

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# Where RoBERTa's positions begin: behind the id of <pad>.
FIRST_POSITION = 2


class Encoder(Bert):
    """A BERT without token types. `positions`: "mask" if the graph counts them by attention_mask, "length" by the number of
    tokens, "input" if it is given them."""

    def __init__(self, config, weights, positions):
        super().__init__(config, weights)
        self.positions = positions
        self.inputs = ("input_ids", "attention_mask") + (("position_ids",) if positions == "input" else ())

    def position_ids(self):
        g = self.graph
        if self.positions == "input":
            return "position_ids"
        count = g.add("CumSum", ["attention_mask", g.constant("axis", 1, np.int64)], "positions/count")
        if self.positions == "length":
            return g.add("Sub", [count, g.constant("first", 1, np.int64)], "positions/ids")
        present = g.add("Mul", [count, "attention_mask"], "positions/present")
        return g.add("Add", [present, g.constant("pad_token_id", FIRST_POSITION - 1, np.int64)], "positions/ids")

    def embeddings(self):
        g, name = self.graph, "embeddings"
        word = g.add("Gather", [self.weight(f"{name}.word_embeddings.weight"), "input_ids"], f"{name}/word")
        table = self.weight(f"{name}.position_embeddings.weight")
        position = g.add("Gather", [table, self.position_ids()], f"{name}/position")
        return self.layer_norm(g.add("Add", [word, position], EMBEDDING_SUM), f"{name}.LayerNorm")


def config(model_type, vocab_size, **others):
    return {"model_type": model_type, "vocab_size": vocab_size, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "intermediate_size": INTERMEDIATE, "hidden_act": "gelu",
            "max_position_embeddings": MAX_TOKENS, "layer_norm_eps": 1e-5, **others}


def with_sentence_ends(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")])
    return tokenizer


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return with_sentence_ends(tokenizer)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXTS, trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", show_progress=False))
    return with_sentence_ends(tokenizer)


def expected(folder, first_position):
    """-> the texts with their ids and vectors. The largest number of tokens is what the positions leave."""
    longest = MAX_TOKENS - first_position
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    texts = []
    for text in TEXTS:
        tokenizer.no_truncation()
        token_count = len(tokenizer.encode(text).ids)
        tokenizer.enable_truncation(longest)
        ids = np.array([tokenizer.encode(text).ids])
        all_inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids),
                      "position_ids": first_position + np.arange(ids.size)[None]}
        hidden = session.run(None, {name: all_inputs[name] for name in names})[0][0].astype(np.float32)
        texts.append({"text": text, "token_count": token_count, "ids": ids[0].tolist(),
                      "mean": normalised(hidden.mean(axis=0)) if token_count > 2 else None})
    return texts


def write(name, model_config, tokenizer, model, first_position=0):
    folder = DATA / "encoders" / name
    write_json(folder / "config.json", model_config)
    tokenizer.save(str(folder / "tokenizer.json"))
    if name == "distilbert":
        (folder / "model.onnx_data").unlink(missing_ok=True)
        onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="model.onnx_data")
    else:
        write_atomically(folder / "model.onnx", model.SerializeToString(deterministic=True))
    lines = ",\n".join("  " + json.dumps(text) for text in expected(folder, first_position))
    write_atomically(folder / "expected.json", f'{{"texts": [\n{lines}\n]}}\n'.encode())


def encoder(shape, positions):
    return Encoder(shape, make_weights(shape), positions).model()


def main():
    tokenizer = byte_level_bpe()
    shape = config("roberta", tokenizer.get_vocab_size(), pad_token_id=1)
    write("roberta", shape, tokenizer, encoder(shape, "mask"), FIRST_POSITION)

    tokenizer = unigram()
    shape = config("xlm-roberta", tokenizer.get_vocab_size(), pad_token_id=1)
    write("xlm-roberta", shape, tokenizer, encoder(shape, "input"), FIRST_POSITION)

    tokenizer = make_tokenizer(vocabulary())
    shape = config("distilbert", tokenizer.get_vocab_size())
    own = {"model_type": "distilbert", "vocab_size": shape["vocab_size"], "dim": HIDDEN, "n_layers": LAYERS,
           "n_heads": HEADS, "hidden_dim": INTERMEDIATE, "max_position_embeddings": MAX_TOKENS}
    write("distilbert", own, tokenizer, encoder(shape, "length"))

    shape = config("bert", tokenizer.get_vocab_size())
    write("float16", shape, tokenizer, convert_float_to_float16(encoder(shape, "input"), disable_shape_infer=True))


if __name__ == "__main__":
    main()
