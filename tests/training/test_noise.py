"""Noise has the level that was asked for, and the same frame always gets the same."""

import numpy as np
import pytest

from training.finder import EvaluateError
from training.noise import Noise, add_noise, parse_noise

GRAY = np.full((200, 200), 100, np.uint8)

LEVELS = [
    ("Gaussian noise of sigma 5 spreads a gray frame by 5 levels", "gaussian:5", 100, 5),
    ("of 51 photons at white, 100 of 255 levels collect 20, which vary by 4.47: 22.4 levels", "poisson:51", 100, 22.4),
    ("many photons leave little noise", "poisson:5100", 100, 2.24),
    ("a tenth of the pixels black or white: (0.9 x 100 + 0.05 x 255), and a spread to match", "salt-pepper:0.1", 102.75,
     np.sqrt(0.9 * 2.75**2 + 0.05 * 102.75**2 + 0.05 * 152.25**2)),
]  # fmt: skip


@pytest.mark.parametrize(("why", "text", "mean", "spread"), LEVELS, ids=[c[1] for c in LEVELS])
def test_levels(why, text, mean, spread):
    """Mean and spread over 40,000 gray pixels."""
    noisy = add_noise(GRAY, parse_noise(text), "a")
    assert noisy.dtype == np.uint8
    assert noisy.mean() == pytest.approx(mean, abs=0.5)
    assert noisy.std() == pytest.approx(spread, rel=0.05)


def test_a_frames_name_is_the_seed():
    """The same name gets the same noise, another name another; a stronger level has the same pattern."""
    one = add_noise(GRAY, Noise("gaussian", 5), "a")
    assert np.array_equal(one, add_noise(GRAY, Noise("gaussian", 5), "a"))
    assert not np.array_equal(one, add_noise(GRAY, Noise("gaussian", 5), "b"))
    stronger = add_noise(GRAY, Noise("gaussian", 10), "a")
    assert np.abs((stronger - 100.0) - 2 * (one - 100.0)).max() <= 2


BAD = [
    ("no such kind", "rain:3", "there are gaussian:LEVEL"),
    ("no level", "gaussian", "SIGMA in grey levels"),
    ("a level that is no number", "gaussian:much", "SIGMA in grey levels"),
    ("no noise at all", "gaussian:0", "SIGMA in grey levels"),
    ("an infinite level", "poisson:inf", "PHOTONS"),
    ("a density in percent", "salt-pepper:2", "as a share of the pixels"),
]


@pytest.mark.parametrize(("why", "text", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_noise(why, text, error):
    """One line that names the option and says what would be right."""
    with pytest.raises(EvaluateError, match=error) as caught:
        parse_noise(text)
    assert str(caught.value).startswith(f"--noise {text}: ")
