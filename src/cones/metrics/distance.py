"""How far two sets of pictures are apart, and how far the pictures of one set are from each other.

Both work on vectors of any encoder; figures of different encoders must not be compared.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def _kernel(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def kernel_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Estimate the squared maximum mean discrepancy without bias (KID).

    Source: Binkowski et al., "Demystifying MMD GANs" (2018), Eq. 4 and the kernel of Sec. 4. An
    estimate for two samples of one distribution scatters about 0 and may be negative.

    Args:
        a: Vectors of one set, at least two.
        b: Vectors of the other, at least two.
    """
    inside = [
        (k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (_kernel(a, a), _kernel(b, b))
    ]
    return float(sum(inside) - 2 * _kernel(a, b).mean())


def diversity(vectors: Float[Tensor, "n d"]) -> float:
    """Average the cosine distance over all pairs of different pictures, in [0, 2]."""
    ready = F.normalize(vectors.double(), dim=1)
    count = len(ready)
    cosines = ready @ ready.T
    return float(1 - (cosines.sum() - cosines.trace()) / (count * (count - 1)))


def standardised(
    vectors: Float[Tensor, "n d"], reference: Float[Tensor, "m d"]
) -> Float[Tensor, "n d"]:
    """Scale every feature to mean 0 and spread 1 over a reference, so that all count alike."""
    return (vectors - reference.mean(0)) / (reference.std(0) + torch.finfo(torch.float32).eps)
