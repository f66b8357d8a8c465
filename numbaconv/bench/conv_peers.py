"""The peers that convolve: PyTorch (oneDNN) in two memory orders, ONNX Runtime, ncnn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from numbaconv.bench.contender import Contender
from numbaconv.bench.peers import ConvPeer
from numbaconv.errors import UnsupportedProblem
from numbaconv.machine import detect
from numbaconv.problem import ConvProblem

__all__ = ["CONV_PEERS", "torch_sizes"]


class TorchConv(ConvPeer):
    """torch.nn.functional.conv2d on plain NCHW tensors: oneDNN, which reorders the weights in every call."""

    name = "torch"
    modules = ("torch",)

    def conv(self, problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray, num_threads: int) -> Contender:
        import torch

        torch.set_num_threads(num_threads)
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in (x, w, bias)]
        return _torch_contender(self.name, torch.nn.functional.conv2d, *tensors, *torch_sizes(problem))


class TorchChannelsLast(ConvPeer):
    """oneDNN on channels_last tensors, its weights reordered beforehand (as PyTorch's compiler does it)."""

    name = "torch-cl"
    modules = ("torch",)

    def conv(self, problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray, num_threads: int) -> Contender:
        import torch

        torch.set_num_threads(num_threads)
        sizes = stride, padding, dilation, groups = torch_sizes(problem)
        image = torch.from_numpy(np.ascontiguousarray(x)).contiguous(memory_format=torch.channels_last)
        weights = torch.from_numpy(np.ascontiguousarray(w)).contiguous(memory_format=torch.channels_last)
        shift = torch.from_numpy(bias)
        if problem.dtype != "float32" or not torch.backends.mkldnn.is_available():
            return _torch_contender(self.name, torch.nn.functional.conv2d, image, weights, shift, *sizes)
        with torch.inference_mode():
            shape = list(image.shape)
            weights = torch.ops.mkldnn._reorder_convolution_weight(weights, padding, stride, dilation, groups, shape)
        sizes = padding, stride, dilation, groups
        convolve = torch.ops.mkldnn._convolution_pointwise
        return _torch_contender(self.name, convolve, image, weights, shift, *sizes, "none", [], "")


def torch_sizes(problem: ConvProblem) -> tuple[list[int], list[int], list[int], int]:
    """Stride, padding, dilation and groups, as torch takes them.

    Raises
    ------
    UnsupportedProblem
        Where the pads differ at two ends.
    """
    p = problem
    if (p.pad_top, p.pad_left) != (p.pad_bottom, p.pad_right):
        raise UnsupportedProblem("torch.nn.functional.conv2d takes no different pads at the two ends")
    return [p.sh, p.sw], [p.ph, p.pw], [p.dh, p.dw], p.g


def _torch_contender(name: str, function: Callable[..., Any], *arguments: object) -> Contender:
    import torch

    def call() -> Any:
        with torch.inference_mode():
            return function(*arguments)

    return Contender(name, call, lambda: call().contiguous().numpy().copy())


class OnnxRuntime(ConvPeer):
    """A model of one Conv node, with input and output bound to memory of its own."""

    name = "onnxruntime"
    modules = ("onnxruntime", "onnx")

    def conv(self, problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray, num_threads: int) -> Contender:
        import onnxruntime
        from onnx import helper, numpy_helper

        if problem.dtype != "float32":
            raise UnsupportedProblem("ONNX Runtime's CPU convolution computes in float32")
        p, kind = problem, helper.np_dtype_to_tensor_dtype(x.dtype)
        node = helper.make_node(
            "Conv",
            ["x", "w", "bias"],
            ["y"],
            kernel_shape=[p.kh, p.kw],
            strides=[p.sh, p.sw],
            pads=[p.pad_top, p.pad_left, p.pad_bottom, p.pad_right],
            dilations=[p.dh, p.dw],
            group=p.g,
        )
        graph = helper.make_graph(
            [node],
            "conv",
            [helper.make_tensor_value_info("x", kind, p.input_shape)],
            [helper.make_tensor_value_info("y", kind, p.output_shape)],
            [numpy_helper.from_array(np.ascontiguousarray(w), "w"), numpy_helper.from_array(bias, "bias")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(p.output_shape), x.dtype.type)
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)))
        binding.bind_ortvalue_output("y", output)

        def result() -> NDArray:
            session.run_with_iobinding(binding)
            return output.numpy()

        return Contender(self.name, lambda: session.run_with_iobinding(binding), result)


class Ncnn(ConvPeer):
    """ncnn, with Winograd where it sees fit, on images already in its packed layout, one image after another."""

    name = "ncnn"
    modules = ("ncnn",)

    def conv(self, problem: ConvProblem, x: NDArray, w: NDArray, bias: NDArray, num_threads: int) -> Contender:
        import ncnn

        p = problem
        if p.dtype != "float32":
            raise UnsupportedProblem("ncnn computes in float32")
        net = ncnn.Net()
        net.opt.num_threads = num_threads
        net.opt.use_winograd_convolution = net.opt.use_sgemm_convolution = net.opt.use_packing_layout = True
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        fields = {0: p.oc, 1: p.kw, 11: p.kh, 2: p.dw, 12: p.dh, 3: p.sw, 13: p.sh}
        fields |= {4: p.pad_left, 14: p.pad_top, 15: p.pad_right, 16: p.pad_bottom, 5: 1, 6: w.size}
        fields |= {7: p.g} if p.g > 1 else {}
        layer = "Convolution" if p.g == 1 else "ConvolutionDepthWise"
        described = " ".join(f"{key}={value}" for key, value in fields.items())
        net.load_param_mem(f"7767517\n2 2\nInput x 0 1 x\n{layer} conv 1 1 x y {described}\n")
        with tempfile.NamedTemporaryFile(suffix=".bin") as file:
            file.write(np.int32(0).tobytes() + w.tobytes() + bias.tobytes())  # 0: float32 follows
            file.flush()
            net.load_model(file.name)

        def repacked(mat: Any, pack: int) -> Any:
            packed = ncnn.Mat()
            ncnn.convert_packing(mat, packed, pack, net.opt)
            return packed

        widest = detect().vector_bits // 32
        pack = next(lanes for lanes in (16, 8, 4, 1) if lanes <= widest and p.ic % lanes == 0)
        images = [repacked(ncnn.Mat(image).clone(), pack) for image in np.ascontiguousarray(x)]

        def call() -> list:
            outputs = []
            for image in images:
                extractor = net.create_extractor()
                extractor.input("x", image)
                outputs.append(extractor.extract("y", 1)[1])  # 1: leave the output packed
            return outputs

        return Contender(self.name, call, lambda: np.stack([np.array(repacked(output, 1)) for output in call()]))


CONV_PEERS: tuple[ConvPeer, ...] = (TorchConv(), TorchChannelsLast(), OnnxRuntime(), Ncnn())
