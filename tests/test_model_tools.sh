#!/usr/bin/env bash
# Tests tools/fuse_model.py and tools/quantize_model.py with the tiny models of the tests. $1: a Python that has what
# tools/requirements-fuse.txt lists.
set -euo pipefail

cd "$(dirname "$0")/.."
python=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "not ok - $*"
    cat "$scratch/output"
    exit 1
}

# run STATUS TOOL ARGUMENTS...: the tool must exit with STATUS; what it prints goes to $scratch/output.
run() {
    local expected=$1 status=0
    shift
    "$python" "tools/$1" "${@:2}" >"$scratch/output" 2>&1 || status=$?
    [ "$status" = "$expected" ] || fail "$*: exit code $status, expected $expected"
}

says() {
    grep -qF -- "$1" "$scratch/output" || fail "the output does not say '$1'"
}

says_it_is_near() {
    grep -qE 'have a cosine of (0\.99|1\.00)' "$scratch/output" || fail "the twin is not near the model"
}

run 0 quantize_model.py tests/data/tiny-bert "$scratch/tiny-q8"
says_it_is_near
diff -r tests/data/tiny-q8 "$scratch/tiny-q8" || fail "the twin differs from the one in tests/data"
echo "ok - the twin of a model is the same to the last byte"

cp -r tests/data/tiny-bert "$scratch/fused"
run 0 fuse_model.py "$scratch/fused"
says "fused $scratch/fused/model.onnx"
! cmp -s tests/data/tiny-bert/model.onnx "$scratch/fused/model.onnx" || fail "the graph is the same"
cp "$scratch/fused/model.onnx" "$scratch/before"
run 0 fuse_model.py "$scratch/fused"
says "it has ONNX Runtime's own operators already"
cmp "$scratch/before" "$scratch/fused/model.onnx" || fail "a fused model was changed"
echo "ok - a model is fused, once"

run 0 quantize_model.py "$scratch/fused" "$scratch/of-fused"
cmp tests/data/tiny-q8/model.onnx "$scratch/of-fused/model.onnx" || fail "the twin is another one"
grep -qF '"twin_of": "fused"' "$scratch/of-fused/pg_embed.json" || fail "it does not name the model that it was made from"
echo "ok - a fused model has the same twin"

cp -r tests/data/tiny-int8 "$scratch/int8"
run 0 fuse_model.py "$scratch/int8"
says "left as it is: $scratch/int8/model.onnx: attention can be fused in 0 of 2 layers"
diff -r tests/data/tiny-int8 "$scratch/int8" || fail "a model that cannot be fused was changed"
run 1 quantize_model.py "$scratch/int8" "$scratch/none"
says "has no float32 matrix of weights"
run 1 fuse_model.py "$scratch/absent"
run 1 quantize_model.py "$scratch/absent" "$scratch/none"
[ ! -e "$scratch/none" ] || fail "something was written"
echo "ok - what cannot be fused or quantised stays as it is"

# As files of the model hub are that were exported years ago.
cp -r tests/data/tiny-bert "$scratch/old"
"$python" - "$scratch/old/model.onnx" <<'PYTHON'
import sys
import onnx
from onnx import helper, numpy_helper

model = onnx.load(sys.argv[1])
weights = {tensor.name: tensor for tensor in model.graph.initializer}
for node in model.graph.node:
    if node.op_type == "Unsqueeze":
        node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(weights[node.input.pop()]).tolist()))
    if node.op_type == "Shape":  # which had no bounds: a token more is cut off later
        del node.attribute[:]
        shape = node.output[0]
        node.output[0] = f"{shape}/whole"
        index = helper.make_tensor("old/index", onnx.TensorProto.INT64, [1], [1])
        model.graph.initializer.append(index)
        gather = helper.make_node("Gather", [f"{shape}/whole", "old/index"], [shape], name="old/Gather")
        at = list(model.graph.node).index(node)
        model.graph.node.insert(at + 1, gather)
model.opset_import[0].version = 11
model.graph.input.extend(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
                         for name, tensor in weights.items())
onnx.save(model, sys.argv[1])
PYTHON
run 0 quantize_model.py "$scratch/old" "$scratch/old-q8"
says_it_is_near
run 0 fuse_model.py "$scratch/old"
says "fused $scratch/old/model.onnx"
run 0 quantize_model.py "$scratch/old" "$scratch/old-q8"
says_it_is_near
echo "ok - a model of opset 11 that lists its weights among the inputs"

cp -r tests/data/tiny-cross "$scratch/cross"
run 0 fuse_model.py "$scratch/cross"
says "fused $scratch/cross/model.onnx"
run 0 quantize_model.py "$scratch/cross" "$scratch/cross-q8"
says_it_is_near
echo "ok - a cross-encoder"

run 1 quantize_model.py tests/data/encoders/float16 "$scratch/none"
says "has no float32 matrix of weights"
for name in roberta xlm-roberta distilbert; do
    run 0 quantize_model.py "tests/data/encoders/$name" "$scratch/$name-q8"
    says_it_is_near
done
ln -s "$PWD/tests/data/tiny-bert" "$scratch/by-another-name"
run 0 quantize_model.py "$scratch/by-another-name" "$scratch/linked-q8"
grep -qF '"twin_of": "by-another-name"' "$scratch/linked-q8/pg_embed.json" || fail "the link's name is the model's"
echo "ok - encoders of other architectures"
