"""What is known of a source: how it is called, what it holds, where it lies, who may use it."""

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
        sha1: likewise.
    """

    url: str
    mirrors: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    sha1: str | None = None

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
        file: archive (tar, tar.gz, zip), or a file of another kind, which is stored as it is.
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
        evaluates: what `sseg eval --benchmark` calls it, with the images of its split val; none
            if it is only for training.
        folder: below `sseg-data/`; benchmarks with the same photos share one.
        needs: what the user has to bring, for the plan; empty if nothing.
    """

    name: str
    contents: str
    licence: str
    terms: str
    parts: tuple[Part, ...]
    evaluates: tuple[tuple[str, int], ...]
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
        files: names there, of each tuple the first that exists: weights, and what they come with.
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
