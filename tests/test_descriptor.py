"""The descriptor codec: benchdnn's grammar read as benchdnn reads it, and every problem round-trips."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from numbaconv.errors import ShapeError
from numbaconv.problem import DIRECTIONS, DTYPES, LAYOUTS, ConvProblem
from numbaconv.shapes import read_shapes

parse = ConvProblem.parse


def everything(problem):
    """All fields, the name too."""
    return dataclasses.astuple(problem)


# ------------------------------------------------------------------------------------------------- round trip


@st.composite
def problems(draw):
    def axis(names, plain):
        if plain:
            return {}
        low = {"i": 1, "k": 1, "s": 1, "d": 1}
        values = {name: draw(st.integers(low.get(name[0], 0), 9)) for name in names[:5]}
        return values | {names[5]: draw(st.integers(-3, 9))}

    high = axis(["ih", "kh", "sh", "dh", "pad_top", "pad_bottom"], False)
    wide = axis(["iw", "kw", "sw", "dw", "pad_left", "pad_right"], draw(st.booleans()))
    if not wide:  # square but for the end pad, which has a token of its own
        wide = dict(zip(["iw", "kw", "sw", "dw", "pad_left", "pad_right"], high.values(), strict=True))
        wide["pad_right"] += draw(st.integers(0, 1))
    deep = axis(["id", "kd", "sd", "dd", "pad_front", "pad_back"], draw(st.booleans()))
    if deep and draw(st.booleans()):
        deep = dict(zip(deep, high.values(), strict=True))
    g = draw(st.integers(1, 3))
    try:
        return ConvProblem(
            mb=draw(st.integers(0, 4)),
            ic=g * draw(st.integers(1, 4)),
            oc=g * draw(st.integers(1, 4)),
            g=g,
            dtype=draw(st.sampled_from(sorted(DTYPES))),
            layout=draw(st.sampled_from(LAYOUTS)),
            direction=draw(st.sampled_from(DIRECTIONS)),
            name=draw(st.text(max_size=12) | st.sampled_from(['a"b', 'x"_f64', "n*3", " ", "_nhwc", "ih3"])),
            **high,
            **wide,
            **deep,
        )
    except ShapeError:
        assume(False)


@settings(max_examples=300)
@given(problems())
def test_every_problem_round_trips(problem):
    text = str(problem)
    assert everything(parse(text)) == everything(problem)
    assert str(parse(text)) == text


@settings(max_examples=100)
@given(problems(), problems())
def test_different_problems_have_different_texts(one, other):
    assert (str(one) == str(other)) == (everything(one) == everything(other))


# ---------------------------------------------------------------------------------------------- canonical form


@pytest.mark.parametrize(
    "text",
    [
        'mb1ic64ih56oc64oh56kh3sh1ph1n"resnet50:conv2_x"',
        "mb1ic3ih227oc96oh55kh11sh4ph0",
        "mb0ic3ih224oc64oh112kh7sh2ph3",
        'g2mb1ic96ih27oc256oh27kh5sh1ph2n"alexnet:conv2"',
        "mb1ic8ih10iw12oc8oh10ow12kh3kw3sh1sw1ph1pw1",
        "mb1ic8ih10oc8oh10kh3sh1ph2dh1",
        "mb1ic8ih10oc8oh10kh3sh1ph1_f64_nhwc",
        'mb1ic8ih10oc8oh5kh3sh2ph0n"more"_pb2pr2',
        "mb1ic8ih10oc8oh10kh3sh1ph1_bwd_d",
        "mb1ic8ih10oc8oh10kh3sh1ph1_bwd_w",
        "mb1ic8id10oc8od10kd3sd1pd1",
        "mb1ic8id4ih10iw10oc8od2oh10ow10kd3kh3kw3sd1sh1sw1pd0ph1pw1",
        'mb1ic8id9oc8od5kd3sd2pd1n"cube"_f64_pe2',
        "mb2ic2ih1iw9oc3oh1ow4kh1kw1sh1sw2ph0pw0",
    ],
)
def test_canonical_texts_are_kept_to_the_letter(text):
    assert str(parse(text)) == text


def test_the_example_of_the_design():
    text = 'mb1ic64ih56oc64oh56kh3sh1ph1n"resnet50:conv2_x"'
    pads = dict.fromkeys(("pad_top", "pad_left", "pad_bottom", "pad_right"), 1)
    problem = ConvProblem(1, 64, 56, 56, 64, 3, 3, **pads, name="resnet50:conv2_x")
    assert str(problem) == text
    assert everything(parse(text)) == everything(problem)


# --------------------------------------------------------------------------------------------- benchdnn's rules


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        # defaults: mb, group, stride, dilation, pads, output
        ("ic3ih8oc4kh3", {"mb": 2, "g": 1, "sh": 1, "sw": 1, "dh": 1, "pad_top": 0, "oh": 6, "ow": 6}),
        ("mb1ic3ih227oc96kh11sh4", {"iw": 227, "kw": 11, "sw": 4, "oh": 55, "ow": 55, "pad_bottom": 0}),
        # 0-based dilation
        ("ic3ih9oc4kh3dh1", {"dh": 2, "dw": 2, "oh": 5}),
        # a missing output follows from equal pads
        ("ic3ih10oc4kh5ph7", {"oh": 20, "pad_bottom": 7, "pad_right": 7}),
        # a missing pad: ((o - 1) * s - i + ek) / 2, rounded down; the rest goes to the end
        ("ic3ih300oc32oh150kh3sh2", {"pad_top": 0, "pad_bottom": 1, "ow": 150}),
        ("ic3ih5oc4oh5kh3dh1", {"pad_top": 2, "pad_bottom": 2}),
        # end pads that differ from the beginning
        ("ic32ih13oc13oh12kh3ph0", {"pad_top": 0, "pad_bottom": 1, "pad_right": 1}),
        ("ic8ih1oc8oh16kh2ph1", {"pad_top": 1, "pad_bottom": 15}),
        # an unused tail: shorter than a stride it is floor's, longer it is a negative pad
        ("ic16ih2oc16oh1kh1sh3ph0", {"pad_bottom": 0, "oh": 1}),
        ("ic16ih7iw1oc16oh1ow1kh11kw1sh2sw1ph5pw0", {"pad_top": 5, "pad_bottom": 0, "oh": 1}),
        ("ic2ih1iw9oc3oh1ow4kh1kw1sh1sw2", {"pad_right": -2, "ow": 4}),
        # axes: width copies height as a whole, height copies depth; the width may stand alone
        ("ic3ih8oc4kh3ph1pw0", {"pad_left": 1, "ow": 8}),
        ("ic3ih8iw9oc4kh3kw2ph1", {"pad_left": 0, "ow": 8}),
        ("ic16oc16_id5od5kd3pd1", {"ih": 5, "kw": 3, "pad_left": 1, "ow": 5, "pad_back": 1, "is_3d": True}),
        ("g1ic3oc16_iw8ow4kw3pw1sw2", {"ih": 1, "kh": 1, "oh": 1, "iw": 8, "ow": 4, "is_3d": False}),
        ("ic3id1ih8iw8oc4od1oh6ow6kd1kh3kw3", {"is_3d": False, "oh": 6}),
        # order, separators, repeats, names
        ("kh3_oc4_ih8_ic3_mb7", {"mb": 7, "oh": 6}),
        ("ic16oc16_ih10kh3_kh5", {"kh": 5, "kw": 5}),
        ("ic3ih8oc4kh3nconv1", {"name": "conv1"}),
        ("ic3ih8oc4kh3_n%odd_!=0", {"name": "%odd_!=0"}),
        ('ic3ih8oc4kh3n"a b:c*3"', {"name": "a b:c*3"}),
        ("ic3ih8oc4kh3n", {"name": ""}),
        # ours, before the name or behind it
        ("ic3ih8oc4kh3_nhwc_f64", {"layout": "nhwc", "dtype": "float64", "name": ""}),
        ('ic3ih8oc4kh3_pb1pr2_bwd_w_n"x"', {"pad_bottom": 1, "pad_right": 2, "oh": 7, "direction": DIRECTIONS[2]}),
        (" ic3ih8oc4kh3\n", {"oh": 6}),
    ],
)
def test_benchdnn_rules(text, fields):
    problem = parse(text)
    assert {name: getattr(problem, name) for name in fields} == fields


@given(*(st.integers(low, 12) for low in (1, 1, 1, 1, 0, 0)))
def test_the_outputs_that_are_written_are_the_outputs(size, out, kernel, stride, pad, dilation):
    problem = parse(f"mb1ic1ih{size}oc1oh{out}kh{kernel}sh{stride}ph{pad}dh{dilation}")
    assert (problem.oh, problem.ow) == (out, out)
    needed = (out - 1) * stride + (kernel - 1) * (dilation + 1) + 1 - size - pad
    assert problem.pad_bottom >= needed
    assert problem.pad_bottom in (pad, needed, 0)
    assert problem.pad_bottom - needed < stride


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mb1ic3ih5oc4kh3q7", ["'q7'", "position 15"]),
        ("mb1ic3ih5oc4kh-3", ["'kh-3'", "position 12"]),
        ("mb1ic3ihoc4kh3", ["'ihoc4'", "position 6"]),
        ("conv1", ["'conv1'", "position 0"]),
        ("mb1ic3ih5oc4kh3_f16", ["'f16'", "position 16"]),
        ('mb1ic3ih5oc4kh3n"x"*2', ["'*'", "position 19"]),
        ("mb1 ic3", ["' '", "position 3"]),
        ("ih5oc4kh3", ["lacks ic"]),
        ("ic3ih5kh3", ["lacks oc"]),
        ("ic3oc4", ["no size of any axis"]),
        ("ic3ih5oc4", ["kh", "0"]),
        ("ic3oc4oh5kh3", ["lacks ih"]),
        ("ic3ih5oc4kh3sh0", ["sh", "0"]),
        ("ic3ih5iw6oc4kh3", ["lacks kw"]),
        ("ic3id5ih5oc4kd3kh3", ["both h and w"]),
        ("ic3id5iw5oc4kd3kw3", ["both h and w"]),
        ("ic3ih5oc4oh4kh3_pb0pr0", ["oh4", "does not follow"]),
        ("ic3ih5oc4kh7", ["7x7", "5x5"]),
        ("g2ic3ih5oc4kh3", ["g=2", "ic=3"]),
        ("", ["lacks ic"]),
        (None, ["must be a string"]),
    ],
)
def test_a_wrong_descriptor_is_refused_by_token_and_place(text, words):
    with pytest.raises(ShapeError) as caught:
        parse(text)
    for word in words:
        assert word in str(caught.value)


# -------------------------------------------------------------------------------------------------- shape files

FILE = """# two networks
--reset --dir=FWD_B,BWD_D
--batch=other

mb1ic3ih224oc64oh112kh7sh2ph3n"net:conv1"
  ic64ih56oc64oh56kh3ph1n"net:conv2*4"   # four of them
--mb=2 ic64ih56oc256oh56kh1ph0n"net:last layer"*2 g1ic3oc16_iw5ow5kw3pw1_nplain*12
#ic1ih1oc1kh1
"""


def test_shape_files(tmp_path):
    path = tmp_path / "shapes_net"
    path.write_text(FILE)
    found = read_shapes(path)
    assert [(p.name, count) for p, count in found] == [
        ("net:conv1", 1),
        ("net:conv2", 4),
        ("net:last layer", 2),
        ("plain", 12),
    ]
    assert sum(p.macs * count for p, count in found) == math.prod((64, 112, 112, 3, 49)) + 2 * (
        4 * math.prod((64, 56, 56, 64, 9)) + 2 * math.prod((256, 56, 56, 64)) + 12 * math.prod((16, 5, 3, 3))
    )


def test_written_problems_are_read_back(tmp_path):
    path = tmp_path / "mine"
    problems = [parse("mb1ic3ih8oc4kh3"), parse('g2mb3ic8ih9iw8oc4kh3kw2n"two words"_nhwc_f64')]
    path.write_text("\n".join(map(str, problems)))
    assert [(everything(p), count) for p, count in read_shapes(str(path))] == [(everything(p), 1) for p in problems]


def test_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "shapes_wrong"
    path.write_text("# fine\nic3ih8oc4kh3\n\nic3ih8oc4kh3 ic3ih8oc4zz3\n")
    with pytest.raises(ShapeError, match=r"shapes_wrong, line 4: .*'zz3' at position 9"):
        read_shapes(path)
