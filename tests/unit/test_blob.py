"""Stored models: what is packed loads as it was; what was tampered with does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pyml.detectors.base import Fitted
from pyml.errors import UnreadableModel
from pyml.forecasters import inference
from pyml.forest import Forest
from pyml.lstm import LSTM
from pyml.models import blob
from pyml.models.blob import Runner

from .contracts import HABIT, gauges, signals_of

FORECAST = Path(__file__).parents[1] / "database" / "trust" / "formats" / "lstm-1.onnx"
FOREST, NETWORK = Forest(), LSTM()
SETTINGS = {"contamination": 0.01, "n_estimators": 10, "seed": 0}


def _telemetry() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.arange(400) * 60.0, rng.normal(size=(400, 2))


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """A forest with all that is stored of it: what the training adds to its metadata, too."""
    signals = signals_of(*_telemetry(), ("a", "b"))
    made = FOREST.fit(signals, SETTINGS, lambda: None)
    metrics = gauges(("a", "b"))
    return replace(made, model=made.model.knowing(metrics, [HABIT] * len(metrics)))


@pytest.fixture(scope="module")
def packed(fitted) -> bytes:
    return blob.pack(FOREST, fitted.numbers, fitted.model)


class Saying:
    """The forest, but for some of what it writes into its metadata."""

    kind = FOREST.kind

    def __init__(self, said: dict[str, object]) -> None:
        self._said = said
        self.graph = FOREST.graph

    def to_json(self, model):
        return FOREST.to_json(model) | self._said


def _saying(fitted: Fitted, **said: object) -> bytes:
    """The packed model with other metadata."""
    return blob.pack(Saying(said), fitted.numbers, fitted.model)


def test_the_round_trip_is_exact(fitted, packed):
    model = blob.load(FOREST, packed)
    signals = signals_of(*_telemetry(), ("a", "b"))
    run = FOREST.runner(fitted.numbers, fitted.model).run
    here = FOREST.detect(fitted.model, run, signals, -np.inf, lambda: None)
    there = FOREST.detect(model.knows, model.run, signals, -np.inf, lambda: None)
    assert len(here.scores) == len(signals.times)
    assert (here.scores == there.scores).all()
    assert model.knows == fitted.model
    assert blob.pack(FOREST, model.numbers, model.knows) == packed


def test_metadata_as_a_training_writes_it_is_a_model(fitted, packed):
    assert _saying(fitted) == packed


def test_a_run_that_fails_without_a_word_says_what_failed():
    def run(feeds):
        raise RuntimeError

    with pytest.raises(UnreadableModel) as caught:
        blob._answering(Runner(run, 0, [(1,)]))({"features": np.zeros((1, 1))})
    assert "RuntimeError" in caught.value.detail


def test_what_has_a_code_of_its_own_is_not_said_of_the_model():
    class Cancelled(Exception):
        sqlstate = "57014"

    for error in (Cancelled(), MemoryError(), UnreadableModel("it is broken")):
        with pytest.raises(type(error)) as caught, blob.guarded():
            raise error
        assert caught.value is error


def test_a_model_of_another_kind_is_refused(packed):
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(NETWORK, packed)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_bytes_load_or_say_so(packed, data):
    damaged = bytearray(packed)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))]
    try:
        model = blob.load(FOREST, bytes(damaged))
    except UnreadableModel:
        return
    width = len(model.numbers["fill"])
    scores = model.run({"features": np.zeros((3, width), np.float32)})[0]
    assert scores.shape[0] == 3


def _attributes(graph: onnx.ModelProto) -> dict[str, onnx.AttributeProto]:
    node = next(n for n in graph.graph.node if n.op_type == "TreeEnsemble")
    return {attribute.name: attribute for attribute in node.attribute}


def _parsed(fitted: Fitted) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(blob.pack(FOREST, fitted.numbers, fitted.model))


def _altered(fitted: Fitted, alter: Callable[[dict[str, onnx.AttributeProto]], object]):
    """The packed model after something was done to the attributes of its trees."""
    graph = _parsed(fitted)
    alter(_attributes(graph))
    return graph.SerializeToString()


INTS = (
    *("tree_roots", "nodes_featureids", "leaf_targetids", "nodes_truenodeids"),
    *("nodes_trueleafs", "nodes_falsenodeids", "nodes_falseleafs"),
)

INNER = "the first node that leads to another"


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("nodes_truenodeids", 0, 10**9),
        ("nodes_falsenodeids", 0, -5),
        ("nodes_truenodeids", INNER, 0),  # a circle
        ("nodes_trueleafs", 0, 2),
        ("nodes_trueleafs", INNER, 1),  # the node's number for a leaf's
        ("nodes_featureids", 0, 10**6),
        ("nodes_featureids", 0, -1),
        ("tree_roots", 0, -1),
        ("tree_roots", 0, 10**6),
        ("tree_roots", 1, 0),  # one tree twice
        ("tree_roots", 1, 1),  # a branch of one tree as another tree
        ("leaf_targetids", 0, 3),
        ("n_targets", None, 2),
        ("n_targets", None, -1),
        ("aggregate_function", None, 7),
        ("post_transform", None, 4),
    ],
)
def test_trees_that_lead_astray_are_refused(fitted, name, at, value):
    def alter(attributes):
        if at is None:
            attributes[name].i = value
        else:
            first = list(attributes["nodes_trueleafs"].ints).index(0)
            attributes[name].ints[first if at == INNER else at] = value

    with pytest.raises(UnreadableModel):
        blob.load(FOREST, _altered(fitted, alter))


def test_a_circle_through_the_root_is_refused(fitted):
    def alter(attributes):
        leafs, nodes = attributes["nodes_trueleafs"].ints, attributes["nodes_truenodeids"].ints
        inner = [i for i, end in enumerate(leafs) if not end]
        nodes[inner[1]] = 0

    with pytest.raises(UnreadableModel):
        blob.load(FOREST, _altered(fitted, alter))


def test_a_branch_of_two_trees_is_refused(fitted):
    """Shared branches could be unfolded into more than any memory."""

    def alter(attributes):
        leafs, nodes = attributes["nodes_falseleafs"].ints, attributes["nodes_falsenodeids"].ints
        ends = [i for i, end in enumerate(leafs) if end]
        nodes[ends[0]] = nodes[ends[1]]

    with pytest.raises(UnreadableModel, match="cannot be read") as caught:
        blob.load(FOREST, _altered(fitted, alter))
    assert "share" in caught.value.detail


@pytest.mark.parametrize("name", INTS)
def test_trees_of_unequal_parts_are_refused(fitted, name):
    with pytest.raises(UnreadableModel):
        blob.load(FOREST, _altered(fitted, lambda a: a[name].ints.pop()))
    with pytest.raises(UnreadableModel):
        blob.load(FOREST, _altered(fitted, lambda a: a[name].ClearField("ints")))


def _tensor(cells: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(cells, name)


@pytest.mark.parametrize("name", ["nodes_modes", "nodes_splits", "leaf_weights"])
def test_tensors_of_trees_that_are_not_as_they_say_are_refused(fitted, name):
    held = numpy_helper.to_array(_attributes(_parsed(fitted))[name].t)
    shorter = TensorProto()
    shorter.CopyFrom(_attributes(_parsed(fitted))[name].t)
    shorter.raw_data = shorter.raw_data[:-4]
    outside = TensorProto()
    outside.CopyFrom(_attributes(_parsed(fitted))[name].t)
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/passwd")
    strange = held.copy()
    strange[0] = 3 if name == "nodes_modes" else np.nan
    for tensor in (
        shorter,
        outside,
        _tensor(held[:-1], name),
        _tensor(held.reshape(1, -1), name),
        _tensor(held.astype(np.float64), name),
        _tensor(strange, name),
    ):
        with pytest.raises(UnreadableModel):
            blob.load(FOREST, _altered(fitted, lambda a, t=tensor: a[name].t.CopyFrom(t)))


def test_attributes_of_trees_that_no_training_writes_are_refused(fitted):
    graph = _parsed(fitted)
    node = next(n for n in graph.graph.node if n.op_type == "TreeEnsemble")
    for extra in (
        helper.make_attribute("nodes_missing_value_tracks_true", [1]),
        helper.make_attribute(
            "membership_values", _tensor(np.ones(3, np.float32), "membership_values")
        ),
        helper.make_attribute("tree_roots", [10**6]),
        helper.make_attribute("n_targets", 2.0),
    ):
        node.attribute.append(extra)
        with pytest.raises(UnreadableModel):
            blob.load(FOREST, graph.SerializeToString())
        del node.attribute[-1]
    blob.load(FOREST, graph.SerializeToString())


def test_a_tree_too_deep_is_refused(fitted):
    """A chain: one leaf at each node and the next node on the other side."""

    def chain(nodes):
        def alter(attributes):
            ids = np.arange(nodes)
            ints = {
                "tree_roots": [0],
                "nodes_featureids": 0 * ids,
                "nodes_truenodeids": [*ids[1:], nodes],
                "nodes_trueleafs": [*(0 * ids[1:]), 1],
                "nodes_falsenodeids": ids,
                "nodes_falseleafs": 0 * ids + 1,
                "leaf_targetids": [0] * (nodes + 1),
            }
            for name, cells in ints.items():
                attributes[name].ClearField("ints")
                attributes[name].ints.extend(map(int, cells))
            for name, cells in (
                ("nodes_modes", np.zeros(nodes, np.uint8)),
                ("nodes_splits", np.zeros(nodes, np.float32)),
                ("leaf_weights", np.ones(nodes + 1, np.float32)),
            ):
                attributes[name].t.CopyFrom(_tensor(cells, name))

        return _altered(fitted, alter)

    model = blob.load(FOREST, chain(20))
    zeros = np.zeros((2, fitted.figures["features"]), np.float32)
    assert np.isfinite(model.run({"features": zeros})[0]).all()
    for nodes in (21, 200_000):
        with pytest.raises(UnreadableModel) as caught:
            blob.load(FOREST, chain(nodes))
        assert "levels" in caught.value.detail


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_trees_load_or_say_so(fitted, data):
    """Whatever passes the check scores without harm."""

    def alter(attributes):
        for _ in range(data.draw(st.integers(1, 3))):
            cells = attributes[data.draw(st.sampled_from(INTS))].ints
            at = data.draw(st.integers(0, len(cells) - 1))
            cells[at] = data.draw(st.integers(-2, len(cells) + 1))

    try:
        model = blob.load(FOREST, _altered(fitted, alter))
    except UnreadableModel:
        return
    ones = np.ones((3, fitted.figures["features"]), np.float32)
    assert np.isfinite(model.run({"features": ones})[0]).all()


def _swollen(graph):
    """Twice as many columns as there are features."""
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 6), np.float32), "wide"))
    graph.node.insert(0, helper.make_node("Concat", ["features", "wide"], ["wider"], axis=1))


def _renamed(graph):
    graph.node[5].output[0] = graph.output[0].name = "verdict"


def _narrow(graph):
    fill = next(cells for cells in graph.initializer if cells.name == "fill")
    fill.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), "fill"))


def _precise(graph):
    rate = next(cells for cells in graph.initializer if cells.name == "rate")
    rate.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(rate).astype(np.float64), "rate"))


def _longer(graph):
    graph.node[5].output[0] = "again"
    graph.node.append(helper.make_node("Neg", ["again"], ["score"]))


@pytest.mark.parametrize("alter", [_swollen, _renamed, _narrow, _longer, _precise])
def test_a_forest_of_another_graph_is_refused(fitted, alter):
    model = _parsed(fitted)
    alter(model.graph)
    onnx.checker.check_model(model)
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(FOREST, model.SerializeToString())


def _told_of(model):
    model.doc_string = "a fine forest"


def _produced(model):
    model.producer_version = "1.0"


def _owned(model):
    model.metadata_props.add(key="owner", value="me")


def _inner(model):
    model.graph.metadata_props.add(key="pyml", value="{}")


def _valued(model):
    model.graph.value_info.add(name="depth")


def _newer(model):
    model.opset_import.add(domain="com.example", version=1)


def _lettered(model):
    model.graph.node[0].doc_string = "NaN or not"


@pytest.mark.parametrize("alter", [_told_of, _produced, _owned, _inner, _valued, _newer, _lettered])
@pytest.mark.parametrize("owner", [FOREST, NETWORK], ids=["forest", "lstm"])
def test_what_no_training_writes_beside_the_graph_is_refused(packed, alter, owner):
    data = packed if owner is FOREST else FORECAST.read_bytes()
    model = onnx.ModelProto.FromString(data)
    assert model.SerializeToString() == data
    alter(model)
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(owner, model.SerializeToString())


def _structure() -> list[str]:
    """What every forecast of this length and horizon has, by name."""
    model = onnx.ModelProto.FromString(FORECAST.read_bytes())
    return [t.name for t in model.graph.initializer if t.name not in inference.shapes(50, 12, 1)]


@pytest.mark.parametrize("name", _structure())
def test_a_forecast_with_another_structure_is_refused(name):
    model = onnx.ModelProto.FromString(FORECAST.read_bytes())
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, name))
    with pytest.raises(UnreadableModel) as caught:
        blob.load(NETWORK, model.SerializeToString())
    assert "another shape" in caught.value.detail


def test_a_forecast_of_other_numbers_is_a_model():
    model = onnx.ModelProto.FromString(FORECAST.read_bytes())
    for tensor in model.graph.initializer:
        if tensor.name in inference.shapes(50, 12, 1):
            cells = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(cells * 2, tensor.name))
    loaded = blob.load(NETWORK, model.SerializeToString())
    feeds = {"window": np.zeros((2, 50)), "clock": np.zeros((2, 13), np.int64)}
    assert np.isfinite(loaded.run(feeds)[0]).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scaling", [[1.0, 1.0]]),
        ("scaling", [[1.0, 1.0], [1.0, 0.0]]),
        ("usual", [[1.0, 1.0], [1.0, 0.0]]),
        ("hours", {"low": [[0.0] * 4], "high": [[0.0] * 3]}),
        ("hours", {"low": [[0.0] * 4] * 7, "high": [[0.0] * 4] * 7}),
        ("together", {"centre": [0.0] * 4, "whitening": [[1.0]]}),
        ("together", {"centre": [0.0], "whitening": [[1.0] * 4] * 4}),
        ("sizes", [1.0]),
        ("sizes", [1.0, 1.0, 1.0, 0.0]),
        ("lonely", {"scores": [1.0], "excess": 1.0}),
        ("apart", {"scores": [1.0] * 18, "excess": 0.0}),
        ("names", ["a", "a"]),
        ("names", ["a", "c"]),
        ("critical", 0.0),
    ],
)
def test_metadata_that_no_training_writes_is_refused(fitted, key, value):
    assert key in FOREST.to_json(fitted.model)
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(FOREST, _saying(fitted, **{key: value}))


@pytest.mark.parametrize(
    "other",
    [
        {"windows": [14, 60]},
        {"windows": [60, 15]},
        {"windows": [15, 60, 241]},
        {"lookback": 3.2e9},
        {"lookback": 0.0},
        {"lasting": 0},
        {"interval": 61.0},
        {"more": 1},
    ],
)
def test_spans_that_do_not_follow_from_the_interval_are_refused(fitted, other):
    spans = FOREST.to_json(fitted.model)["spans"] | other
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(FOREST, _saying(fitted, spans=spans))


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "", "x" * 1001, ".".join("x" * 33)])
@pytest.mark.parametrize("key", ["path", "divisor_path"])
def test_a_path_that_no_metric_has_is_refused(fitted, key, text):
    first, second = FOREST.to_json(fitted.model)["metrics"]
    metrics = [first | {key: text}, second]
    with pytest.raises(UnreadableModel, match="cannot be read"):
        blob.load(FOREST, _saying(fitted, metrics=metrics))


@pytest.mark.parametrize("data", [b"", b"\x80\x04K*.", b"PK\x03\x04", bytes(1000)])
def test_bytes_of_another_kind_are_refused(data):
    with pytest.raises(UnreadableModel):
        blob.load(FOREST, data)
