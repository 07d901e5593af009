"""Which sample comes when: in chunks that are known beforehand, by weight, around what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseg_core.data import order, urls
from sseg_core.data.order import SampleOrder, ShardSet, shard_length
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.errors import DataError


def write_pairs(path: Path, name: str, count: int) -> str:
    items = [Sample(f"{name}{i}", bytes(700 + 400 * (i % 5)), ("a cat",)) for i in range(count)]
    write_tar(path, [member for item in items for member in pack_sample(item, "jpg")])
    return str(path)


def write_masks(path: Path, keys: Sequence[str]) -> str:
    write_tar(path, [(f"{key}.mask.png", b"m") for key in keys], compress=True)
    return str(path)


def pair_set(folder: Path, name: str, counts: Sequence[int], weight: float = 1) -> ShardSet:
    """A set of pairs shards without masks, of `counts` samples each."""
    shards = tuple(
        (write_pairs(folder / f"{name}{i}.tar", f"{name}{i}_", count), None)
        for i, count in enumerate(counts)
    )
    return ShardSet(shards, weight, name)


def order_of(*sets: ShardSet, chunk: int = 24, buffer: int = 5) -> SampleOrder:
    return SampleOrder(sets, tuple(map(shard_length, sets)), 0, chunk, buffer)


def keys(of: SampleOrder, chunks: Sequence[int], skipped: Counter[str] | None = None) -> list[str]:
    counts = Counter() if skipped is None else skipped
    return [sample.key for chunk in chunks for sample, _ in of.chunk(chunk, counts)]


def only_weights(weights: Sequence[float], chunk: int) -> SampleOrder:
    sets = tuple(ShardSet((("none.tar", None),), weight, "") for weight in weights)
    return SampleOrder(sets, (1,) * len(sets), 0, chunk, 1)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8),
    st.integers(64, 20_000),
    st.integers(0, 10**6),
)
def test_every_chunk_is_full_and_the_shares_are_exact(
    weights: list[float], chunk: int, number: int
) -> None:
    """Up to any chunk a set has had its weighted share of the samples, off by less than one each.

    The largest set takes what rounding leaves. Parts follow each other without gap.
    """
    mix = only_weights(weights, chunk)
    shares, following = mix.shares(number), mix.shares(number + 1)
    assert sum(count for _, count in shares) == chunk
    assert all(count >= 0 for _, count in shares)
    assert [start + count for start, count in shares] == [start for start, _ in following]
    total = sum(map(Fraction, weights))
    for (start, _), weight in zip(shares, weights, strict=True):
        assert abs(start - chunk * number * Fraction(weight) / total) < len(weights)


def test_chunks_mix_the_sets_by_weight(tmp_path: Path) -> None:
    """Weights of 3 to 1: three quarters of each chunk, spread over all of it."""
    mix = order_of(pair_set(tmp_path, "a", [10, 10], 3), pair_set(tmp_path, "b", [4], 1), chunk=40)
    for chunk in range(3):
        names = "".join(key[0] for key in keys(mix, [chunk]))
        assert Counter(names) == {"a": 30, "b": 10}
        assert "a" in names[-10:]
        assert "b" in names[:20]
    counts = Counter(keys(mix, range(4)))
    assert {count for key, count in counts.items() if key[0] == "a"} == {6}
    assert {count for key, count in counts.items() if key[0] == "b"} == {10}


def test_chunks_within_a_pass_are_disjoint(tmp_path: Path) -> None:
    """With shards of one length, as many chunks as fit into a pass share no sample."""
    disjoint = order_of(pair_set(tmp_path, "a", [12] * 6), chunk=24)
    for a_pass in range(3):
        chunks = [set(keys(disjoint, [3 * a_pass + i])) for i in range(3)]
        assert [len(chunk) for chunk in chunks] == [24, 24, 24]
        assert len(set.union(*chunks)) == 72


def test_unequal_shards_come_about_equally_often(tmp_path: Path) -> None:
    """Where lengths differ from that of the first shard, no sample is left out or favoured."""
    unequal = order_of(pair_set(tmp_path, "a", [10, 7, 13, 9, 11]), chunk=20)
    counts = Counter(keys(unequal, range(200)))
    assert len(counts) == 50
    assert 40 < min(counts.values()) <= max(counts.values()) < 120


def test_a_shard_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    """A missing pairs shard, missing masks: each counts as one shard, the next takes its place."""
    names = [f"s{number}_{i}" for number in range(4) for i in range(6)]
    shards = [
        (
            write_pairs(tmp_path / f"p{number}.tar", f"s{number}_", 6),
            write_masks(tmp_path / f"m{number}.tar", names[6 * number : 6 * number + 6]),
        )
        for number in range(4)
    ]
    Path(shards[0][0]).unlink()
    Path(shards[2][1]).unlink()
    lossy = order_of(ShardSet(tuple(shards), 1, "things:v1"))
    skipped: Counter[str] = Counter()
    found = keys(lossy, range(4), skipped)
    assert len(found) == 96
    assert set(found) == set(names[6:12] + names[18:24])
    assert set(skipped) == {order.UNREADABLE_SHARD}
    assert found == keys(lossy, range(4))


def test_a_shard_that_fails_while_it_is_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before its disk failed counts, the rest is passed over."""

    class Failing(urls._LocalFile):
        def readinto(self, buffer: memoryview) -> int:
            if "a0" in str(self.name) and self.tell() > 30_000:
                raise urls.ShardError(str(self.name), "input/output error")
            return super().readinto(buffer[:4096])

    lossy = order_of(pair_set(tmp_path, "a", [20, 20]), chunk=60)
    monkeypatch.setattr(urls, "_LocalFile", Failing)
    monkeypatch.setattr(urls, "_BUFFER_BYTES", 4096)
    skipped: Counter[str] = Counter()
    found = Counter(keys(lossy, [0], skipped))
    assert skipped[order.UNREADABLE_SHARD] >= 1
    assert {f"a1_{i}" for i in range(20)} <= set(found)
    assert 0 < sum(key.startswith("a0_") for key in found) < 20


def test_nothing_readable_is_one_sentence(tmp_path: Path) -> None:
    """The set, its first shard that failed and why."""
    missing = tuple((str(tmp_path / f"{i}.tar"), None) for i in range(3))
    good = pair_set(tmp_path, "good", [5])
    lost = order_of(good, ShardSet(missing, 1, "lost:v2"))
    with pytest.raises(DataError, match=r"^None of the 3 shards of lost:v2 .*\d\.tar.*no such f"):
        keys(lost, [0])
    empty = order_of(ShardSet(((write_pairs(tmp_path / "e.tar", "e", 0), None),), 1, "empty"))
    with pytest.raises(DataError, match="None of the 1 shards of empty holds a sample"):
        keys(empty, [0])


def test_masks_of_other_images_end_the_stream(tmp_path: Path) -> None:
    """No shard that could not be read, but two that do not belong together: that is told."""
    pairs = write_pairs(tmp_path / "p.tar", "s", 3)
    masks = write_masks(tmp_path / "m.tar", ["s0", "other"])
    wrong = order_of(ShardSet(((pairs, masks),), 1, "things"))
    with pytest.raises(DataError, match="are not those of"):
        keys(wrong, [0])


@pytest.fixture
def _few_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_MEASURED_SAMPLES", 40)


@pytest.mark.usefixtures("_few_are_measured")
def test_the_length_of_a_shard(tmp_path: Path) -> None:
    """Counted by the masks, or in a short shard; of a long one, told by its bytes."""
    pairs = write_pairs(tmp_path / "p.tar", "s", 500)
    masks = write_masks(tmp_path / "m.tar", ["s0", "s3"])
    assert shard_length(ShardSet(((pairs, masks),), 1, "")) == 2
    assert shard_length(pair_set(tmp_path, "a", [17, 3])) == 17
    assert shard_length(pair_set(tmp_path, "b", [0, 3])) == 3
    assert shard_length(ShardSet((("none.tar", None), (pairs, None)), 1, "")) == pytest.approx(
        500, rel=0.05
    )
    assert shard_length(ShardSet((("none.tar", None),), 1, "")) == 1
