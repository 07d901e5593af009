"""Where everything comes from: the only place that knows the addresses of others.

Sizes are bytes and digests those that the publisher or a well-known data set library states; None
where nobody does. `sseg download --list` shows this table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A file of a publisher.

    Attributes:
        url: the official address.
        mirrors: other addresses of the same bytes, the better first.
        bytes: its size; None if unknown.
        sha256: in hexadecimal; None if nobody publishes it.
        md5: likewise, where that is what is published.
    """

    url: str
    mirrors: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        """The file name, as the address ends."""
        return self.url.partition("?")[0].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PairSource:
    """Captioned images.

    Attributes:
        name: of the source, for `sseg download`.
        contents: what it is, in a few words.
        images: about how many.
        bytes: about how many; None if that depends on what is still on the web.
        licence: in a few words.
        terms: address of the page with the terms.
        repository: of a webdataset copy on the hub; None where `annotations` lists URLs.
        shards: the pattern of its shards there.
        annotations: the archive of annotation files.
        limit: how many images the paper takes, from the beginning; None for all.
    """

    name: str
    contents: str
    images: int
    bytes: int | None
    licence: str
    terms: str
    repository: str | None = None
    shards: str = "*.tar"
    annotations: RemoteFile | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Part:
    """A file of a benchmark, and what becomes of it.

    Attributes:
        file: archive (tar, tar.gz, zip), or a single file of another kind, which is stored as it is.
        into: folder below the root that it is unpacked or stored in.
        makes: paths below the root that are there, complete, when it was unpacked.
        members: patterns of the members to unpack; none means all.
        unpacked: bytes of these, for the plan; None if unknown.
    """

    file: RemoteFile
    into: str
    makes: tuple[str, ...]
    members: tuple[str, ...] = ()
    unpacked: int | None = None


@dataclass(frozen=True)
class BenchmarkSource:
    """A benchmark of `sseg eval`.

    Attributes:
        name: of the source, for `sseg download`.
        contents: what it is, in a few words.
        licence: in a few words.
        terms: address of the page with the terms.
        parts: what is fetched.
        evaluates: what `sseg eval --benchmark` calls it; several if it has several class lists.
        images: of the split val, by the name in `evaluates`.
        folder: below `sseg-data/`; benchmarks with the same photos share one.
        needs: what the user has to bring, for the plan; empty if nothing.
    """

    name: str
    contents: str
    licence: str
    terms: str
    parts: tuple[Part, ...]
    evaluates: tuple[str, ...]
    images: tuple[int, ...]
    folder: str
    needs: str = ""


@dataclass(frozen=True)
class WeightSource:
    """Weights of a public model.

    Attributes:
        name: of the source, for `sseg download`.
        contents: what it is, in a few words.
        licence: in a few words.
        terms: address of the page with the terms.
        repository: on the hub.
        files: names there, of each tuple the first that exists: weights, and what stands beside them.
        bytes: of all, about; None if unknown.
        model: the timm model, or `ARCHITECTURE:TAG` of open_clip, or empty.
        sha256: of the weight file; None if nobody publishes it.
    """

    name: str
    contents: str
    licence: str
    terms: str
    repository: str
    files: tuple[tuple[str, ...], ...]
    bytes: int | None
    model: str = ""
    sha256: str | None = None


PAIRS: tuple[PairSource, ...] = ()

BENCHMARKS: tuple[BenchmarkSource, ...] = ()

WEIGHTS: tuple[WeightSource, ...] = ()

_COCO_TERMS = "https://cocodataset.org/#termsofuse"
_COCO = "http://images.cocodataset.org"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"

PAIRS = (
    PairSource(
        "cc3m", "Conceptual Captions 3M, webdataset copy of 2021", 2_900_000, None,
        "Google's terms: free to use; images keep their owners' rights",
        "https://github.com/google-research-datasets/conceptual-captions",
        repository="pixparse/cc3m-wds", shards="cc3m-train-*.tar",
    ),
    PairSource(
        "cc12m", "Conceptual 12M, webdataset copy of 2021", 10_970_000, None,
        "Google's terms: free to use; images keep their owners' rights",
        "https://github.com/google-research-datasets/conceptual-12m",
        repository="pixparse/cc12m-wds", shards="cc12m-train-*.tar",
    ),
    PairSource(
        "redcaps", "RedCaps v1.0, captions of Reddit with the URLs of their images", 12_011_121, None,
        "CC BY 4.0 (annotations); images under Reddit's user agreement", "https://redcaps.xyz",
        annotations=RemoteFile("https://www.dropbox.com/s/cqtdpsl4hewlli1/redcaps_v1.0_annotations.zip?dl=1"),
        limit=11_000_000,
    ),
)  # fmt: skip

BENCHMARKS = (
    BenchmarkSource(
        "voc2012", "Pascal VOC 2012: 20 classes and background", "Flickr terms of use; research",
        f"{_VOC}/voc2012/", (
            Part(
                RemoteFile(
                    f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", bytes=1_999_639_040,
                    md5="6cd6e144f989b92b3379bac3b3de84fd",
                ),
                ".", ("VOCdevkit/VOC2012",),
            ),
        ), ("voc2012",), (1449,), "voc2012",
    ),
)  # fmt: skip
