"""Lists of steps: against the published code for Bicubic++, and byte by byte."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib import images
from calib.errors import ProcessOpError
from calib.images import (
    CenterCrop,
    ChannelSplit,
    CvtColor,
    DecodeImage,
    Normalize,
    Pad,
    ProcessOp,
    Resize,
    ToTensor,
    apply_ops,
    byte_values,
    pointwise_table,
    read_image,
)
from tests.calib.images.test_files import encode, photo
from tests.calib.images.test_process_ops import parse

BPP = [
    {"type": "DecodeImage"},
    {"type": "Resize", "size": [1080, 1920]},
    {"type": "Normalize", "norm_type": None},
    {"type": "ToTensor"},
]


@pytest.mark.parametrize("size", [(37, 53), (1080, 1920), (1300, 2100)])
def test_bicubic_plusplus_preprocessing_as_published(tmp_path: Path, size: tuple[int, int]) -> None:
    """imread, resize to 1920x1080, BGR to RGB, CHW, float32 / 255, add batch."""
    path = tmp_path / "a.png"
    path.write_bytes(encode(".png", photo(*size)))
    image = cv2.imread(str(path))
    image = cv2.resize(image, (1920, 1080))
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    image = np.transpose(image, (2, 0, 1)).astype(np.float32)
    image /= 255.0
    expected = np.expand_dims(image, 0)

    tensor = apply_ops(parse(*BPP), read_image(path))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor[None], expected)


def test_y_channel_pipeline() -> None:
    ops = parse(
        {"type": "DecodeImage"},
        {"type": "CvtColor", "code": "COLOR_RGB2YCrCb"},
        {"type": "Resize", "size": [20, 30]},
        {"type": "ChannelSplit", "index": 0},
        {"type": "Normalize", "norm_type": "None"},
        {"type": "ToTensor"},
    )
    y = cv2.resize(cv2.cvtColor(photo(), cv2.COLOR_RGB2YCrCb), (30, 20))[..., 0]
    np.testing.assert_array_equal(
        apply_ops(ops, photo()), y[None].astype(np.float32) / np.float32(255)
    )
    with pytest.raises(ProcessOpError, match="channel 2 of 1"):
        ChannelSplit(index=2).apply(photo()[..., :1])


def test_to_tensor_keeps_the_order_of_channels_wherever_it_stands() -> None:
    image = photo()
    chw = ToTensor().apply(image)
    assert chw.dtype == np.float32
    np.testing.assert_array_equal(chw, np.moveaxis(image, -1, 0).astype(np.float32))
    normalize = Normalize(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    expected = apply_ops([normalize, ToTensor()], image)
    np.testing.assert_array_equal(apply_ops([ToTensor(), normalize], image), expected)
    np.testing.assert_array_equal(apply_ops([normalize], image), expected)


BYTES = st.lists(
    st.sampled_from(
        [
            Resize(size=(9, 14), interpolation="bicubic"),
            CenterCrop(crop_size=(5, 7)),
            Pad(pad_to_square=True),
            CvtColor(code="COLOR_RGB2BGR"),
            CvtColor(code="COLOR_RGB2YCrCb"),
            DecodeImage(),
        ]
    ),
    max_size=4,
)
DROPPED = st.sampled_from([[], [ChannelSplit(index=2)], [DecodeImage(cv2_flags=0)]])


@settings(max_examples=60, deadline=None)
@given(BYTES, DROPPED, st.lists(st.sampled_from([Normalize(), ToTensor()]), max_size=2), st.data())
def test_the_values_of_bytes_are_all_that_can_come(
    first: list[ProcessOp], dropped: list[ProcessOp], scaled: list[ProcessOp], data: st.DataObject
) -> None:
    mean = (0.2, 0.5, 0.9) if not dropped else (0.3,)
    ops = [*first, *dropped, *scaled, Normalize(mean=mean, std=(0.25,), div255=False)]
    if not dropped:
        swap, split = CvtColor(code="COLOR_RGB2BGR"), ChannelSplit(index=0)
        ops += data.draw(st.sampled_from([[], [swap], [swap, split], [split]]))
    table = byte_values(ops)
    assert table is not None
    made = apply_ops(ops, photo(8, 12))
    assert table.shape == (len(made), 256)
    assert all(np.isin(made[c], table[c]).all() for c in range(len(made)))
    flat = [np.full((8, 12, 3), level, np.uint8) for level in (0, 255)]
    if not any(isinstance(op, CvtColor) and op.code == "COLOR_RGB2YCrCb" for op in first):
        lowest, highest = (apply_ops(ops, image).max(axis=(1, 2)) for image in flat)
        np.testing.assert_array_equal(lowest, table.min(axis=1))
        np.testing.assert_array_equal(highest, table.max(axis=1))


@pytest.mark.parametrize(
    "late",
    [
        Resize(size=(4, 4)),
        Pad(pad_to_square=True),
        CvtColor(code="COLOR_RGB2YCrCb"),
        DecodeImage(cv2_flags=0),
    ],
)
def test_what_mixes_float_values_leaves_them_unknown(late: ProcessOp) -> None:
    assert byte_values([Normalize(), late]) is None


@settings(max_examples=60, deadline=None)
@given(BYTES, DROPPED, st.sampled_from([[], [Normalize(mean=(0.1,) * 3, std=(1.0,))]]))
def test_the_channels_are_those_of_any_image(
    first: list[ProcessOp], dropped: list[ProcessOp], scaled: list[ProcessOp]
) -> None:
    ops = [*first, *dropped, *scaled]
    for size in ((8, 12), (40, 30)):
        try:
            made = len(apply_ops(ops, photo(*size)))
        except ProcessOpError as error:
            if "CenterCrop" not in error.what:
                with pytest.raises(ProcessOpError, match=re.escape(error.what)):
                    images.channels(ops)
        else:
            assert images.channels(ops) == made


def test_a_crop_is_compared_with_what_comes_before_it() -> None:
    crop, late = CenterCrop(crop_size=(5, 7)), CenterCrop(crop_size=(7, 7))
    assert images.channels([crop]) == 3
    assert images.channels([Resize(size=(9, -1)), late]) == 3
    assert images.channels([crop, Pad(pad_to_square=True), late]) == 3
    for before in ([crop], [Resize(size=(6, 16))], [crop, Pad(pad_to_square=False)]):
        with pytest.raises(ProcessOpError, match="CenterCrop to 7 x 7"):
            images.channels([*before, late])


def test_warnings() -> None:
    assert images.warnings(parse(*BPP)) == ()
    swap = {"type": "CvtColor", "code": "COLOR_BGR2RGB"}
    assert "DecodeImage yields RGB" in images.warnings(parse({"type": "DecodeImage"}, swap))[0]
    assert images.warnings(parse(swap)) == ()
    resize = {"type": "Resize", "size": [4, 4], "adaptive_side": "long"}
    assert "has no effect" in images.warnings(parse(resize))[0]
    assert "taken as" in images.warnings(parse({"type": "Normalize", "div255": True}))[0]
    both = {"type": "Normalize", "norm_type": None, "mean": [0.5], "std": [0.5]}
    assert "given and applied" in images.warnings(parse(both))[0]
    assert images.warnings(parse({"type": "Normalize", "mean": [0.5], "std": [0.5]})) == ()


NORMALIZE = st.builds(
    lambda n, seed, div255: Normalize(
        mean=tuple(np.random.default_rng(seed).normal(size=n).tolist()),
        std=tuple(np.random.default_rng(seed).uniform(0.1, 2, size=n).tolist()),
        div255=div255,
    ),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32),
    st.booleans(),
)
POINTWISE = st.lists(NORMALIZE | st.sampled_from([ToTensor(), DecodeImage()]), max_size=4)
SPATIAL = st.lists(
    st.sampled_from([Resize(size=(9, 14)), CenterCrop(crop_size=(5, 7)), Pad(pad_to_square=True)]),
    max_size=1,
)


@settings(max_examples=60, deadline=None)
@given(SPATIAL, POINTWISE)
def test_the_table_is_what_the_ops_do(spatial: list[ProcessOp], rest: list[ProcessOp]) -> None:
    ops = [DecodeImage(), *spatial, *rest]
    table = pointwise_table(ops, 3)
    assert table is not None
    assert table.dtype == np.float32
    assert table.shape == (3, 256)
    placed = photo(8, 12) if not spatial else spatial[0].apply(photo(8, 12))
    looked_up = np.stack([table[c][placed[..., c]] for c in range(3)])
    np.testing.assert_array_equal(looked_up, apply_ops(ops, photo(8, 12)))


@pytest.mark.parametrize(
    "ops",
    [
        [CvtColor(code="COLOR_RGB2BGR")],
        [ChannelSplit(index=0)],
        [DecodeImage(cv2_flags=0)],
        [Normalize(), Resize(size=(4, 4))],
        [ToTensor(), Pad(pad_to_square=True)],
    ],
)
def test_there_is_no_table_for_what_is_not_pointwise(ops: list[ProcessOp]) -> None:
    assert pointwise_table(ops, 3) is None
