"""ConvProblem: the sizes of one convolution, and everything that follows from them alone."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

from numbaconv import descriptor
from numbaconv.errors import ShapeError
from numbaconv.layouts import LAYOUTS, dtype_name, memory_order
from numbaconv.padding import pair, resolve_padding

__all__ = ["DIRECTIONS", "DTYPES", "LAYOUTS", "ConvProblem"]

DTYPES = {"float32": 4, "float64": 8}
"""Element types and their bytes."""
DIRECTIONS = ("forward", "backward-data", "backward-weights")

_LEAST = (
    {"mb": 0}
    | dict.fromkeys(("ic", "id", "ih", "iw", "oc", "kd", "kh", "kw", "sd", "sh", "sw", "dd", "dh", "dw", "g"), 1)
    | dict.fromkeys(("pad_front", "pad_top", "pad_left"), 0)
    | dict.fromkeys(("pad_back", "pad_bottom", "pad_right"), None)
)


def _outputs(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """Output positions along one axis."""
    return (size + before + after - (kernel - 1) * dilation - 1) // stride + 1


@dataclass(frozen=True, slots=True)
class ConvProblem:
    """One convolution: sizes, strides, pads, dilations, groups, element type and memory order.

    Frozen and hashable; the name takes no part in comparison. ``str(problem)`` is its descriptor (see
    ``numbaconv.descriptor``) and ``ConvProblem.parse`` reads it back.

    Parameters
    ----------
    mb, ic, ih, iw : int
        Images (0 allowed), input channels, input height and width.
    oc, kh, kw : int
        Output channels, kernel height and width.
    sh, sw : int
        Strides.
    pad_top, pad_left, pad_bottom, pad_right : int
        Zeros around the input, in pixels. A negative bottom or right pad leaves the input's last pixels unused;
        benchdnn's shape files hold such problems, ``conv2d`` takes no negative padding.
    dh, dw : int
        Dilations; 1 means dense.
    g : int
        Groups; divides `ic` and `oc`. g = ic is a depthwise convolution.
    dtype : {"float32", "float64"}
    layout : {"nchw", "nhwc"}
        Memory order of the activations. Shapes below are in NCHW axes whatever the order.
    direction : {"forward", "backward-data", "backward-weights"}
    id, kd, sd, dd, pad_front, pad_back : int
        The depth axis of a 3-D convolution.
    name : str
        For people: the layer this problem came from. One line.

    Raises
    ------
    ShapeError
        Naming the field, what it got and what it takes.
    """

    mb: int
    ic: int
    ih: int
    iw: int
    oc: int
    kh: int
    kw: int
    sh: int = 1
    sw: int = 1
    pad_top: int = 0
    pad_left: int = 0
    pad_bottom: int = 0
    pad_right: int = 0
    dh: int = 1
    dw: int = 1
    g: int = 1
    dtype: str = "float32"
    layout: str = "nchw"
    direction: str = "forward"
    id: int = 1
    kd: int = 1
    sd: int = 1
    dd: int = 1
    pad_front: int = 0
    pad_back: int = 0
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                raise ShapeError(f"{name} must be an int; got {value!r}") from None
            if least is not None and number < least:
                raise ShapeError(f"{name} must be at least {least}; got {number}")
            object.__setattr__(self, name, number)
        for name, allowed in (("dtype", DTYPES), ("layout", LAYOUTS), ("direction", DIRECTIONS)):
            value = getattr(self, name)
            if value not in allowed:
                raise ShapeError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        if not isinstance(self.name, str) or len(self.name.splitlines()) > 1:
            raise ShapeError(f"name must be a string of one line; got {self.name!r}")
        if self.ic % self.g or self.oc % self.g:
            raise ShapeError(
                f"groups g={self.g} must divide both the input channels ic={self.ic} and the output channels "
                f"oc={self.oc}"
            )
        if min(self.od, self.oh, self.ow) < 1:
            raise ShapeError(
                f"the kernel {self._size('kd', 'kh', 'kw')} with dilation {self._size('dd', 'dh', 'dw')} is larger "
                f"than the input {self._size('id', 'ih', 'iw')} with its padding "
                f"(top {self.pad_top}, left {self.pad_left}, bottom {self.pad_bottom}, right {self.pad_right}); "
                "pad more or use a smaller kernel"
            )

    def _size(self, *names: str) -> str:
        """Sizes as '3x3'; the depth first, where there is one."""
        return "x".join(str(getattr(self, name)) for name in names[0 if self.is_3d else 1 :])

    # ------------------------------------------------------------------------------------------------ sizes

    @property
    def od(self) -> int:
        """Output depth."""
        return _outputs(self.id, self.kd, self.sd, self.pad_front, self.pad_back, self.dd)

    @property
    def oh(self) -> int:
        """Output height."""
        return _outputs(self.ih, self.kh, self.sh, self.pad_top, self.pad_bottom, self.dh)

    @property
    def ow(self) -> int:
        """Output width."""
        return _outputs(self.iw, self.kw, self.sw, self.pad_left, self.pad_right, self.dw)

    @property
    def ph(self) -> int:
        """oneDNN's name for `pad_top`."""
        return self.pad_top

    @property
    def pw(self) -> int:
        """oneDNN's name for `pad_left`."""
        return self.pad_left

    @property
    def is_3d(self) -> bool:
        """Whether the depth axis does anything."""
        return (self.id, self.kd, self.sd, self.dd, self.pad_front, self.pad_back) != (1, 1, 1, 1, 0, 0)

    @property
    def icg(self) -> int:
        """Input channels of a group."""
        return self.ic // self.g

    @property
    def ocg(self) -> int:
        """Output channels of a group."""
        return self.oc // self.g

    @property
    def K(self) -> int:
        """Products summed into one output: the k of the GEMM of one group."""
        return self.icg * self.kd * self.kh * self.kw

    @property
    def macs(self) -> int:
        """Multiply-adds of the direct convolution, products with padding included."""
        return self.mb * self.oc * self.od * self.oh * self.ow * self.K

    @property
    def flops(self) -> int:
        """2 * macs."""
        return 2 * self.macs

    # ------------------------------------------------------------------------------------- shapes and bytes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(mb, ic, ih, iw); with a depth axis (mb, ic, id, ih, iw)."""
        return self._shape(self.mb, self.ic, self.id, self.ih, self.iw)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(oc, ic/g, kh, kw); with a depth axis (oc, ic/g, kd, kh, kw)."""
        return self._shape(self.oc, self.icg, self.kd, self.kh, self.kw)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(mb, oc, oh, ow); with a depth axis (mb, oc, od, oh, ow)."""
        return self._shape(self.mb, self.oc, self.od, self.oh, self.ow)

    def _shape(self, first: int, second: int, depth: int, height: int, width: int) -> tuple[int, ...]:
        return (first, second, depth, height, width) if self.is_3d else (first, second, height, width)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype]

    @property
    def input_bytes(self) -> int:
        """Bytes of the input."""
        return self.mb * self.ic * self.id * self.ih * self.iw * self.itemsize

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights."""
        return self.oc * self.K * self.itemsize

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return self.mb * self.oc * self.od * self.oh * self.ow * self.itemsize

    # ------------------------------------------------------------------------------------------ other forms

    def __str__(self) -> str:
        return descriptor.encode(self)

    @classmethod
    def parse(cls, text: str) -> ConvProblem:
        """Read a descriptor, benchdnn's or ours (see ``numbaconv.descriptor``).

        Parameters
        ----------
        text : str
            Such as ``mb1ic3ih227oc96kh11sh4``.

        Raises
        ------
        ShapeError
            Naming the token and its position, or the sizes that do not fit.
        """
        return cls(**descriptor.decode(text))

    @classmethod
    def from_arrays(
        cls, x: Any, w: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, layout: str = "nchw"
    ) -> ConvProblem:
        """The problem that an input and its weights pose.

        Parameters
        ----------
        x : array
            (mb, ic, ih, iw), or (mb, ih, iw, ic) under ``layout="nhwc"``; unbatched with three axes. Any strides:
            they tell the memory order of the problem, as in PyTorch's channels_last.
        w : array
            (oc, ic/groups, kh, kw).
        stride, dilation : int or pair of int
        padding : int, pair, four ints or word
            See ``numbaconv.padding.resolve_padding``.
        groups : int
        layout : {"nchw", "nhwc"}
            Order of x's axes; also the memory order where x's strides fit both.

        Raises
        ------
        ShapeError
        """
        if layout not in LAYOUTS:
            raise ShapeError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {layout!r}")
        if len(x.shape) not in (3, 4):
            raise ShapeError(f"x must have 4 axes ({', '.join(layout)}) or 3 (unbatched); got shape {tuple(x.shape)}")
        if len(w.shape) != 4:
            raise ShapeError(f"w must have 4 axes (oc, ic/groups, kh, kw); got shape {tuple(w.shape)}")
        dtype = dtype_name(x)
        if dtype != dtype_name(w):
            raise ShapeError(f"x is {dtype} and w is {dtype_name(w)}; convert one to the other's dtype")
        size = {"n": 1} | dict(zip(layout[-len(x.shape) :], map(int, x.shape), strict=True))
        mb, ic, ih, iw = (size[letter] for letter in "nchw")
        oc, icg, kh, kw = map(int, w.shape)
        try:
            g = operator.index(groups)
        except TypeError:
            raise ShapeError(f"groups must be an int; got {groups!r}") from None
        if icg * g != ic:
            raise ShapeError(
                f"x has {ic} channels (shape {tuple(x.shape)}, layout {layout!r}) and w of shape {tuple(w.shape)} with "
                f"groups={g} takes {icg * g}"
            )
        (sh, sw), (dh, dw) = pair(stride, "stride"), pair(dilation, "dilation")
        if min(sh, sw, dh, dw) < 1:
            raise ShapeError(f"stride and dilation must be at least 1; got {stride!r} and {dilation!r}")
        pads = resolve_padding(padding, (ih, iw), (kh, kw), (sh, sw), (dh, dw))
        return cls(mb, ic, ih, iw, oc, kh, kw, sh, sw, *pads, dh, dw, g, dtype, memory_order(x, layout))
