"""Crossed features of prompt and response, stored as their small factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator


class CrossedFeatures(LinearOperator):
    """The (N, d) matrix with rows [psi(y), cross_1 psi(y), ..., cross_c psi(y), dense], factored.

    It is the matrix ``[gather @ (I kron psi), dense]``. Products use the factors: psi, whose rows
    are the distinct responses, and the sparse ``gather``, which selects the response of each of the
    N rows. Transposes and products with matrices work as for any LinearOperator.

    Parameters
    ----------
    psi
        (n, m) sparse features of the distinct responses.
    response
        (N,) row of psi of each row.
    cross
        (N, c) multipliers of psi, besides the constant 1.
    dense
        (N, e) further features, so that d = (1 + c) m + e.
    """

    def __init__(
        self,
        psi: Any,
        response: Int[np.ndarray, " N"],
        cross: Float[np.ndarray, "N c"],
        dense: Float[np.ndarray, "N e"],
    ) -> None:
        self.psi = sp.csr_array(psi, dtype=float)
        self.response, self.cross, self.dense = response, cross, dense
        # With two or more vectors scipy multiplies by columns twice as fast as by rows, so the
        # product uses a copy in CSC, and its adjoint the transpose of CSR, which is CSC too.
        self._psi_by_column = self.psi.tocsc()
        self._gather = self._gathering_matrix()
        self._crossed = self.psi.shape[1] * (1 + cross.shape[1])
        shape = (len(response), self._crossed + dense.shape[1])
        super().__init__(np.dtype(float), shape)

    def _gathering_matrix(self) -> sp.csr_array:
        """(N, n (1 + c)): row i holds 1, cross[i] in the columns of its response."""
        size, blocks = len(self.response), 1 + self.cross.shape[1]
        weights = np.column_stack([np.ones(size), self.cross])
        columns = self.response[:, None] * blocks + np.arange(blocks)
        starts = np.arange(size + 1) * blocks
        shape = (size, self.psi.shape[0] * blocks)
        return sp.csr_array((weights.ravel(), columns.ravel(), starts), shape=shape)

    def _matvec(self, theta: Any) -> Any:
        return self._matmat(theta.reshape(-1, 1))[:, 0]

    def _rmatvec(self, u: Any) -> Any:
        return self._rmatmat(u.reshape(-1, 1))[:, 0]

    def _matmat(self, theta: Any) -> Any:
        m, k = self.psi.shape[1], theta.shape[1]
        blocks = theta[: self._crossed].reshape(-1, m, k).swapaxes(0, 1)
        scores = self._psi_by_column @ blocks.reshape(m, -1)
        return self._gather @ scores.reshape(-1, k) + self.dense @ theta[self._crossed :]

    def _rmatmat(self, u: Any) -> Any:
        (n, m), k = self.psi.shape, u.shape[1]
        gathered = (self._gather.T @ u).reshape(n, -1)
        blocks = (self.psi.T @ gathered).reshape(m, -1, k).swapaxes(0, 1)
        return np.concatenate([blocks.reshape(-1, k), self.dense.T @ u])

    def squared_norms(self) -> Float[np.ndarray, " N"]:
        """Squared norm of each row, computed from the factors."""
        own = np.asarray(self.psi.power(2).sum(axis=1)).ravel()[self.response]
        dense = np.einsum("ne,ne->n", self.dense, self.dense)
        return np.asarray(own * (1 + np.einsum("nc,nc->n", self.cross, self.cross)) + dense)

    def rows(self, index: ArrayLike) -> sp.csr_array:
        """Materialise the rows ``index`` (k,) as a sparse (k, d) array."""
        chosen = np.asarray(index)
        psi = self.psi[self.response[chosen]].tocoo()
        (k, m), dense = psi.shape, self.dense[chosen]
        weights = np.column_stack([np.ones(k), self.cross[chosen]]).T
        entries = [*(psi.data * weight[psi.row] for weight in weights), dense.ravel()]
        row = [np.tile(psi.row, len(weights)), np.repeat(np.arange(k), dense.shape[1])]
        column = [psi.col + block * m for block in range(len(weights))]
        column.append(np.tile(np.arange(self._crossed, self.shape[1]), k))
        where = (np.concatenate(row), np.concatenate(column))
        return sp.csr_array((np.concatenate(entries), where), shape=(k, self.shape[1]))
