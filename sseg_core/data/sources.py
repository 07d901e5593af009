"""Where everything comes from: the only place that knows the addresses of others.

Sizes are bytes and digests those that the publisher or a well-known data set library states; None
where nobody does. `sseg download --list` shows this table.
"""

from __future__ import annotations

from sseg_core.data.source_kinds import (
    BenchmarkSource,
    PairSource,
    Part,
    RemoteFile,
    WeightSource,
)

__all__ = [
    "BENCHMARKS",
    "PAIRS",
    "WEIGHTS",
    "BenchmarkSource",
    "PairSource",
    "Part",
    "RemoteFile",
    "WeightSource",
]

_GOOGLE = "free for any use (Google's terms); images keep their owners' rights"

PAIRS = (
    # Copies of 2021, before a third of the URLs had gone (google-research-datasets/
    # conceptual-12m, issue 9). Shards and counts as open_clip trains on them.
    PairSource(
        "cc3m", "Conceptual Captions 3M, copy of 2021", 2_905_954, None, _GOOGLE,
        "https://github.com/google-research-datasets/conceptual-captions",
        repository="pixparse/cc3m-wds", shards="cc3m-train-*.tar",
    ),
    PairSource(
        "cc12m", "Conceptual 12M, copy of 2021", 10_968_539, None, _GOOGLE,
        "https://github.com/google-research-datasets/conceptual-12m",
        repository="pixparse/cc12m-wds", shards="cc12m-train-*.tar",
    ),
    # The address as redcaps-dataset/redcaps-downloader gives it; images come from Reddit's hosts.
    PairSource(
        "redcaps", "RedCaps v1.0 of Reddit; the first 11M (the paper)", 12_011_121, None,
        "CC BY 4.0 (captions), non-commercial research; images: Reddit's user agreement",
        "https://redcaps.xyz",
        annotations=RemoteFile(
            "https://www.dropbox.com/s/cqtdpsl4hewlli1/redcaps_v1.0_annotations.zip?dl=1"
        ),
        limit=11_000_000,
    ),
)  # fmt: skip

_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC_MIRROR = "https://thor.robots.ox.ac.uk/pascal/VOC"
_COCO = "http://images.cocodataset.org"
_LVIS = "dl.fbaipublicfiles.com/LVIS"
_S3 = "https://s3-us-west-2.amazonaws.com"
_IMAGENET_S = "https://github.com/LUSSeg/ImageNet-S/releases/download/ImageNet-S"
_FLICKR = "research; photos under Flickr's terms"
_COCO_LICENCE = "annotations CC BY 4.0; photos under Flickr's terms"
_COCO_TERMS = "https://cocodataset.org/#termsofuse"

# Sizes and SHA-256: tensorflow/datasets, url_checksums/coco.txt.
_VAL2017 = Part(
    RemoteFile(
        f"{_COCO}/zips/val2017.zip", bytes=815_585_330,
        sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    ".", ("val2017",), unpacked=820_000_000,
)  # fmt: skip
_TRAIN2017 = Part(
    RemoteFile(
        f"{_COCO}/zips/train2017.zip", bytes=19_336_861_798,
        sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    ".", ("train2017",), unpacked=19_400_000_000,
)  # fmt: skip
_INSTANCES = Part(
    RemoteFile(
        f"{_COCO}/annotations/annotations_trainval2017.zip", bytes=252_907_541,
        sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    ".", ("annotations/instances_val2017.json", "annotations/instances_train2017.json"),
    members=("annotations/instances_*2017.json",), unpacked=490_000_000,
)  # fmt: skip


def _imagenet_s(classes: int, md5: str) -> Part:
    """Return the annotations of a set; their names end in their MD5 (datapreparation_anno.sh)."""
    folder = f"ImageNetS{classes}"
    file = RemoteFile(f"{_IMAGENET_S}/{folder}-{md5}.zip", md5=md5)
    return Part(file, ".", (f"{folder}/validation-segmentation",))


BENCHMARKS = (
    BenchmarkSource(
        "voc2012", "Pascal VOC 2012, 20 classes", _FLICKR, f"{_VOC}/voc2012/",
        (
            # SHA-256: tensorflow/datasets and others; mirrors: its authors, and pjreddie.
            Part(
                RemoteFile(
                    f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
                    (
                        f"{_VOC_MIRROR}/voc2012/VOCtrainval_11-May-2012.tar",
                        "http://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
                    ),
                    bytes=1_999_639_040,
                    sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                ),
                ".", ("VOCdevkit/VOC2012",), unpacked=2_050_000_000,
            ),
        ),
        (("voc2012", 1449),), "voc2012",
    ),
    BenchmarkSource(
        "context", "Pascal Context, 59 classes (Pascal in Detail)", _FLICKR, f"{_VOC}/voc2010/",
        (
            # MD5 of both: zhanghang1989/PyTorch-Encoding, scripts/prepare_pcontext.py.
            Part(
                RemoteFile(
                    f"{_VOC}/voc2010/VOCtrainval_03-May-2010.tar",
                    (f"{_VOC_MIRROR}/voc2010/VOCtrainval_03-May-2010.tar",),
                    md5="da459979d0c395079b5c75ee67908abb",
                ),
                ".", ("VOCdevkit/VOC2010/JPEGImages",), unpacked=1_400_000_000,
            ),
            Part(
                RemoteFile(
                    "https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
                    md5="3c2d0c0656b7be9eb61928ffe885d8ce",
                ),
                "VOCdevkit/VOC2010", ("VOCdevkit/VOC2010/trainval_merged.json",),
            ),
        ),
        (("context", 5105),), "context",
    ),
    BenchmarkSource(
        "coco", "COCO 2017, 80 classes, as COCO-Object", _COCO_LICENCE, _COCO_TERMS,
        (_INSTANCES, _VAL2017), (("coco-object", 5000),), "coco",
    ),
    BenchmarkSource(
        "coco-train", "the training photos of COCO 2017, for sseg selftrain", _COCO_LICENCE,
        _COCO_TERMS, (_TRAIN2017,), (), "coco",
    ),
    BenchmarkSource(
        "coco-stuff", "COCO-Stuff 164k, 171 classes", _COCO_LICENCE,
        "https://github.com/nightrome/cocostuff#licensing",
        (
            _VAL2017,
            Part(
                RemoteFile(
                    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
                    "stuffthingmaps_trainval2017.zip",
                ),
                "stuffthingmaps_trainval2017",
                ("stuffthingmaps_trainval2017/val2017", "stuffthingmaps_trainval2017/train2017"),
                unpacked=700_000_000,
            ),
        ),
        (("coco-stuff", 5000),), "coco",
    ),
    BenchmarkSource(
        "lvis", "LVIS v1 (1203 classes) and v0.5 (1230)", _COCO_LICENCE,
        "https://www.lvisdataset.org/dataset",
        (
            Part(
                RemoteFile(
                    f"https://{_LVIS}/lvis_v1_val.json.zip",
                    (f"{_S3}/{_LVIS}/lvis_v1_val.json.zip",),
                ),
                "annotations", ("annotations/lvis_v1_val.json",), unpacked=900_000_000,
            ),
            Part(
                RemoteFile(
                    f"https://{_LVIS}/lvis_v0.5_val.json.zip",
                    (f"{_S3}/{_LVIS}/lvis_v0.5_val.json.zip",),
                ),
                "annotations", ("annotations/lvis_v0.5_val.json",),
            ),
            _VAL2017,
            _TRAIN2017,
        ),
        (("lvis-v1", 19_809), ("lvis-v0.5", 5000)), "coco",
    ),
    BenchmarkSource(
        "ade20k", "ADE20K (SceneParse150), 150 classes", "BSD 3-clause (annotations); research",
        "https://ade20k.csail.mit.edu/terms/",
        (
            # SHA-1: dmlc/gluon-cv, scripts/datasets/ade20k.py.
            Part(
                RemoteFile(
                    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                    sha1="219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
                ),
                ".",
                ("ADEChallengeData2016/annotations/validation",), unpacked=1_000_000_000,
            ),
        ),
        (("ade20k", 2000),), "ade20k",
    ),
    BenchmarkSource(
        "imagenet-s", "ImageNet-S of 50, 300 and 919 classes", "research; images: ImageNet's terms",
        "https://github.com/LUSSeg/ImageNet-S",
        (
            _imagenet_s(50, "a0fe9d82231f9bc4787ee76e304dfa51"),
            _imagenet_s(300, "dd8e42e156bac415a35c3c239de297bf"),
            _imagenet_s(919, "5f7f58ae1003d21da9409a8576bf7680"),
        ),
        (("imagenet-s-50", 752), ("imagenet-s-300", 4097), ("imagenet-s-919", 12_419)),
        "imagenet-s",
        needs="the validation images of ImageNet (ILSVRC2012)",
    ),
)  # fmt: skip

_TIMM = (("model.safetensors", "pytorch_model.bin"),)
_OPEN_CLIP = (("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),)
_TRANSFORMERS = (*_TIMM, ("config.json",))

# Repositories: the configurations of timm and open_clip; sizes: 4 bytes a parameter.
WEIGHTS = (
    WeightSource(
        "dino_vits8", "DINO ViT-S/8, features of the pseudo-masks", "Apache-2.0",
        "https://github.com/facebookresearch/dino", "timm/vit_small_patch8_224.dino",
        _TIMM, 86_700_000, "vit_small_patch8_224.dino",
    ),
    WeightSource(
        "mae_vitb16", "MAE ViT-B/16, backbone of S-Seg+", "CC BY-NC 4.0: not for commercial use",
        "https://github.com/facebookresearch/mae", "timm/vit_base_patch16_224.mae",
        _TIMM, 343_000_000, "vit_base_patch16_224.mae",
    ),
    WeightSource(
        "imagenet_vits16", "DeiT-S/16 of ImageNet, with labels", "Apache-2.0",
        "https://github.com/facebookresearch/deit", "timm/deit_small_patch16_224.fb_in1k",
        _TIMM, 88_200_000, "deit_small_patch16_224.fb_in1k",
    ),
    WeightSource(
        "imagenet_vitb16", "DeiT-B/16 of ImageNet, with labels", "Apache-2.0",
        "https://github.com/facebookresearch/deit", "timm/deit_base_patch16_224.fb_in1k",
        _TIMM, 346_000_000, "deit_base_patch16_224.fb_in1k",
    ),
    WeightSource(
        "imagenet_vitb8", "ViT-B/8 of ImageNet-21k and -1k, with labels", "Apache-2.0",
        "https://github.com/google-research/vision_transformer",
        "timm/vit_base_patch8_224.augreg_in21k_ft_in1k",
        _TIMM, 346_000_000, "vit_base_patch8_224.augreg_in21k_ft_in1k",
    ),
    WeightSource(
        "clip_vitb16", "OpenAI's CLIP ViT-B/16, for the rivals", "MIT",
        "https://github.com/openai/CLIP", "timm/vit_base_patch16_clip_224.openai",
        _OPEN_CLIP, 598_000_000, "ViT-B-16:openai",
    ),
    WeightSource(
        "clip_vitl14", "OpenAI's CLIP ViT-L/14, for the rivals", "MIT",
        "https://github.com/openai/CLIP", "timm/vit_large_patch14_clip_224.openai",
        _OPEN_CLIP, 1_710_000_000, "ViT-L-14:openai",
    ),
    WeightSource(
        "groupvit", "GroupViT of CC12M and YFCC, rival and features", "NVIDIA: non-commercial",
        "https://github.com/NVlabs/GroupViT", "nvidia/groupvit-gcc-yfcc",
        _TRANSFORMERS, 223_000_000,
    ),
    WeightSource(
        "groupvit_redcaps", "GroupViT of CC12M and RedCaps, features", "NVIDIA: non-commercial",
        "https://github.com/NVlabs/GroupViT", "nvidia/groupvit-gcc-redcaps",
        _TRANSFORMERS, 223_000_000,
    ),
)  # fmt: skip
