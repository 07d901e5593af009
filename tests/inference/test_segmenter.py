"""Images and class names in, a label map of the image's own size out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS, save_weights
from sseg_core.config import (
    BackboneConfig,
    DecoderConfig,
    LoaderConfig,
    MasksConfig,
    ModelConfig,
    PseudomaskConfig,
    TextConfig,
    TrainConfig,
    build_config,
)
from sseg_core.errors import ArtifactError, ConfigError, DataError
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.word_network import WordNetwork, default_image_size, give_segments
from sseg_core.models.build import build_model
from sseg_core.models.sseg import SSeg
from sseg_core.structures import MaskOutput

WORDS = ("dark", "bright", "absent")


class LightAndDark(nn.Module):
    """Two queries: dark pixels and bright pixels; each word of WORDS is an axis of the space."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, ...]] = []
        self.texts = 0

    def encode_images(self, images: Tensor) -> MaskOutput:
        self.seen.append(tuple(images.shape))
        bright = 40 * (images.mean(dim=1, keepdim=True) - 0.5)
        logits = torch.cat([-bright, bright], dim=1)
        features = torch.eye(3)[:2].expand(len(images), 2, 3)
        return MaskOutput(logits, features, (), 1)

    def project_masks(self, features: Tensor) -> Tensor:
        return features

    def encode_texts(self, ids: Tensor) -> Tensor:
        self.texts += len(ids)
        return torch.eye(3)[ids[:, 0]]

    def similarity_scale(self) -> Tensor:
        return torch.tensor(10.0)


def _tokens(texts: Sequence[str]) -> np.ndarray:
    return np.array([[next(i for i, word in enumerate(WORDS) if word in text)] for text in texts])


@pytest.fixture
def model() -> LightAndDark:
    return LightAndDark()


@pytest.fixture
def segmenter(model: LightAndDark) -> Segmenter:
    return Segmenter(WordNetwork(model, _tokens, image_size=32))  # type: ignore[arg-type]


def _halves(height: int, width: int) -> np.ndarray:
    """Black on the left, white on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = 255
    return image


def test_the_label_map_has_the_images_size_and_the_order_of_the_names(
    segmenter: Segmenter,
) -> None:
    """Left is dark and right is bright at 50 x 80, whatever order the names are given in."""
    image = _halves(50, 80)
    result = segmenter.segment(image, ["bright", "dark"])
    assert result.label_map.dtype == np.int16
    assert result.label_map.tolist() == (1 - image[..., 0] // 255).tolist()
    assert result.class_names == ("bright", "dark")
    assert result.shares == {"bright": 0.5, "dark": 0.5}
    assert result.masks["dark"][0].tolist() == [True] * 40 + [False] * 40
    assert result.probabilities.shape == (50, 80)
    assert result.probabilities.min() > 0.4
    assert result.probabilities.max() <= 1


def test_the_short_side_is_resized_and_the_aspect_kept(
    segmenter: Segmenter, model: LightAndDark
) -> None:
    """A 50 x 80 image is seen at 32 x 51, or at the size that a call asks for."""
    segmenter.segment(_halves(50, 80), WORDS)
    segmenter.segment(_halves(80, 50), WORDS, image_size=64)
    assert model.seen == [(1, 3, 32, 51), (1, 3, 102, 64)]


@pytest.mark.parametrize(
    ("size", "seen"), [((10, 4000), (1, 128)), ((3000, 2), (128, 1)), ((1, 1), (32, 32))]
)
def test_extreme_shapes_are_bounded(
    segmenter: Segmenter, model: LightAndDark, size: tuple[int, int], seen: tuple[int, int]
) -> None:
    """The long side is at most four times the image size, no side is below one pixel."""
    result = segmenter.segment(np.full((*size, 3), 255, np.uint8), WORDS)
    assert model.seen == [(1, 3, *seen)]
    assert result.label_map.shape == size
    assert (result.label_map == 1).all()


def test_pixels_below_the_threshold_are_background(segmenter: Segmenter) -> None:
    """Grey is neither dark nor bright with certainty; at 0.9 it is background."""
    image = _halves(32, 32)
    image[:, 12:20] = 128
    result = segmenter.segment(image, WORDS, threshold=0.9)
    assert (result.label_map[:, 13:19] == -1).all()
    assert (result.label_map[:, :11] == 0).all()
    assert (result.label_map[:, 21:] == 1).all()
    assert result.probabilities[0, 16] < 0.9
    assert sum(result.shares.values()) == pytest.approx(1 - (result.label_map == -1).mean())


def test_a_class_without_pixels_is_reported_empty(segmenter: Segmenter) -> None:
    """It has share 0, no mean probability and no RLE, and stays in the JSON."""
    result = segmenter.segment(_halves(8, 8), WORDS)
    assert result.shares["absent"] == 0
    assert result.mean_probability["absent"] is None
    assert [entry["category"] for entry in result.to_coco_rle()] == ["dark", "bright"]
    assert [entry["name"] for entry in result.to_json()["classes"]] == ["dark", "bright"]


def test_mean_probability_is_over_the_pixels_of_the_class(segmenter: Segmenter) -> None:
    """It equals the mean of the probabilities under each mask."""
    result = segmenter.segment(_halves(20, 31), WORDS, threshold=0.6)
    for name in ("dark", "bright"):
        expected = result.probabilities[result.masks[name]].mean()
        assert result.mean_probability[name] == pytest.approx(expected, rel=1e-5)


def test_coco_rle_decodes_to_the_masks(segmenter: Segmenter) -> None:
    """pycocotools reads the counts back to the same pixels, area and box."""
    result = segmenter.segment(_halves(21, 34), WORDS)
    for entry in result.to_coco_rle():
        mask = result.masks[entry["category"]]
        assert isinstance(entry["segmentation"]["counts"], str)
        assert np.array_equal(coco_mask.decode(entry["segmentation"]), mask)
        assert entry["area"] == mask.sum()
    assert result.to_coco_rle()[1]["bbox"] == [17, 0, 17, 21]


def test_the_overlay_is_a_picture(segmenter: Segmenter) -> None:
    """`overlay()` draws at least the image's own pixels."""
    picture = segmenter.segment(_halves(90, 120), WORDS).overlay()
    assert isinstance(picture, Image.Image)
    assert picture.width >= 120


def test_files_arrays_and_pillow_images_give_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    """A path, its text, the array and the Pillow image are one image; EXIF turns it upright."""
    image = _halves(20, 30)
    image[:10] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = segmenter.segment(image, WORDS).label_map
    turned = Image.fromarray(np.rot90(image).copy())  # orientation 6 turns it back clockwise
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    for same in (
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        tmp_path / "turned.png",
        Image.open(tmp_path / "turned.png"),
        Image.fromarray(image),
    ):
        assert np.array_equal(segmenter.segment(same, WORDS).label_map, expected)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
    ids=["grey", "float", "empty"],
)
def test_an_array_that_is_no_rgb_image_is_refused(segmenter: Segmenter, array: np.ndarray) -> None:
    """The error says what shape and type are needed."""
    with pytest.raises(DataError, match=r"\[H, W, 3\] uint8"):
        segmenter.segment(array, WORDS)


def test_bad_class_names_and_templates_are_refused(segmenter: Segmenter) -> None:
    """No names, the same name twice, a template without a place for the name."""
    with pytest.raises(ConfigError):
        segmenter.segment(_halves(4, 4), [])
    with pytest.raises(ConfigError):
        segmenter.segment(_halves(4, 4), ["dark", "Dark"])
    with pytest.raises(ConfigError):
        segmenter.template = "no place"


def test_texts_are_encoded_once_per_vocabulary_and_template(
    segmenter: Segmenter, model: LightAndDark
) -> None:
    """The same names again cost nothing; another template or other names do."""
    for _ in range(3):
        segmenter.segment(_halves(4, 4), WORDS)
    assert model.texts == 3
    segmenter.template = "a {}"
    segmenter.segment(_halves(4, 4), WORDS)
    segmenter.segment(_halves(4, 4), WORDS[:2])
    assert model.texts == 8


def test_all_class_probabilities_agree_with_the_label_map(segmenter: Segmenter) -> None:
    """They sum to one, their argmax is the label map and their maximum the probabilities."""
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    scores = segmenter.class_probabilities(image, WORDS)
    result = segmenter.segment(image, WORDS)
    assert scores.shape == (3, 30, 40)
    assert np.allclose(scores.sum(0), 1, atol=1e-5)
    assert np.array_equal(scores.argmax(0), result.label_map)
    assert np.allclose(scores.max(0), result.probabilities)


def test_a_model_is_used_at_twice_its_crop() -> None:
    """448 for the paper's 224, and the same ratio for a small model."""
    assert default_image_size(TrainConfig()) == 448
    small = TrainConfig(loader=LoaderConfig(load_size=96, crop_size=64))
    assert default_image_size(small) == 128


# --- under a protocol ---------------------------------------------------------------------------


def test_a_view_is_completed_by_the_model(segmenter: Segmenter) -> None:
    """What it leaves open is the model's own choice; what it fixes stays."""
    segmenter.template = "a {}"
    own = segmenter.complete(View())
    assert own == View(32, 0, 0, ("a {}",), logit_scale=10.0, scales=(1.0,), flip=False)
    fixed = View(48, 40, 20, ("{}", "the {}"), False, 50.0, 0.1, "pamr", (1.0, 2.0), True)
    assert segmenter.complete(fixed) == fixed
    assert segmenter.complete(View(window=24)).stride == 12
    assert segmenter.complete(own) == own


def test_a_size_that_is_asked_for_comes_before_the_views(
    segmenter: Segmenter, model: LightAndDark
) -> None:
    """`image_size` overrides `short_side`, and that the model's own size."""
    for image_size in (None, 16):
        segmenter.segment_batch(
            [_halves(50, 50)], WORDS, view=View(short_side=24), image_size=image_size
        )
    assert model.seen == [(1, 3, 24, 24), (1, 3, 16, 16)]


def test_windows_with_gaps_are_refused(segmenter: Segmenter) -> None:
    """A stride above the window would leave pixels that nothing covers."""
    with pytest.raises(ConfigError, match="gaps"):
        segmenter.segment_batch([_halves(64, 64)], WORDS, view=View(window=16, stride=17))


def test_the_network_sees_windows(segmenter: Segmenter, model: LightAndDark) -> None:
    """40 x 64 at a short side of 40 is seen in six windows of 24, for all images of its size."""
    images = [_halves(40, 64), _halves(40, 64)[:, ::-1].copy()]
    view = View(short_side=40, window=24, stride=20)
    left, right = segmenter.segment_batch(images, WORDS, view=view)
    assert model.seen == [(2, 3, 24, 24)] * 6
    assert left.label_map.tolist() == (images[0][..., 0] // 255).tolist()
    assert right.label_map.tolist() == (images[1][..., 0] // 255).tolist()
    whole = segmenter.segment_batch(images, WORDS, view=View(short_side=40))
    # This network looks at each pixel by itself, so that windows change nothing.
    np.testing.assert_allclose(left.probabilities, whole[0].probabilities, atol=1e-6)


def test_the_views_templates_and_scale_come_before_the_models(
    segmenter: Segmenter, model: LightAndDark
) -> None:
    """Two templates are two texts a word; a small scale makes all words nearly as probable."""
    view = View(templates=("{}", "a {}"), logit_scale=0.3)
    [result] = segmenter.segment_batch([_halves(32, 32)], WORDS, view=view)
    assert model.texts == 6
    expected = np.exp(0.3) / (np.exp(0.3) + 2)
    np.testing.assert_allclose(result.probabilities[:, :10], expected, atol=1e-5)


def test_synonyms_are_one_class_and_background_words_none(segmenter: Segmenter) -> None:
    """A pixel has the class of its best word; one that names background is background."""
    vocabulary = Vocabulary.of(
        ["light", "nothing"], {"light": ("absent", "bright"), "nothing": ("absent",)}, ["dark"]
    )
    [result] = segmenter.segment_batch([_halves(32, 32)], vocabulary)
    assert result.class_names == ("light", "nothing")
    assert (result.label_map[:, :15] == -1).all()
    assert (result.label_map[:, 17:] == 0).all()
    assert result.probabilities.min() > 0.4


def test_classes_with_a_small_share_take_no_part(segmenter: Segmenter) -> None:
    """An eighth of the pixels that are no background is not more than an eighth."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 28:] = 255
    share = segmenter.segment(image, WORDS).shares["bright"]
    for min_share, found in ((share + 1e-3, set()), (share - 1e-3, {1})):
        [result] = segmenter.segment_batch([image], WORDS, view=View(min_share=min_share))
        assert set(np.unique(result.label_map[:, 28:])) == (found or {0})
    # The other class takes their pixels, with what probability it has there.
    [result] = segmenter.segment_batch([image], WORDS, view=View(min_share=share))
    assert (result.label_map == 0).all()
    assert result.probabilities[0, 31] < 0.01
    # Beside background, a class is as large as its share of the rest.
    vocabulary = Vocabulary.of(["bright", "absent"], background=["dark"])
    [result] = segmenter.segment_batch([image], vocabulary, view=View(min_share=0.9))
    assert (result.label_map[:, 29:] == 0).all()
    assert (result.label_map[:, :27] == -1).all()


def test_where_no_class_is_large_enough_all_is_background(segmenter: Segmenter) -> None:
    """Two halves are not more than half, so neither takes part, and nothing is left."""
    view = View(min_share=0.5)
    [result] = segmenter.segment_batch([_halves(32, 32)], WORDS[:2], view=view)
    assert (result.label_map == -1).all()
    assert (result.probabilities == 0).all()


def test_refined_masks_follow_the_photo(segmenter: Segmenter) -> None:
    """A grey line between the halves is uncertain; its neighbours' colours decide for it."""
    image = _halves(64, 64)
    noise = np.random.default_rng(0).integers(-20, 20, image.shape)
    image = np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)
    image[30, 10] = 128  # a lone pixel among dark ones
    [plain] = segmenter.segment_batch([image], WORDS, view=View(short_side=64))
    [refined] = segmenter.segment_batch([image], WORDS, view=View(short_side=64, refine="pamr"))
    assert plain.probabilities[30, 10] < 0.9
    assert refined.probabilities[30, 10] > plain.probabilities[30, 10] + 0.05
    assert np.array_equal(refined.label_map, _halves(64, 64)[..., 0] // 255)
    [windows] = segmenter.segment_batch(
        [image], WORDS, view=View(short_side=64, window=48, stride=16, refine="pamr")
    )
    assert np.array_equal(windows.label_map, refined.label_map)


# --- with a real network ------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_a_checkpoint_alone_is_enough_to_segment(
    store: ArtifactStore, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """The newest checkpoint is loaded with its size and template, and results repeat exactly."""
    artifact = make_checkpoint(store)
    image = np.random.default_rng(1).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    results = []
    for reference in (None, "random", "random:v1", str(artifact.path)):
        segmenter = Segmenter.load(reference, store=store, device="cpu")
        assert segmenter.image_size == 64
        results.append(segmenter.segment(image, ["house", "tree", "sky"]))
    first, *others = results
    assert np.isfinite(first.probabilities).all()
    assert all(np.array_equal(first.probabilities, other.probabilities) for other in others)


def test_a_warm_start_is_not_needed_again(
    store: ArtifactStore, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """The file that training started from may be gone, and the hub out of reach."""
    cold = make_checkpoint(store)
    values = cold.manifest.config
    for start in ({"weights": "/gone.safetensors"}, {"pretrained": True}):
        backbone = {**values["model"]["backbone"], **start}
        config = {**values, "model": {**values["model"], "backbone": backbone}}
        with store.draft("checkpoint", "warm", config) as draft:
            (draft.path / WEIGHTS).write_bytes(cold.file(WEIGHTS).read_bytes())
            draft.publish({"steps": 0})
        segmenter = Segmenter.load("warm", store=store, device="cpu")
        expected = Segmenter.load("random", store=store, device="cpu")
        names, image = ["cat", "dog"], _halves(20, 30)
        probabilities = segmenter.segment(image, names).probabilities
        assert np.array_equal(probabilities, expected.segment(image, names).probabilities)


def test_a_batch_gives_what_single_images_give(
    store: ArtifactStore, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """Images of several sizes in one call come out in order and as if alone."""
    make_checkpoint(store)
    segmenter = Segmenter.load(store=store, device="cpu")
    rng = np.random.default_rng(2)
    sizes = [(40, 50), (33, 31), (40, 50), (64, 20)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for image, result in zip(images, segmenter.segment_batch(images, ["cat", "dog"]), strict=True):
        alone = segmenter.segment(image, ["cat", "dog"])
        assert result.image is image
        assert np.allclose(result.probabilities, alone.probabilities, atol=1e-5)
        assert (result.label_map == alone.label_map).mean() > 0.999


def test_windows_do_not_depend_on_the_rest_of_the_batch(
    store: ArtifactStore, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """With windows and refinement, too, images come out as if alone."""
    make_checkpoint(store)
    segmenter = Segmenter.load(store=store, device="cpu")
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in [(40, 60), (40, 60)]]
    view = View(short_side=64, window=48, stride=24, refine="pamr", templates=("{}", "a {}"))
    together = segmenter.segment_batch(images, ["cat", "dog", "sky"], view=view)
    for image, result in zip(images, together, strict=True):
        [alone] = segmenter.segment_batch([image], ["cat", "dog", "sky"], view=view)
        np.testing.assert_allclose(result.probabilities, alone.probabilities, atol=1e-5)
        assert (result.label_map == alone.label_map).mean() > 0.999


def test_words_are_not_encoded_again_in_another_run(
    store: ArtifactStore,
    make_checkpoint: Callable[[ArtifactStore], Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second process would find the features by the digest of the weights, bit by bit."""
    make_checkpoint(store)
    image = _halves(20, 30)
    expected = Segmenter.load(store=store, device="cpu").segment(image, ["cat", "dog"])
    asked: list[int] = []
    encode = SSeg.encode_texts

    def counting(self: SSeg, ids: Tensor) -> Tensor:
        asked.append(len(ids))
        return encode(self, ids)

    monkeypatch.setattr(SSeg, "encode_texts", counting)
    segmenter = Segmenter.load(store=store, device="cpu")
    result = segmenter.segment(image, ["cat", "dog"])
    assert asked == []
    assert np.array_equal(result.probabilities, expected.probabilities)
    segmenter.segment(image, ["cat", "dog", "owl"])
    assert asked == [1]


def test_changed_weights_are_refused(
    store: ArtifactStore, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """One flipped byte in the weights is an error, not a silently different model."""
    path = make_checkpoint(store).path / WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="was changed"):
        Segmenter.load(store=store)


def test_without_a_checkpoint_the_way_to_one_is_named(store: ArtifactStore) -> None:
    """The hint names `sseg demo`."""
    with pytest.raises(ArtifactError, match="sseg demo"):
        Segmenter.load(store=store)


def test_a_pillow_image_is_taken_like_a_file(
    store: ArtifactStore, tmp_path: Path, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """Transparency and 16 bits give the pixels, and so the result, of the same picture on disk."""
    make_checkpoint(store)
    segmenter = Segmenter.load(store=store, device="cpu")
    rng = np.random.default_rng(2)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 65536, (20, 30), dtype=np.uint16)),
    ]
    for number, picture in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        from_file = segmenter.segment(path, ["cat", "dog"])
        from_memory = segmenter.segment(picture, ["cat", "dog"])
        assert np.array_equal(from_file.image, from_memory.image)
        assert np.array_equal(from_file.label_map, from_memory.label_map)


def test_a_student_is_loaded_like_any_other_checkpoint(
    store: ArtifactStore, make_student: Callable[..., Artifact]
) -> None:
    """By its manifest; the weights that its training started from may be out of reach."""
    names = ("cat", "dog")
    artifact = make_student(store, names, background=True, backbone={"pretrained": True})
    image = np.random.default_rng(1).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    results = []
    for reference in (None, "plus", "plus:v1", str(artifact.path)):
        segmenter = Segmenter.load(reference, store=store, device="cpu")
        assert (segmenter.image_size, segmenter.class_names) == (64, names)
        assert segmenter.tells_background
        results.append(segmenter.segment(image, ["dog"]))
    first, *others = results
    assert all(np.array_equal(first.probabilities, other.probabilities) for other in others)
    assert first.class_names == ("dog",)
    assert first.label_map.shape == (45, 70)
    with pytest.raises(ConfigError, match="plus:v1 knows 2 classes, and 'tiger' is none of them"):
        Segmenter.load(store=store, device="cpu").segment(image, ["dog", "tiger"])


@pytest.mark.parametrize(
    ("stats", "hint"),
    [
        ({}, "Choose among cat, dog."),
        ({"teacher": "clip:ViT-B-16"}, "Its teacher clip:ViT-B-16 takes any words"),
        ({"teacher": "gone:v1"}, "Its teacher gone:v1 takes any words"),
        ({"teacher": "plus:v1"}, "Choose among cat, dog."),  # itself, in a manifest of a stranger
    ],
)
def test_the_teacher_of_a_student_may_be_anything(
    store: ArtifactStore, make_student: Callable[..., Artifact], stats: dict[str, str], hint: str
) -> None:
    """A rival, a checkpoint of another store, or none."""
    make_student(store, ["cat", "dog"], background=False, stats=stats)
    segmenter = Segmenter.load(store=store, device="cpu")
    with pytest.raises(ConfigError) as caught:
        segmenter.check(["tiger"])
    assert caught.value.hint.startswith(hint)


# --- with a network that reads pseudo-masks -----------------------------------------------------

_MASKS = PseudomaskConfig(features="lab", masks=4, image_size=48, grid=16)


_B2 = TrainConfig(
    masks=MasksConfig(generator=_MASKS),
    model=ModelConfig(
        architecture="pseudomask_vit",
        backbone=BackboneConfig(
            name="vit_tiny_patch16_224",
            out_indices=(-1,),
            options={"patch_size": 8, "img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
        ),
        decoder=DecoderConfig(num_queries=4),
        text=TextConfig(layers=1, width=32, heads=2, context_length=8),
        embed_dim=16,
    ),
    loader=LoaderConfig(load_size=32, crop_size=32),
)
"""Baseline 2 at the size of a test."""


@pytest.fixture
def reading_masks(store: ArtifactStore) -> Segmenter:
    """An untrained baseline 2, published and loaded."""
    torch.manual_seed(0)
    with store.draft("checkpoint", "b2", _B2.model_dump(mode="json")) as draft:
        save_weights(build_model(_B2.model), draft.path / WEIGHTS)
        draft.publish({"steps": 0})
    return Segmenter.load("b2", store=store, device="cpu")


def _quarters() -> np.ndarray:
    """Four plain colours, 64 x 96."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48], image[:32, 48:], image[32:, :48] = (220, 30, 30), (30, 200, 40), (30, 40, 210)
    return image


def test_segments_are_made_at_inference_and_get_one_class_each(reading_masks: Segmenter) -> None:
    """Each colour of the picture is one segment, so it has one class and one probability."""
    result = reading_masks.segment(_quarters(), ["house", "tree", "sky", "grass"])
    seen = set()
    for rows in (slice(0, 30), slice(34, 64)):
        for columns in (slice(0, 46), slice(50, 96)):
            assert len(np.unique(result.label_map[rows, columns])) == 1
            probabilities = result.probabilities[rows, columns]
            assert np.ptp(probabilities) < 1e-5
            seen.add(round(float(probabilities[0, 0]), 5))
    assert len(seen) == 4


def test_segments_do_not_depend_on_the_rest_of_the_batch(reading_masks: Segmenter) -> None:
    """Images segmented together have the label maps of images segmented alone."""
    images = [np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8), _quarters()]
    images.append(images[0][::-1].copy())
    names = ["cat", "dog", "sky"]
    for image, result in zip(images, reading_masks.segment_batch(images, names), strict=True):
        alone = reading_masks.segment(image, names)
        assert (result.label_map == alone.label_map).mean() > 0.99


def test_more_segments_than_the_network_takes_are_refused() -> None:
    """They would belong to no segment, and go without a class."""
    model = build_model(_B2.model)
    give_segments(model, _MASKS)
    with pytest.raises(ConfigError, match="up to 5 segments, but the network takes 4"):
        give_segments(model, _MASKS.model_copy(update={"masks": 5}))


def test_a_network_of_its_own_masks_is_given_none(
    store: ArtifactStore, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """For S-Seg the generator is not even built: its weights may be out of reach."""
    values = make_checkpoint(store).manifest.config
    config = build_config(TrainConfig, values).masks.generator
    absent = config.model_copy(update={"features": "dino_vits8", "weights": "/gone.pth"})
    model = build_model(build_config(TrainConfig, values).model)
    give_segments(model, absent)
    assert not hasattr(model, "segmenter")
