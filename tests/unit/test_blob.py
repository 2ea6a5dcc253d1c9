"""Stored models: what is packed loads as it was; what was tampered with does not."""

from dataclasses import asdict

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pyml import blob, drift, engine, forest, series
from pyml.errors import UnreadableModel


def _telemetry() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.arange(400) * 60.0, rng.normal(size=(400, 2))


@pytest.fixture(scope="module")
def fitted() -> forest.Fitted:
    times, values = _telemetry()
    return forest.fit(times, values, ["a", "b"], contamination=0.01, n_estimators=10, seed=0)


@pytest.fixture(scope="module")
def meta(fitted) -> dict[str, object]:
    """What is stored: what scoring needs, and what the door adds to it."""
    times, values = _telemetry()
    metrics = [asdict(series.Metric(name, name, None, 1.0, "gauge")) for name in ("a", "b")]
    return fitted.meta | {"metrics": metrics, "reference": drift.reference(times, values)}


@pytest.fixture(scope="module")
def packed(fitted, meta) -> bytes:
    return blob.pack(fitted.graph, meta, "forest")


def test_the_round_trip_is_exact(fitted, packed):
    model = blob.load(packed, "forest")
    times, values = _telemetry()
    here = forest.score(fitted.meta, engine.session(fitted.graph), times, values)
    there = forest.score(model.meta, model.run, times, values)
    assert (here.anomaly_score == there.anomaly_score).all()
    assert blob.pack(model.graph, model.meta, "forest") == packed


def test_a_model_of_another_kind_is_refused(packed):
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(packed, "lstm")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_bytes_load_or_say_so(packed, data):
    damaged = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))]
    try:
        model = blob.load(bytes(damaged), "forest")
    except UnreadableModel:
        return
    width = model.graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    scores = model.run({"features": np.zeros((3, width), np.float32)})[0]
    assert scores.shape[0] == 3


def _trees(graph: onnx.ModelProto) -> dict[str, onnx.AttributeProto]:
    node = next(n for n in graph.graph.node if n.op_type == "TreeEnsembleRegressor")
    return {attribute.name: attribute for attribute in node.attribute}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nodes_truenodeids", 10**9),
        ("nodes_falsenodeids", -5),
        ("nodes_truenodeids", 0),  # a circle
        ("nodes_featureids", 10**6),
        ("nodes_featureids", -1),
        ("nodes_treeids", 7),
        ("target_nodeids", 10**6),
        ("target_treeids", 99),
        ("target_ids", 3),
    ],
)
def test_an_index_that_leads_astray_is_refused(fitted, name, value):
    graph = onnx.ModelProto()
    graph.CopyFrom(fitted.graph)
    _trees(graph)[name].ints[0] = value
    with pytest.raises(UnreadableModel):
        blob.load(blob.pack(graph, fitted.meta, "forest"), "forest")


def _tiny(node: onnx.NodeProto, *constants: onnx.TensorProto) -> bytes:
    graph = helper.make_graph(
        [node],
        "crafted",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, None)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return blob.pack(model, {}, "forest")


@pytest.mark.parametrize("operator", ["Loop", "If", "Scan", "RandomNormal", "StringNormalizer"])
def test_another_operator_is_refused(operator):
    with pytest.raises(UnreadableModel) as caught:
        blob.load(_tiny(helper.make_node(operator, ["features"], ["score"])), "forest")
    assert operator in caught.value.detail


def test_data_outside_the_file_is_refused():
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Add", ["features", "far"], ["score"])
    with pytest.raises(UnreadableModel) as caught:
        blob.load(_tiny(node, tensor), "forest")
    assert "outside the file" in caught.value.detail


def test_a_giant_dimension_is_refused():
    tensor = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 20])
    node = helper.make_node("Add", ["features", "big"], ["score"])
    with pytest.raises(UnreadableModel):
        blob.load(_tiny(node, tensor), "forest")


@pytest.mark.parametrize("data", [b"", b"\x80\x04K*.", b"PK\x03\x04", bytes(1000)])
def test_bytes_of_another_kind_are_refused(data):
    with pytest.raises(UnreadableModel):
        blob.load(data, "forest")
