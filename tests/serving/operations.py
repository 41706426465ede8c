"""Which operations an export may hold."""

from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2


def allowed():
    """kind -> names of `allowed_ops.txt`, where a line that begins with a space goes on."""
    text = Path(__file__).with_name("allowed_ops.txt").read_text()
    lines = [line.split() for line in text.replace("\n ", " ").splitlines() if not line.startswith("#")]
    return {kind: set(names) for kind, *names in lines}


def check_graph(version, text_ops=False):
    """Every operation of every function is a plain one; TensorFlow Text's only with `text_ops`. Nothing is compiled by XLA, has
    a GPU in mind, or may be swapped for cuDNN."""
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    kinds = allowed()
    if not text_ops:
        del kinds["text"]
    operations = {node.op for node in graph.node} | {node.op for f in graph.library.function for node in f.node_def}
    functions = {function.signature.name for function in graph.library.function}
    unknown = operations - functions - set().union(*kinds.values())
    assert not unknown, f"not allowed in an export: {sorted(unknown)}"
    for function in graph.library.function:
        for name in ("_XlaMustCompile", "_XlaScope", "api_implements"):
            assert name not in function.attr or (not function.attr[name].b and not function.attr[name].s), function.signature.name
    for node in [*graph.node, *(node for function in graph.library.function for node in function.node_def)]:
        assert not node.attr["_XlaMustCompile"].b and "GPU" not in node.device, node.name
