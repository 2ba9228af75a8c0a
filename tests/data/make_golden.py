#!/usr/bin/env python3
"""Generate what the real tokenizer and the real MiniLM model must answer.

    make_golden.py MINILM_DIR

MINILM_DIR is the folder that `tools/get_model.py all-minilm-l6-v2 ...` installs. Writes, beside this file:
    gte-small-tokens.json             ids, with the special tokens, that gte-small's tokenizer gives for hard texts;
                                      neither padded nor truncated
    all-minilm-l6-v2.expected.json    mean pooled, L2 normalised vectors [384]; a text is cut to 256 tokens, and
                                      `token_count` is the count before that
Both come from Python's tokenizers and onnxruntime, one text at a time. gte-small/ has the tokenizer and the config of
Supabase/gte-small as they are there, and golden.json with vectors of its float32 model (see its `source`).

Needs numpy, tokenizers and onnxruntime.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

DATA = Path(__file__).resolve().parent

# What public projects test all-MiniLM-L6-v2 for: the first values of 'hello world', with this tolerance.
HELLO_WORLD = [-0.034477, 0.031023, 0.006735, 0.026109, -0.039362]
TOLERANCE = 1e-5


def words(count):
    """A text of `count` common words, always the same."""
    some = ("the quick brown fox jumps over a lazy dog while seven unbelievably tokenizable researchers "
            "benchmark databases").split()
    return " ".join(itertools.islice(itertools.cycle(some), count))


TOKENIZER_TEXTS = [
    "",
    " ",
    "hello world",
    "Hello, WORLD!",
    # accents: composed, decomposed, several on one letter, letters that lower-case to two characters
    "Café Ångström naïve São Tomé",
    "Cafe\u0301 A\u030angstro\u0308m nai\u0308ve",
    "Việt Nam a\u0302\u0301\u0323 İstanbul ẞtraße ŁÓDŹ Ǆ ﬁancé",
    "\u0301\u0308\u0323",
    "ΑΒΓ ΣΊΣΥΦΟΣ ς Москва ё й",
    # scripts
    "日本語のテキスト。漢字とカタカナ、ひらがな",
    "中文文本混合English单词𠀀𪜶",
    "한국어 텍스트 \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "ภาษาไทยไม่มีช่องว่าง",
    "مرحبا بالعالم \u202bكتاب\u202c مُحَمَّد",
    "हिन्दी में पाठ עברית שָׁלוֹם",
    # emoji: plain, with a skin tone, joined, flags, keycap
    "😀 nice 👍🏽 👩‍👩‍👧‍👦 🇩🇪 1️⃣ ❤️",
    # characters that are dropped or are white space
    "con\x01trol\x07 \x1bcharac\x7fters\x85 \u200bzero\u200dwidth\ufeff \u00adsoft\u00adhyphen",
    "\x01\x02\x7f",
    "no\u00a0break\u2003em\u3000ideographic\u202fnarrow\u2028line\u2029paragraph\u1680ogham",
    "tabs\tand\r\nnew\nlines  and   spaces ",
    "bad\ufffdbytes \ufffd \uffff \ue000",
    # at most 100 characters are one word; longer ones are unknown
    "a" * 99 + " end",
    "a" * 100 + " end",
    "a" * 101 + " end",
    "é" * 100 + " " + "é" * 101,
    "x" * 5000,
    # special tokens in the text
    "literal [SEP] and [MASK], [CLS][PAD] [UNK] [sep] [ SEP ]",
    # punctuation, addresses, numbers
    "https://user@example.com:8080/a/b?q=%20x&y=1#frag mail.me@example.co.uk",
    "3.14159 -1,234,567.89e+10 0xDEADBEEF 2024-02-29T23:59:60Z ½ ² Ⅷ ١٢٣",
    "it's \"quoted\" – em—dash… «guillemets» ¿qué? $€£¥ ©®™ ~`^|\\ a_b-c/d",
    "unbelievable antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    words(2000),
]

VECTOR_TEXTS = [
    "hello world",
    "Hello, World!",
    "a",
    "This framework generates embeddings for each input sentence",
    "Sentences are passed as a list of string.",
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset my password? I've tried the link in the e-mail, and it says that it has expired.",
    "Café Ångström, naïve: accents are stripped",
    "日本語のテキスト and 😀",
    words(150),
    words(1000),
]


def write_entries(path, head, entries):
    """Write one JSON object: `head` plus "texts", with one line per entry so that diffs stay readable."""
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    path.write_text(f'{json.dumps(head)[:-1]}, "texts": [\n{lines}\n]}}\n')


def load_tokenizer(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def write_tokens():
    tokenizer = load_tokenizer(DATA / "gte-small")
    entries = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TOKENIZER_TEXTS]
    write_entries(DATA / "gte-small-tokens.json", {"model": "gte-small"}, entries)


def write_vectors(folder):
    """Write the vectors of the model in `folder`. Raises AssertionError if it is not all-MiniLM-L6-v2."""
    max_tokens = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = load_tokenizer(folder)
    entries = []
    for text in VECTOR_TEXTS:
        tokenizer.no_truncation()
        token_count = len(tokenizer.encode(text).ids)
        tokenizer.enable_truncation(max_tokens)
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = session.run(["last_hidden_state"], inputs)[0][0].mean(axis=0)
        vector = mean / np.linalg.norm(mean)
        entries.append({"text": text, "token_count": token_count, "mean": [float(f"{x:.7g}") for x in vector]})
    difference = np.abs(np.array(entries[0]["mean"][:len(HELLO_WORLD)]) - HELLO_WORLD).max()
    assert difference < TOLERANCE, f"'hello world' is {difference} from its published vector"
    head = {"model": "all-minilm-l6-v2", "dimensions": len(vector), "max_tokens": max_tokens}
    write_entries(DATA / "all-minilm-l6-v2.expected.json", head, entries)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_golden.py MINILM_DIR")
    write_tokens()
    write_vectors(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
