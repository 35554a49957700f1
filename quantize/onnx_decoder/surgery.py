"""Graph surgery: a decoder whose batch rows can join and leave.

The builder derives two lengths from `attention_mask` and hands them to every GroupQueryAttention node:
`seqlens_k` [batch] (int32: cached tokens of the row, the new ones included, minus one) and
`total_sequence_length` [] (int32: the longest row). Here that sub-graph goes and both become graph
inputs, so the caller may let every row be of another length, over one fixed cache bound by pointer.

A third input, `logit_positions` [k] (int64), picks the positions whose logits are wanted before the
output projection, which is the largest matrix of a small model: a prefill needs one of its positions.

Source: the GroupQueryAttention operator of the com.microsoft domain, inputs 5 and 6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catalog.ground.errors import BadRequest

SEQLENS = "seqlens_k"
TOTAL = "total_sequence_length"
POSITIONS = "logit_positions"
ONE_FILE_MAX_BYTES = 64 * 2**20
IR_VERSION = 10
"""The `onnx` package writes a newer one than onnxruntime 1.31 accepts."""


def operate(source: Path, target: Path, layers: int, head_size: int) -> None:
    """Read the builder's graph, write the served one (weights inside when they are small)."""
    import onnx

    model = onnx.load(str(source))
    graph = model.graph
    _feed_lengths(graph, layers)
    _pick_positions(graph)
    _drop_dead_nodes(graph, ["logits"])
    if len(_attentions(graph)) != layers:
        raise _unfit("its logits do not depend on every layer")
    _halve_embedding(graph)
    _declare_inputs(graph)
    _fix_shapes(graph, head_size)
    model.ir_version = IR_VERSION
    size_bytes = sum(len(item.raw_data) for item in graph.initializer)
    if size_bytes <= ONE_FILE_MAX_BYTES:
        onnx.save(model, str(target))
        return
    onnx.save(
        model,
        str(target),
        save_as_external_data=True,
        location=f"{target.name}.data",
        size_threshold=1024,
    )


def _unfit(what: str) -> BadRequest:
    return BadRequest(
        f"The built graph cannot be served: {what}.",
        code="graph_unsupported",
        rule="quantize.onnx_decoder.surgery",
    )


def _attentions(graph: Any) -> list[Any]:
    return [node for node in graph.node if node.op_type == "GroupQueryAttention"]


def _feed_lengths(graph: Any, layers: int) -> None:
    nodes = _attentions(graph)
    if len(nodes) != layers:
        raise _unfit(f"it has {len(nodes)} GroupQueryAttention nodes for {layers} layers")
    for node in nodes:
        if len(node.input) < 7 or not node.input[5] or not node.input[6]:
            raise _unfit("a GroupQueryAttention has no lengths")
        node.input[5], node.input[6] = SEQLENS, TOTAL


def _pick_positions(graph: Any) -> None:
    import onnx

    heads = [node for node in graph.node if "logits" in node.output]
    if len(heads) != 1 or heads[0].op_type not in ("MatMul", "MatMulNBits"):
        raise _unfit("its logits are not the output of one matrix product")
    head = heads[0]
    picked = "/lm_head/picked/output_0"
    gather = onnx.helper.make_node(
        "Gather", [head.input[0], POSITIONS], [picked], name="/lm_head/picked/Gather", axis=1
    )
    head.input[0] = picked
    # Nodes must stand in an order in which every input is already there; the builder leaves the
    # head before the last layers, so the new node and the head go to the end together.
    graph.node.remove(head)
    graph.node.extend([gather, head])


def _drop_dead_nodes(graph: Any, wanted: list[str]) -> None:
    """Keep what `wanted` depends on. The present caches come from nodes that the logits need too."""
    kept = []
    producers = {name: node for node in graph.node for name in node.output if name}
    order = {id(node): place for place, node in enumerate(graph.node)}
    queue, seen = list(wanted), set[int]()
    while queue:
        node = producers.get(queue.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        kept.append(node)
        queue.extend(name for name in node.input if name)
    kept.sort(key=lambda node: order[id(node)])
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in copies for name in node.input}
    for item in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(item)
    del graph.value_info[:]


def _halve_embedding(graph: Any) -> None:
    """Keep an unquantised embedding in float16 when that loses nothing (releases in half precision).

    An int8 build has it as float32 beside the quantised output projection: a third of a small model.
    """
    import numpy as np
    import onnx

    weights = {item.name: item for item in graph.initializer}
    for place, node in enumerate(graph.node):
        looks_up = node.op_type == "Gather" and node.input[1] == "input_ids"
        if not looks_up or node.input[0] not in weights:
            continue
        weight = weights[node.input[0]]
        wide = onnx.numpy_helper.to_array(weight)
        half = wide.astype(np.float16)
        if wide.dtype != np.float32 or not np.array_equal(half.astype(np.float32), wide):
            return
        weight.CopyFrom(onnx.numpy_helper.from_array(half, weight.name))
        output, narrow = node.output[0], f"{node.output[0]}_half"
        node.output[0] = narrow
        widen = onnx.helper.make_node(
            "Cast", [narrow], [output], name="/model/embed_tokens/Cast", to=onnx.TensorProto.FLOAT
        )
        graph.node.insert(place + 1, widen)
        return


def _declare_inputs(graph: Any) -> None:
    import onnx

    tensor, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    gone = [item for item in graph.input if item.name == "attention_mask"]
    if len(gone) != 1:
        raise _unfit("it has no attention_mask")
    graph.input.remove(gone[0])
    graph.input.extend(
        [
            tensor(SEQLENS, kinds.INT32, ["batch_size"]),
            tensor(TOTAL, kinds.INT32, []),
            tensor(POSITIONS, kinds.INT64, ["picked"]),
        ]
    )


def _fix_shapes(graph: Any, head_size: int) -> None:
    """Past and present are one buffer: both get the same symbols, and the head size is a number.

    The cache's length stays a symbol: an engine may keep it shorter than the context.
    """
    for item in [*graph.input, *graph.output]:
        dims = item.type.tensor_type.shape.dim
        if item.name.startswith(("past_key_values.", "present.")):
            dims[2].dim_param = "cache_length"
            dims[3].dim_value = head_size
        elif item.name == "logits":
            dims[1].dim_param = "picked"
