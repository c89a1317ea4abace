"""Suite digits-40: the digits at 40 x 40, for models trained at another resolution."""

from harope_bench.suites.digits import DigitsSuite

PLUGIN = DigitsSuite("digits-40", 40)
