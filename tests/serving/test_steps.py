"""The operations of a step are counted in the loop of the search, not in those of encoders."""

from types import SimpleNamespace

from benchmarks.steps import operations


def node(name, kind, *micros):
    return [
        SimpleNamespace(node_name=name, timeline_label=f"{name} = {kind}(x, y)", op_start_rel_micros=1, op_end_rel_micros=1 + n)
        for n in micros
    ]


def test_a_step_has_the_operations_of_the_outermost_loop():
    nodes = [
        *node("f/while/next_iteration/_1", "NextIteration", 1, 1),
        *node("f/while/MatMul", "MatMul", 10, 12),
        *node("f/while/body/_1/while/Add", "AddV2", 3, 3, 90),  # the condition runs once more, and was interrupted
        *node("f/while/body/_1/while/Add_1", "AddV2", 2, 2),
        *node("f/map/while/next_iteration/_2", "NextIteration", 1),
        *node("f/map/while/body/g/while/next_iteration/_3", "NextIteration", *[1] * 9),
        *node("f/encoder/while/next_iteration/_4", "NextIteration", *[1] * 9),
        *node("f/encoder/while/Tanh", "Tanh", *[5] * 9),
        *node("f/while/Enter", "Enter", 7),
    ]
    steps, found = operations(SimpleNamespace(dev_stats=[SimpleNamespace(node_stats=nodes)]))
    assert steps == 2 and found == {"NextIteration": (1, 1.0), "MatMul": (1, 11.0), "AddV2": (2, 1.5 * 3 + 2)}
