"""Suite digits-16: the digits at 16 x 16, for models trained at another resolution."""

from harope_bench.suites.digits import DigitsSuite

PLUGIN = DigitsSuite("digits-16", 16)
