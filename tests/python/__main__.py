"""Runs the tests of this folder: python3 tests/python"""

import pathlib
import sys
import unittest

suite = unittest.defaultTestLoader.discover(pathlib.Path(__file__).parent)
result = unittest.TextTestRunner(verbosity=2).run(suite)
failed = {getattr(test, "test_case", test).id() for test, _ in result.failures + result.errors}
skipped = len(result.skipped)
passed = result.testsRun - len(failed) - skipped
print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(not result.wasSuccessful())
