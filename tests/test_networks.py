"""Layer tables against published totals and, where they are at hand, independent tables; AlexNet's forward pass."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from numbaconv.networks import NETWORKS, UnknownNetwork, layers
from numbaconv.problem import ConvProblem

SHAPES = Path(__file__).resolve().parents[2] / "shared" / "shapes"

# Network: convolutions, fully-connected layers, multiply-adds of each, weights without biases.
TOTALS = {
    "alexnet": (5, 3, 665_784_864, 58_621_952, 60_954_656),
    "alexnet_ungrouped": (5, 3, 1_076_634_144, 58_621_952, 62_367_776),
    "vgg16": (13, 3, 15_346_630_656, 123_633_664, 138_344_128),
    "vgg19": (16, 3, 19_508_428_800, 123_633_664, 143_652_544),
    "googlenet": (57, 1, 1_581_647_872, 1_024_000, 6_990_272),
    "resnet18": (20, 1, 1_813_561_344, 512_000, 11_678_912),
    "resnet50": (53, 1, 4_087_136_256, 2_048_000, 25_502_912),
    "mobilenet_v2": (52, 1, 299_494_272, 1_280_000, 3_469_760),
    "squeezenet1_1": (26, 0, 349_151_936, 0, 1_231_552),
}

# What the papers and model zoos print: billions of multiply-adds, millions of parameters (with those of normalisation).
PUBLISHED = {
    "alexnet": (0.72, 60.97),
    "vgg16": (15.47, 138.36),
    "vgg19": (19.63, 143.67),
    "googlenet": (1.58, 7.0),
    "resnet18": (1.81, 11.69),
    "resnet50": (4.09, 25.56),
    "mobilenet_v2": (0.30, 3.50),
    "squeezenet1_1": (0.35, 1.24),
}

# The independent table of each network, and its name in the table of fully-connected layers.
TABLES = {
    "alexnet": ("alexnet_caffe_grouped", "alexnet_caffe_grouped"),
    "alexnet_ungrouped": ("alexnet_caffe_ungrouped", "alexnet_caffe_grouped"),
    "vgg16": ("vgg16", "vgg16"),
    "vgg19": ("vgg19", "vgg19"),
    "googlenet": ("googlenet_v1", "googlenet_v1"),
    "resnet18": ("resnet18", "resnet18"),
    "resnet50": ("resnet50_v1_5", "resnet50_v1_5"),
    "mobilenet_v2": ("mobilenet_v2", "mobilenet_v2"),
    "squeezenet1_1": ("squeezenet_v1_1", "squeezenet_v1_1"),
}
COLUMNS = {
    "N": "mb", "C": "ic", "H": "ih", "W": "iw", "K": "oc", "R": "kh", "S": "kw", "stride_h": "sh", "stride_w": "sw",
    "pad_t": "pad_top", "pad_l": "pad_left", "pad_b": "pad_bottom", "pad_r": "pad_right", "dil_h": "dh", "dil_w": "dw",
    "groups": "g", "OH": "oh", "OW": "ow", "macs": "macs",
}  # fmt: skip


def of_kind(name, kind):
    return [layer for layer in layers(name) if layer.kind == kind]


@pytest.mark.parametrize("name", NETWORKS)
def test_totals(name):
    conv, fc = of_kind(name, "conv"), of_kind(name, "fc")
    macs = [sum(layer.problem.macs for layer in kind) for kind in (conv, fc)]
    weights = sum(np.prod(layer.problem.weight_shape) for layer in conv + fc)
    assert (len(conv), len(fc), *macs, weights) == TOTALS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    macs, parameters = PUBLISHED[name]
    table = layers(name)
    assert sum(layer.problem.macs for layer in table) / 1e9 == pytest.approx(macs, abs=0.0101)
    weights = sum(np.prod(layer.problem.weight_shape) + layer.bias * layer.problem.oc for layer in table)
    assert weights / 1e6 == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_field_against_an_independent_table(name):
    if not SHAPES.is_dir():
        pytest.skip("the independent tables are not at hand")
    table, fc_table = TABLES[name]
    with open(SHAPES / f"{table}.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) for _ in range(int(row["count"]))]
    found = [
        {column: getattr(layer.problem, field) for column, field in COLUMNS.items()}
        | {"layer": layer.name, "bias": layer.bias}
        for layer in of_kind(name, "conv")
    ]
    expected = [
        {column: int(row[column]) for column in COLUMNS} | {"layer": row["layer"], "bias": row["bias"] == "1"}
        for row in rows
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)
    with open(SHAPES / "fc_layers_as_gemm.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == fc_table]
    fc = [(layer.name, layer.problem.mb, layer.problem.oc, layer.problem.ic) for layer in of_kind(name, "fc")]
    assert fc == [(row["layer"], int(row["M"]), int(row["N"]), int(row["K"])) for row in rows]


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name):
    table = layers(name, mb=3, layout="nhwc", dtype="float64")
    names = [layer.name for layer in table]
    assert len(set(names)) == len(names)
    for layer in table:
        p = layer.problem
        assert (p.mb, p.layout, p.dtype, p.direction) == (3, "nhwc", "float64", "forward")
        assert p.name == f"{name}:{layer.name}"
        assert ConvProblem.parse(str(p)) == p
        assert layer.kind in ("conv", "fc")
        if layer.kind == "fc":
            assert (p.ih, p.iw, p.kh, p.kw, p.oh, p.ow, p.g, layer.bias) == (1, 1, 1, 1, 1, 1, 1, True)
    assert sum(layer.problem.macs for layer in table) == 3 * sum(TOTALS[name][2:4])


def test_activations():
    def activations(name):
        return {layer.name: layer.activation for layer in layers(name)}

    for name in ("alexnet", "vgg16", "vgg19", "googlenet", "squeezenet1_1"):
        *hidden, last = layers(name)
        assert {layer.activation for layer in hidden} == {"relu"}
        assert last.activation == ("relu" if last.kind == "conv" else None)
    resnet = activations("resnet50")
    assert resnet["layer1.0.conv2"] == "relu"
    assert resnet["layer1.0.conv3"] is resnet["layer1.0.downsample.0"] is resnet["fc"] is None
    assert activations("resnet18")["layer1.0.conv2"] is None
    mobile = activations("mobilenet_v2")
    assert mobile["features.2.conv.0.0"] == mobile["features.2.conv.1.0"] == mobile["features.18.0"] == "relu6"
    assert mobile["features.2.conv.2"] is None


def test_names():
    assert layers("MobileNet-v2") == layers("mobilenet_v2")
    with pytest.raises(UnknownNetwork, match="did you mean 'resnet50'"):
        layers("resnet-5O")
    with pytest.raises(UnknownNetwork, match="known: alexnet, "):
        layers("transformer")


# ----------------------------------------------------------------------------------------------------- AlexNet


def forward(weights, x):
    """bvlc_alexnet in float64 NumPy; what each stage makes."""
    made = {}

    def conv(name, stride=1, pad=0, groups=1):
        nonlocal x
        w, b = weights[name]
        kernel = w.shape[2:]
        padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        patches = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::stride, ::stride]
        parts = [
            np.tensordot(part, w_part.astype(np.float64), axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
            for part, w_part in zip(np.split(patches, groups, axis=1), np.split(w, groups), strict=True)
        ]
        made[name] = x = np.concatenate(parts, axis=1) + b[:, None, None]
        made[f"relu{name[-1]}"] = x = np.maximum(x, 0)

    def norm(name):
        nonlocal x
        squares = np.pad(x**2, [(0, 0), (2, 2), (0, 0), (0, 0)])
        window = sum(squares[:, i : i + x.shape[1]] for i in range(5))
        made[name] = x = x / (1 + 1e-4 / 5 * window) ** 0.75

    def pool(name):
        nonlocal x
        made[name] = x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(
            axis=(4, 5)
        )

    def fc(name):
        nonlocal x
        w, b = weights[name]
        made[name] = x = x.reshape(len(x), -1) @ w.T.astype(np.float64) + b

    conv("conv1", stride=4)
    norm("norm1")
    pool("pool1")
    conv("conv2", pad=2, groups=2)
    norm("norm2")
    pool("pool2")
    conv("conv3", pad=1)
    conv("conv4", pad=1, groups=2)
    conv("conv5", pad=1, groups=2)
    pool("pool5")
    for name in ("fc6", "fc7"):
        fc(name)
        made[f"relu{name[-1]}"] = x = np.maximum(x, 0)
    fc("fc8")
    x = np.exp(x - x.max(axis=1, keepdims=True))
    made["prob"] = x / x.sum(axis=1, keepdims=True)
    return made


def test_alexnet_forward_stage_by_stage():
    from numbaconv.networks.alexnet import AlexNet

    net = AlexNet(seed=1, mb=2, num_threads=2)
    x = net.random_input(seed=2)
    expected = forward(net.weights, x.astype(np.float64))
    y = x
    ran = []
    for name, kind, stage in net.stages():
        y = stage(y)
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(y, expected[name], rtol=0, atol=2e-5 * scale, err_msg=name)
        ran.append((name, kind))
    order = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5"
    assert [name for name, _ in ran] == [*order.split(), "fc6", "relu6", "fc7", "relu7", "fc8", "prob"]
    kinds = {"conv": "conv", "relu": "relu", "norm": "lrn", "pool": "pool", "fc": "fc", "prob": "softmax"}
    assert all(kinds[name.rstrip("12345678")] == kind for name, kind in ran)

    np.testing.assert_array_equal(net(x), y)
    fused = AlexNet(seed=1, mb=2, fused=True, algorithm="im2col", num_threads=2)
    assert [name for name, _, _ in fused.stages()] == [name for name, kind in ran if kind != "relu"]
    np.testing.assert_allclose(fused(x), expected["prob"], rtol=0, atol=2e-5)
    assert not np.array_equal(AlexNet(seed=3, mb=2)(x), y)


def test_alexnet_refuses_other_images():
    from numbaconv.networks.alexnet import AlexNet

    with pytest.raises(ValueError, match=r"\(1, 3, 227, 227\); got \(1, 3, 224, 224\)"):
        AlexNet()(np.zeros((1, 3, 224, 224), np.float32))
