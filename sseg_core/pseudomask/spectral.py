"""Spectral clustering of many images at once: the normalised cut of each image's tokens.

The tokens of an image are the nodes of a graph whose edges weigh how alike two tokens are. The
segments are the parts into which this graph falls most readily (Shi and Malik, "Normalized Cuts
and Image Segmentation", PAMI 2000), found with the eigenvectors of its normalised affinity (Ng,
Jordan and Weiss, "On Spectral Clustering", NIPS 2001). Shapes: B images, N tokens in an image, F
features of a token, K clusters, M >= K vectors of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.errors import ConfigError
from sseg_core.pseudomask.kmeans import kmeans

MAX_TOKENS = 10_000
"""Of one image: its affinities take 400 MB then."""

# All of these are our choice, not in the paper.
_PIECE_BYTES = 2**30  # of affinities at once on a GPU
_SPARE_VECTORS = 2  # beyond K; the last ones of a block are the slowest to settle
_STEPS = 5  # products with the affinity a round
_MAX_ROUNDS = 20
_TOLERANCE = 1e-4  # length of the residual M v - lambda v of an eigenvector of length 1
_TINY = 1e-7  # noise added to vectors of length 1, above their rounding errors
_TWINS = 1e-3  # smaller differences between rows of eigenvectors mean nothing in fp32


@torch.no_grad()
def spectral(tokens_BNF: Tensor, k: int, seeds: Sequence[int], iterations: int) -> Tensor:
    """Cut the token graph of each image into `k` parts (the first row of S-Seg Table 1).

    Where an image has fewer than `k` distinct tokens, some labels stay unused.

    Args:
        tokens_BNF: [B, N, F] float.
        k: number of clusters, at most 255.
        seeds: one seed per image, for the k-means of the eigenvectors' rows.
        iterations: largest number of iterations of that k-means.

    Returns:
        [B, N] uint8 cluster of each token, on the device of the tokens.

    Raises:
        ConfigError: an image has more than `MAX_TOKENS` tokens.
    """
    N = tokens_BNF.shape[1]
    if N > MAX_TOKENS:
        raise ConfigError(
            f"Spectral clustering compares all pairs of an image's {N} tokens, and stops at "
            f"{MAX_TOKENS} tokens.",
            "Use --set grid=28, or with a ViT a smaller image_size.",
        )
    # On a CPU image by image: the affinities stay in the cache, and its products, which several
    # threads share out by the number of images, are rounded alike in any batch.
    on_cpu = tokens_BNF.device.type == "cpu"
    size = 1 if on_cpu else max(1, _PIECE_BYTES // (4 * N * N))
    pieces = torch.split(tokens_BNF, size)
    rows_BNK = torch.cat([embed(affinity(piece), k) for piece in pieces])
    result = kmeans(rows_BNK, k, seeds, iterations)
    return _without_twins(result.labels, result.centres)


def affinity(tokens_BNF: Tensor) -> Tensor:
    """Return [B, N, N] fp32 likeness of tokens in [0, 1], the same for tokens at any scale.

    w_ij = exp(-2 |x_i - x_j|^2 / s), where s is the mean of |x_i - x_j|^2 over all pairs of the
    image: the Gaussian kernel whose width follows the data as with scikit-learn's gamma="scale".
    """
    tokens = tokens_BNF.float()
    centred = tokens - tokens.mean(1, keepdim=True)
    # The mean over pairs is twice the variance. Rounding errors around one colour are no variance.
    variance_B = centred.square().sum(2).mean(1)
    floor_B = 1e-9 * tokens.square().sum(2).mean(1) + torch.finfo(torch.float32).tiny
    scaled = centred * torch.maximum(variance_B, floor_B).rsqrt()[:, None, None]
    squares_BN = scaled.square().sum(2)
    exponent_BNN = torch.baddbmm(squares_BN[:, None], scaled, scaled.mT, beta=-1, alpha=2)
    return exponent_BNN.sub_(squares_BN[:, :, None]).exp_()


def embed(affinity_BNN: Tensor, k: int) -> Tensor:
    """Return [B, N, min(K, N)] a place on the unit sphere per token; like tokens lie close.

    These are the rows of the top eigenvectors of D^-1/2 W D^-1/2, W being the affinity and D its
    row sums. The affinity is overwritten.
    """
    root_BN = affinity_BNN.sum(2).rsqrt()
    normalised = affinity_BNN.mul_(root_BN[:, :, None]).mul_(root_BN[:, None])
    values_BK, vectors_BKN = top_eigenvectors(normalised, min(k, root_BN.shape[1]))
    # An affinity of low rank (few distinct tokens) has no more eigenvectors than that.
    vectors_BKN = vectors_BKN * (values_BK > _TOLERANCE)[:, :, None]
    return F.normalize(vectors_BKN.mT, dim=2)


def top_eigenvectors(matrices_BNN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest eigenvalues [B, K], ascending, and their eigenvectors [B, K, N].

    A block Krylov method (the block Lanczos method of Golub and Underwood, 1977, with full
    orthogonalisation), started anew from its best vectors until they are eigenvectors to 1e-4, or
    20 rounds are over (photos take one or two); images that are done are left alone. Small
    problems are solved directly.

    Args:
        matrices_BNN: symmetric fp32, eigenvalues in [-1, 1].
        k: number of eigenvectors, at most N.
    """
    B, N, _ = matrices_BNN.shape
    block = k + _SPARE_VECTORS
    if 2 * _STEPS * block > N:
        values, vectors_BNN = torch.linalg.eigh(matrices_BNN)
        return values[:, -k:], vectors_BNN[:, :, -k:].mT
    # The same for every image, drawn where every device draws the same.
    noise_SMN = torch.randn(_STEPS, block, N, generator=torch.Generator().manual_seed(0))
    noise_SMN = noise_SMN.to(matrices_BNN.device)
    values, vectors, residuals = _krylov(matrices_BNN, noise_SMN[0].expand(B, -1, -1), noise_SMN)
    for _ in range(_MAX_ROUNDS - 1):
        (slow,) = (residuals[:, -k:].amax(1) > _TOLERANCE).nonzero(as_tuple=True)
        if not len(slow):
            break
        values[slow], vectors[slow], residuals[slow] = _krylov(
            matrices_BNN[slow], vectors[slow], noise_SMN
        )
    return values[:, -k:], vectors[:, -k:]


def _krylov(
    matrices_BNN: Tensor, start_BMN: Tensor, noise_SMN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the top M Ritz values, their vectors [B, M, N] and the lengths of their residuals.

    They are the best approximations in the space of start, start * matrix, start * matrix^2, ...
    Vectors are rows: a product of few rows with a matrix is twice as fast as with few columns.
    """
    block = start_BMN.shape[1]
    basis = _orthonormal(start_BMN)
    products = basis @ matrices_BNN
    for noise_MN in noise_SMN[1:]:
        # Where the matrix has nothing new to offer, its rank being low, the noise steps in.
        fresh = products[:, -block:] + _TINY * noise_MN
        for _ in range(2):  # once leaves rounding errors in, twice is enough
            fresh = _orthonormal(fresh - (fresh @ basis.mT) @ basis)
        basis = torch.cat([basis, fresh], dim=1)
        products = torch.cat([products, fresh @ matrices_BNN], dim=1)
    values, mixture = torch.linalg.eigh(products @ basis.mT)
    values, mixture = values[:, -block:], mixture[:, :, -block:].mT
    vectors = mixture @ basis
    residuals = (mixture @ products - values[:, :, None] * vectors).norm(dim=2)
    return values, vectors, residuals


def _orthonormal(rows_BMN: Tensor) -> Tensor:
    columns: Tensor = torch.linalg.qr(rows_BMN.mT).Q
    return columns.mT


def _without_twins(labels_BN: Tensor, centres_BKF: Tensor) -> Tensor:
    """Give clusters that only rounding errors tell apart the label of the first of them."""
    k = centres_BKF.shape[1]
    near_BKK = torch.cdist(centres_BKF, centres_BKF) < _TWINS
    own_K = torch.arange(k, device=labels_BN.device)
    first_BK = torch.where(near_BKK, own_K, k).amin(2)
    return first_BK.gather(1, labels_BN.long()).to(torch.uint8)
