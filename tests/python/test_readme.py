"""What the README shows is so: its programs, its commands, its error and its links."""

import pathlib
import re
import subprocess
import tempfile
import textwrap
import unittest

import numpy as np

import cnnkern

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", README, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _, text in found]


class Readme(unittest.TestCase):
    def run_in(self, folder, command):
        done = subprocess.run(["sh", "-ec", command], cwd=folder, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}")
        return done.stdout

    def test_program(self):
        (program,) = (text for text in blocks("c") if "int main" in text)
        (commands,) = (text for text in blocks("sh") if "cc " in text)
        build, compile_and_run = commands.split("\n", 1)
        self.assertEqual(build, "cargo build --release")
        # As in the root of the repository, without leaving files there.
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "learn.c").write_text(program)
            (folder / "include").symlink_to(ROOT / "include")
            (folder / "target").symlink_to(ROOT / "target")
            printed = self.run_in(folder, compile_and_run)
            (static,) = re.findall(r"`(cc learn\.c [^`]*libcnnkern\.a [^`]*)`", README)
            static_printed = self.run_in(folder, f"{static} && ./a.out")
        self.assertIn(printed, blocks("text"))
        self.assertEqual(static_printed, printed)

    def test_fragments_of_c_compile(self):
        fragments = [text for text in blocks("c") if "int main" not in text]
        self.assertTrue(fragments)
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "fragment.c"
            for fragment in fragments:
                source.write_text(f"#include <cnnkern.h>\nvoid fragment(void) {{\n{fragment}}}\n")
                self.run_in(folder, f"cc -std=c99 -fsyntax-only -I '{ROOT}/include' fragment.c")

    def test_rust_example_is_the_crates_own(self):
        # Whose documentation is tested by cargo.
        lines = re.findall(r"^//! ?(.*\n)", (ROOT / "src/lib.rs").read_text(), re.MULTILINE)
        (example,) = blocks("rust")
        self.assertIn(example, "".join(lines))

    def test_algorithms(self):
        # Sums of products of small integers are exact; Winograd's transforms may round.
        results = {}
        for algorithm in (cnnkern.ALGORITHM_AUTO, cnnkern.ALGORITHM_GEMM,
                          cnnkern.ALGORITHM_WINOGRAD, cnnkern.ALGORITHM_REFERENCE):
            params = cnnkern.conv2d_params(1, 1, 6, 6, 1, 3, 3, algorithm=algorithm)
            x = np.arange(36, dtype=np.float32) % 5
            w, y = np.ones(9, np.float32), np.full(16, np.nan, np.float32)
            cnnkern.conv2d_forward(params, x, w, None, y)
            results[algorithm] = y
        reference = results.pop(cnnkern.ALGORITHM_REFERENCE)
        np.testing.assert_array_equal(results[cnnkern.ALGORITHM_AUTO], reference)
        np.testing.assert_array_equal(results[cnnkern.ALGORITHM_GEMM], reference)
        np.testing.assert_allclose(results[cnnkern.ALGORITHM_WINOGRAD], reference, rtol=1e-5)

    def test_error(self):
        with self.assertRaises(cnnkern.Error) as caught:
            cnnkern.conv2d_output_size(cnnkern.conv2d_params(8, 3, 3, 32, 16, 5, 5))
        self.assertIn(f"{caught.exception}\n", blocks("text"))

    def test_links(self):
        links = re.findall(r"\]\(([^)]+)\)", README)
        self.assertTrue(links)
        headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
                    for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
        for link in links:
            if link.startswith("#"):
                self.assertIn(link[1:], headings)
            elif not link.startswith("https:"):
                self.assertTrue((ROOT / link).exists(), link)


if __name__ == "__main__":
    unittest.main()
