"""Random streams keyed by what they belong to, so that nothing depends on order or batches."""

from __future__ import annotations

import numpy as np

from jaxmdwarf.simulate.gap import CAUSES


class RandomStreams:
    """Random numbers for a survey, a stream for each purpose and each thing concerned.

    Parameters
    ----------
    seed : int
        Of the survey.
    """

    def __init__(self, seed: int) -> None:
        self._key = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def generator(self, purpose: str, item: int) -> np.random.Generator:
        """The stream of one spectrum, fibre or plate (`item`) for noise or one cause of the gap.

        Parameters
        ----------
        purpose : str
            ``noise`` or a cause of the gap.
        item : int
            Number of the spectrum, fibre or plate.
        """
        stream = _PURPOSES.index(purpose)
        key = np.array([self._key, (stream << 56) | item], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def normal(self, purpose: str, items: np.ndarray, n: int) -> np.ndarray:
        """Standard normal deviates (n_items, n), the same for the same item.

        Parameters
        ----------
        purpose : str
            ``noise`` or a cause of the gap.
        items : (n_item,) int
            Numbers of spectra, fibres or plates.
        n : int
            Deviates of each.
        """
        unique, inverse = np.unique(items, return_inverse=True)
        deviates = np.empty((unique.size, n), dtype=np.float32)
        for row, item in enumerate(unique):
            self.generator(purpose, int(item)).standard_normal(out=deviates[row], dtype=np.float32)
        return deviates if np.array_equal(unique, items) else deviates[inverse]


_PURPOSES = ("noise", *CAUSES, "flux_calibration_fibre")
