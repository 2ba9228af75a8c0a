#!/usr/bin/env python3
"""Generate the tiny models of the tests and what they must answer. Run it in any directory, without arguments.

Writes, beside this file:
    tiny-bert/     a BERT with random weights from a fixed seed: 2 layers, hidden 32, at most 64 tokens. Its
                   tokenizer.json asks for padding and truncation at 128, as those of real models do.
    tiny-pooled/   the same model, but the ONNX output is `sentence_embedding` [batch, hidden], already mean pooled
    tiny-int8/     the same model, dynamically quantised
    tiny-q8/       the same model, as tools/quantize_model.py quantises it
    tiny-*.expected.json
                   per text: ids after truncation and the count before it, both with the special tokens, and vectors.
                   A text without any token of its own has null vectors. `mean`, `cls` and `lasttoken` are L2
                   normalised, `mean_unnormalised` is not; tiny-pooled, tiny-int8 and tiny-q8 have only
                   `mean`.
The vectors come from Python's tokenizers and onnxruntime, one text at a time, without padding.

An int8 vector depends on the machine: a difference of one float32 rounding can move an activation to the next of its
256 levels. Compare those vectors by their cosine.

Needs numpy, onnx, safetensors, tokenizers and onnxruntime.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

DATA = Path(__file__).resolve().parent
sys.path.insert(0, str(DATA.parents[1] / "tools"))
from export_bert import export, write_atomically  # noqa: E402
from quantize_model import write_twin  # noqa: E402

SEED = 20240229
HIDDEN = 32
LAYERS = 2
HEADS = 4
INTERMEDIATE = 64
MAX_TOKENS = 64

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
    the a an and or not of to in on at by for from with without about into over under after before between
    i you he she it we they me him her us them my your his its our their this that these those
    is are was were be been has have had do does did can could will would may might must
    hello world good bad new old big small long short high low hot cold warm fast slow red green blue black white
    one two three four five six seven eight nine ten first last next many few more most less all some no
    man woman child people friend family cat dog bird horse fish tree flower river sea mountain house door window
    street city country school book paper letter word story music film game car train ship plane road bread water
    milk tea coffee sugar salt apple orange fire wind rain snow sun moon star day night morning evening week year
    time work money price market bank shop law court police doctor health heart hand head eye foot science nature
    data index table row column query vector text search find store server memory disk network page file key value
    open close read write make take give get put run walk sit stand sleep eat drink play learn teach think know
    see hear say speak ask answer buy sell pay win lose begin end love like want need help
    quick brown fox jump lazy postgres database embedding sentence model token
""".split()
CJK = "世界你好日本語中文人大小山水火木金土月東京猫犬"
SUFFIXES = ["ing", "ed", "er", "est", "ly", "ness", "ment", "tion", "able", "ful", "less", "ous", "ive", "al"]

EMPTY_TEXTS = ["", "  \t\n\u00a0\u3000 ", "\x01\x02\x1f\x7f\u200b\u200e\ufffd"]
TEXTS = [
    "hello world",
    "Hello, World!",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "The doctor and the police officer drink tea in the morning; the child sleeps.",
    "Search a table of vectors: find the next row, read the page, write the file (100% fast)...",
    "Café NAÏVE Ångström São Zürich, Cafe\u0301 nai\u0308ve",
    "日本語の世界 hello 中文 鬱",
    "good 😀 morning 👩‍👩‍👧‍👦 world",
    "tabs\tand\nlines\r\n and\x01control\x7fchar\u200bacters\u00a0here",
    "before " + "x" * 101 + " after",
    "a word of " + "x" * 100 + " letters",
    "?!... --- [SEP] {\"key\": 'value'} <a@b.c> #1 $2 3.14 [unused] ~`^",
    " ".join(f"the {word} of the {other}" for word, other in zip(WORDS[100:160], WORDS[160:220])),
] + EMPTY_TEXTS


def vocabulary():
    """-> the WordPiece entries in the order of their ids: specials, characters, words, syllables, endings."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    characters = "!\"#$%&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~" + letters + CJK
    syllables = [c + v for c in letters for v in "aeiouy"]
    pieces = [*letters, *"0123456789", *SUFFIXES, *syllables]
    return list(dict.fromkeys(SPECIAL_TOKENS + list(characters) + WORDS + syllables + ["##" + p for p in pieces]))


def make_tokenizer(vocab):
    """A BERT tokenizer with the padding and truncation that must not be obeyed."""
    ids = {piece: i for i, piece in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None,
                                                      lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")])
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128, pad_id=ids["[PAD]"], pad_token="[PAD]")
    return tokenizer


def make_weights(config):
    """-> tensor name -> float32 array. The word embeddings dominate, so that texts differ by their words."""
    random = np.random.default_rng(SEED)
    weights = {}

    def normal(name, shape, deviation, mean=0.0):
        weights[name] = (mean + deviation * random.standard_normal(shape)).astype(np.float32)

    def linear(name, inputs, outputs):
        normal(f"{name}.weight", (outputs, inputs), inputs ** -0.5)
        normal(f"{name}.bias", outputs, 0.1)

    def layer_norm(name):
        normal(f"{name}.weight", HIDDEN, 0.1, mean=1.0)
        normal(f"{name}.bias", HIDDEN, 0.1)

    normal("embeddings.word_embeddings.weight", (config["vocab_size"], HIDDEN), 1.0)
    normal("embeddings.position_embeddings.weight", (MAX_TOKENS, HIDDEN), 0.3)
    normal("embeddings.token_type_embeddings.weight", (2, HIDDEN), 0.3)
    layer_norm("embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
        layer_norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", HIDDEN, INTERMEDIATE)
        linear(f"{layer}.output.dense", INTERMEDIATE, HIDDEN)
        layer_norm(f"{layer}.output.LayerNorm")
    return weights


def write_json(path, value):
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def write_source(folder):
    """Write the BERT folder, in the layout of the hub, that export_bert.py reads."""
    vocab = vocabulary()
    config = {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": MAX_TOKENS,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(vocab),
    }
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write_json(folder / "config.json", config)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{part}"}
        for i, (path, part) in enumerate(parts)])
    write_json(folder / "1_Pooling/config.json", {
        "word_embedding_dimension": HIDDEN,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    })
    make_tokenizer(vocab).save(str(folder / "tokenizer.json"))
    save_file(make_weights(config), folder / "model.safetensors")


def write_pooled(source, destination):
    """Copy the model folder `source`, with mean pooling over attention_mask appended to the graph."""
    copy_without_model(source, destination)
    model = onnx.load(source / "model.onnx")
    graph = model.graph
    graph.initializer.append(helper.make_tensor("pooling/axis_1", TensorProto.INT64, [1], [1]))
    graph.initializer.append(helper.make_tensor("pooling/axis_2", TensorProto.INT64, [1], [2]))
    graph.node.extend([
        helper.make_node("Cast", ["attention_mask"], ["pooling/mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["pooling/mask", "pooling/axis_2"], ["pooling/weights"]),
        helper.make_node("Mul", ["last_hidden_state", "pooling/weights"], ["pooling/weighted"]),
        helper.make_node("ReduceSum", ["pooling/weighted", "pooling/axis_1"], ["pooling/sum"], keepdims=0),
        helper.make_node("ReduceSum", ["pooling/mask", "pooling/axis_1"], ["pooling/count"], keepdims=1),
        helper.make_node("Div", ["pooling/sum", "pooling/count"], ["sentence_embedding"]),
    ])
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", HIDDEN]))
    onnx.checker.check_model(model, full_check=True)
    write_atomically(destination / "model.onnx", model.SerializeToString(deterministic=True))


def write_int8(source, destination):
    """Copy the model folder `source`, dynamically quantised: per channel and 7 bits, so that no CPU saturates."""
    copy_without_model(source, destination)
    quantize_dynamic(source / "model.onnx", destination / "model.onnx", per_channel=True, reduce_range=True,
                     weight_type=QuantType.QInt8)


def copy_without_model(source, destination):
    shutil.copytree(source, destination, ignore=shutil.ignore_patterns("model.onnx"), dirs_exist_ok=True)


def run(session, ids):
    """The model's output for one text's ids: [seq, hidden], or [hidden] if the model pools."""
    ids = np.array([ids], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return session.run(None, inputs)[0][0]


def rounded(vector):
    """A float32 vector as a list with 7 significant decimals."""
    return [float(f"{x:.7g}") for x in vector]


def normalised(vector):
    return rounded(vector / np.linalg.norm(vector))


def vectors(output):
    """What each pooling makes of a model's output."""
    if output.ndim == 1:
        return {"mean": normalised(output)}
    mean = output.mean(axis=0)
    return {"mean": normalised(mean), "mean_unnormalised": rounded(mean), "cls": normalised(output[0]),
            "lasttoken": normalised(output[-1])}


def expected(folder, poolings):
    """-> what the model in `folder` must answer, with the vectors of `poolings`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    entries = []
    for text in TEXTS:
        tokenizer.no_truncation()
        token_count = len(tokenizer.encode(text).ids)
        tokenizer.enable_truncation(MAX_TOKENS)
        ids = tokenizer.encode(text).ids
        entry = {"text": text, "token_count": token_count, "ids": ids}
        all_vectors = vectors(run(session, ids)) if token_count > 2 else {}
        entry.update((pooling, all_vectors.get(pooling)) for pooling in poolings)
        entries.append(entry)
    return {"model": folder.name, "dimensions": HIDDEN, "max_tokens": MAX_TOKENS, "texts": entries}


def write_expected(folder, poolings):
    # One line per text: a change shows in a diff as the text it concerns.
    value = expected(folder, poolings)
    entries = ",\n".join("  " + json.dumps(entry) for entry in value.pop("texts"))
    head = json.dumps(value)[:-1]
    write_atomically(DATA / f"{folder.name}.expected.json", f'{head}, "texts": [\n{entries}\n]}}\n'.encode())


def main():
    with tempfile.TemporaryDirectory() as source:
        write_source(Path(source))
        export(source, DATA / "tiny-bert")
    write_pooled(DATA / "tiny-bert", DATA / "tiny-pooled")
    write_int8(DATA / "tiny-bert", DATA / "tiny-int8")
    write_twin(DATA / "tiny-bert", DATA / "tiny-q8")
    write_expected(DATA / "tiny-bert", ["mean", "mean_unnormalised", "cls", "lasttoken"])
    write_expected(DATA / "tiny-pooled", ["mean"])
    write_expected(DATA / "tiny-int8", ["mean"])
    write_expected(DATA / "tiny-q8", ["mean"])


if __name__ == "__main__":
    main()
