"""The paper's numbers against each other, and the verdict on scores against them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sseg_core.errors import ConfigError
from sseg_core.evaluation.benchmarks.pascal import VOC_CLASSES
from sseg_core.evaluation.published.published import Row, check, check_row, rows_for

BENCHMARKS = ("voc2012", "context", "coco-object")


def _row(table: int, method: str, benchmark: str = "voc2012") -> Row:
    (row,) = rows_for(table=table, method=method, benchmark=benchmark)
    return row


def _mious(table: int, method: str) -> list[float]:
    return [_row(table, method, benchmark).miou for benchmark in BENCHMARKS]


def _average(table: int, method: str) -> float:
    return sum(_mious(table, method)) / 3


def test_every_table_has_its_rows() -> None:
    """As many methods as the paper prints, none twice."""
    methods = {t: [r.reference for r in rows_for(table=t)] for t in (1, 2, 3, 4, 7, 8, 9)}
    assert {table: len(set(names)) for table, names in methods.items()} == {
        1: 5, 2: 3, 3: 14, 4: 17, 7: 6, 8: 5, 9: 5,
    }  # fmt: skip
    assert sum(len(names) for names in methods.values()) == len(rows_for())
    keys = [(row.reference, row.benchmark) for row in rows_for()]
    assert len(set(keys)) == len(keys)
    assert all(0 < row.miou < 100 and " " not in row.reference for row in rows_for())


def test_the_main_result_is_the_same_in_every_table_that_has_it() -> None:
    """S-Seg, S-Seg+ and their 26M rows of Table 7; CC12M of Table 2; Table 8 for VOC."""
    assert _mious(3, "S-Seg") == _mious(7, "S-Seg-26M")
    assert _mious(3, "S-Seg+") == _mious(7, "S-Seg+-26M")
    assert _mious(2, "S-Seg") == _mious(7, "S-Seg-12M")
    for method in ("CLIP", "MaskCLIP", "GroupViT", "S-Seg", "S-Seg+"):
        assert _row(8, method).miou == _row(3, method).miou


@pytest.mark.parametrize(
    ("table", "method", "average"),
    [
        (2, "B1", 6.6), (2, "B2", 14.9), (2, "S-Seg", 30.1),  # printed in Table 2
        (3, "S-Seg", 37.1), (3, "S-Seg+", 42.6),  # Sec. 4.2
        (7, "S-Seg+-12M", 34.9), (7, "S-Seg+-15M", 37.1),  # Table 7b
    ],
)  # fmt: skip
def test_the_averages_over_three_benchmarks_are_those_of_the_paper(
    table: int, method: str, average: float
) -> None:
    """Wherever it prints one, within the rounding."""
    assert _average(table, method) == pytest.approx(average, abs=0.05)


def test_the_one_number_that_contradicts_the_others_says_so() -> None:
    """S-Seg's 27.9 on COCO with 15M pairs: Table 7b's average of 30.8 needs 23.6."""
    row = _row(7, "S-Seg-15M", "coco-object")
    assert row.miou == 27.9
    assert _average(7, "S-Seg-15M") != pytest.approx(30.8, abs=0.5)
    assert "30.8" in row.note
    assert pytest.approx(30.8, abs=0.05) == (45.1 + 23.8 + 23.6) / 3
    # Figure 10c: self-training gains 17.6 % of itself on average over the three sizes.
    gains = [26.2 / 22.5, 28.0 / 23.6, 35.7 / 30.3]
    assert 100 * (sum(gains) / 3 - 1) == pytest.approx(17.6, abs=0.1)


def test_table_8_averages_to_its_last_column() -> None:
    """21 labels in VOC's order, background first; their mean is the mIoU."""
    for row in rows_for(table=8):
        assert tuple(row.iou) == ("background", *VOC_CLASSES)
        assert sum(row.iou.values()) / 21 == pytest.approx(row.miou, abs=0.051)


def test_table_8_shows_the_gains_that_the_text_states() -> None:
    """App. B.3: 11.1 over GroupViT on large objects, 14.3 by self-training on textures."""
    group, ours, plus = (_row(8, method).iou for method in ("GroupViT", "S-Seg", "S-Seg+"))
    large, textured = ("aeroplane", "bus", "train"), ("cat", "cow", "dog", "sheep")
    assert sum(ours[c] - group[c] for c in large) / 3 == pytest.approx(11.1, abs=0.05)
    assert sum(plus[c] - ours[c] for c in textured) / 4 == pytest.approx(14.3, abs=0.05)


def test_the_figures_of_table_10_are_those_of_table_4() -> None:
    """Which repeats five of its rows for VOC."""
    repeated = {
        "OpenSeg": 77.2, "ZegFormer": 80.7, "MaskCLIP": 49.5, "GroupViT": 77.2, "S-Seg": 81.8,
    }  # fmt: skip
    assert {method: _row(4, method).miou for method in repeated} == repeated


def test_what_was_not_printed_is_no_row() -> None:
    """CLIPpy has a figure on VOC alone."""
    assert [row.benchmark for row in rows_for(method="CLIPpy")] == ["voc2012"]


def _stats(**changes: Any) -> dict[str, Any]:
    protocol = {
        "name": "sseg", "version": 1, "background": "threshold", "threshold": 0.5, "changed": [],
        "tuned_on_split": False,
    }  # fmt: skip
    protocol |= changes.pop("protocol", {})
    return {
        "model": "run:v1",
        "benchmark": "voc2012",
        "split": "val",
        "images": 1449,
        "miou": 53.0,
        "miou_interval": [52.1, 53.9],
        "protocol": protocol,
        "limit": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("miou", "verdict"),
    [(53.2, "agrees"), (52.2, "agrees"), (54.2, "agrees"), (52.19, "below"), (54.21, "above")],
)
def test_a_score_within_one_point_agrees(miou: float, verdict: str) -> None:
    """The bound itself included; the result states the rule."""
    result = check(_stats(miou=miou), "table3:S-Seg")
    assert result["verdict"] == verdict
    assert result["difference"] == round(miou - 53.2, 2)
    assert result["tolerance"] == 1.0
    assert "1.0 point" in result["tolerance_rule"]
    assert result["published_miou"] == 53.2
    assert "2401.12217" in result["published_in"]
    assert "Table 3" in result["published_in"]


def test_a_wider_interval_is_a_wider_tolerance() -> None:
    """Half of 5 points: 2.5."""
    result = check(_stats(miou=50.9, miou_interval=[48.4, 53.4]), "table3:S-Seg")
    assert (result["verdict"], result["tolerance"]) == ("agrees", 2.5)


@pytest.mark.parametrize(
    ("changes", "row", "reason"),
    [
        ({"images": 20, "limit": 20}, "table3:S-Seg", "20 images were scored (limit 20)"),
        ({"images": 1448}, "table3:S-Seg", "1448 images were scored, the split has 1449"),
        ({"split": "train"}, "table3:S-Seg", "the split is train"),
        ({"protocol": {"name": "tcl"}}, "table3:S-Seg", "the protocol is tcl, the row's is sseg"),
        ({"protocol": {"changed": ["window"]}}, "table3:S-Seg", "changed: window"),
        ({"protocol": {"background": "exclude"}}, "table3:S-Seg", "background is 'exclude'"),
        ({"protocol": {"background": "words"}}, "table3:S-Seg", "background is 'words'"),
        ({}, "table4:S-Seg", "the row's 'exclude'"),
        ({}, "table3:SegCLIP", "none of ours"),
        ({}, "table3:GroupViT", "the row's is groupvit"),
        ({"miou": None, "miou_interval": [None, None]}, "table3:S-Seg", "nothing was scored"),
        ({"benchmark": "lvis-v1"}, "table9:S-Seg", "which 1103 of its classes"),
        ({"benchmark": "ade20k"}, "table3:S-Seg", "no figure of table3:S-Seg on ade20k"),
        (
            {"protocol": {"name": "oracle", "background": "class", "masks": 16}},
            "table1:Pseudo-mask",
            "16 pseudo-masks",
        ),
        (
            {"protocol": {"name": "groupvit", "changed": ["threshold"]}},
            "table3:GroupViT",
            "changed: threshold",
        ),
    ],
)
def test_what_differs_in_more_than_the_score_is_not_compared(
    changes: dict[str, Any], row: str, reason: str
) -> None:
    """The reason is named, and there is no difference that could be misread."""
    result = check(_stats(**changes), row)
    assert result["verdict"] == "not comparable"
    assert len(result["reasons"]) == 1
    assert reason in result["reasons"][0]
    assert "difference" not in result


def test_every_reason_is_named() -> None:
    """Not only the first."""
    changes = {"split": "train", "images": 1464, "protocol": {"name": "sclip"}}
    assert len(check(_stats(**changes), "table3:S-Seg")["reasons"]) == 3


def test_both_sizes_of_context_are_official() -> None:
    """5104 images as the paper counts, 5105 in Pascal in Detail."""
    for images in (5104, 5105):
        result = check(_stats(benchmark="context", images=images, miou=27.0), "table3:S-Seg")
        assert result["verdict"] == "agrees"


def test_a_threshold_that_the_paper_leaves_open_is_a_remark() -> None:
    """Another one is no other protocol; one that was chosen on the scored images is noted."""
    changes = {"changed": ["threshold"], "threshold": 0.3, "tuned_on_split": True}
    result = check(_stats(protocol=changes), "table3:S-Seg")
    assert result["verdict"] == "agrees"
    tuned, unknown = result["remarks"]
    assert "chosen on the images" in tuned
    assert "here it is 0.3" in unknown


@pytest.mark.parametrize(
    ("model", "changes", "row"),
    [
        ("run:v3", {}, "table3:S-Seg"),
        ("run:v3", {"protocol": {"background": "exclude"}}, "table4:S-Seg"),
        ("run:v3", {"benchmark": "imagenet-s-919"}, "table9:S-Seg"),
        ("clip:ViT-B-16", {}, "table3:CLIP"),
        ("maskclip:ViT-B-16", {}, "table3:MaskCLIP"),
        ("maskclip:ViT-B-16", {"protocol": {"background": "exclude"}}, "table4:MaskCLIP"),
        ("groupvit", {}, "table3:GroupViT"),
        ("pseudomask-clip:ViT-L-14", {}, "table2:B1"),
        ("oracle:dino_vits8", {"protocol": {"name": "oracle"}}, "table1:Pseudo-mask"),
        ("oracle:rgb", {"protocol": {"clustering": "kmeans"}}, "table1:K-Means"),
        ("oracle:rgb", {"protocol": {"clustering": "spectral"}}, "table1:Spectral"),
        ("oracle:groupvit", {}, "table1:GroupViT"),
    ],
)
def test_auto_finds_the_row_of_the_model(model: str, changes: dict[str, Any], row: str) -> None:
    """By its kind, the benchmark and the rule for background."""
    assert check(_stats(model=model, **changes), "auto")["row"] == row


@pytest.mark.parametrize(
    ("model", "benchmark"),
    [
        ("my_model.py:build", "voc2012"),
        ("clip:ViT-B-16:laion2b_s34b_b88k", "voc2012"),
        ("groupvit:nvidia/groupvit-gcc-yfcc", "voc2012"),
        ("run:v1", "toyworld"),
    ],
)
def test_auto_without_a_row_is_no_error(model: str, benchmark: str) -> None:
    """A long evaluation is not lost because the paper knows nothing of it."""
    result = check(_stats(model=model, benchmark=benchmark), "auto")
    assert result["verdict"] == "not comparable"
    assert f"no figure of {model}" in result["reasons"][0]


def test_the_sentence_says_it() -> None:
    """For the terminal: the score, the row, the verdict and the tolerance, or why there is none."""
    assert check(_stats(), "table3:S-Seg")["sentence"] == (
        "53.0 mIoU agrees with table3:S-Seg (53.2 mIoU as published): -0.2 points, tolerance 1.0 "
        "(the larger of 1.0 point and half the 95 % interval of the measured mIoU over images)."
    )
    assert check(_stats(miou=60.0), "table3:S-Seg")["sentence"].startswith(
        "60.0 mIoU is above table3:S-Seg (53.2 mIoU as published): +6.8 points, "
    )
    assert check(_stats(split="train"), "table3:S-Seg")["sentence"] == (
        "Not comparable with table3:S-Seg (53.2 mIoU as published): the split is train, the "
        "paper's is val."
    )
    assert check(_stats(model="my.py:build"), "auto")["sentence"] == (
        "Not comparable: the paper has no figure of my.py:build under this rule for background "
        "on voc2012."
    )


def test_another_model_than_the_rows_is_a_remark() -> None:
    """One may compare a rival with the paper's figure for another; it is said."""
    other = {"model": "maskclip:ViT-L-14"}
    assert any(
        "maskclip:ViT-B-16" in remark and "maskclip:ViT-L-14" in remark
        for remark in check(_stats(**other), "table3:MaskCLIP")["remarks"]
    )
    assert not any("scored was" in r for r in check(_stats(), "table3:S-Seg")["remarks"])


def test_the_result_is_json_and_never_mixes_ours_with_the_papers() -> None:
    """What the paper has is called published, by class too where it has that."""
    result = check(_stats(), "table8:S-Seg")
    assert json.loads(json.dumps(result)) == result
    assert result["published_iou"]["bus"] == 74.6
    assert "miou" not in result
    assert "iou" not in result


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        ("table3:SSeg", "Table 3 of the paper has no row 'SSeg'.", "Did you mean 'S-Seg'?"),
        ("table8:CLPI", "Table 8 of the paper has no row 'CLPI'.", "Did you mean 'CLIP'?"),
        ("table2:zzz", "Table 2 of the paper has no row 'zzz'.", "Choose one of: B1, B2, S-Seg."),
        ("table2", "Table 2 of the paper has no row ''.", "Choose one of: B1, B2, S-Seg."),
        ("table5:S-Seg", "The paper has no row 'table5:S-Seg'.", "tables 1, 2, 3, 4, 7, 8, 9"),
        ("S-Seg", "The paper has no row 'S-Seg'.", "such as table3:S-Seg"),
        ("", "The paper has no row ''.", "Write auto"),
    ],
)
def test_an_unknown_row_is_refused_before_anything_is_scored(
    wrong: str, message: str, hint: str
) -> None:
    """With the closest of its table, or all of them, or the tables there are."""
    with pytest.raises(ConfigError) as caught:
        check_row(wrong)
    assert caught.value.message == message
    assert hint in caught.value.hint


def test_every_row_can_be_named() -> None:
    """And so can auto."""
    for row in rows_for():
        check_row(row.reference)
    check_row("auto")


def test_how_outlines_that_overlap_were_merged_is_a_remark() -> None:
    """COCO's instances may lie on each other, and the paper does not say which then counts."""
    coco = {"benchmark": "coco-object", "images": 5000}
    merged = check(_stats(**coco, source="instances of x.json, merged by class"), "table3:S-Seg")
    assert any("smaller instance" in remark for remark in merged["remarks"])
    converted = check(_stats(**coco, source="label images"), "table3:S-Seg")
    assert not any("smaller instance" in remark for remark in converted["remarks"])
