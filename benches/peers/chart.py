"""Makes a table and a chart of what conv printed.

    chart.py RESULTS.csv

writes RESULTS.md and RESULTS.svg beside it.
"""

import csv
import math
import pathlib
import sys
from html import escape

PASSES = {"forward": "#2a6fbb", "backward_data": "#d9822b", "backward_weights": "#4a9a55"}

# Per cent of the peak, which Winograd's saved products exceed.
MOST_SHARE = 300


def read(path):
    lines = path.read_text().splitlines()
    notes = [line[2:] for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    for row in rows:
        for name in ("gflop", "plain", "blocked", "cnnkern", "sums"):
            row[name] = float(row[name])
        row["ratio"] = row["plain"] / row["cnnkern"]
        row["sums_ratio"] = row["plain"] / row["sums"]
        row["rate"] = row["gflop"] / row["cnnkern"] * 1e3
    peak = next((float(note.split()[1]) for note in notes if note.startswith("peak")), 0)
    return notes, rows, peak


def mean(values):
    """The geometric mean."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def table(notes, rows, peak):
    yield from (note + "  " for note in notes)
    yield ""
    yield "| pass | ratio to plain | ratio to blocked | without Winograd, to plain |"
    yield "|---|--:|--:|--:|"
    for name, chosen in [(p, [r for r in rows if r["pass"] == p]) for p in PASSES] + [("all", rows)]:
        plain = mean(row["ratio"] for row in chosen)
        blocked = mean(row["blocked"] / row["cnnkern"] for row in chosen)
        sums = mean(row["sums_ratio"] for row in chosen)
        yield f"| {name} | {plain:.2f} | {blocked:.2f} | {sums:.2f} |"
    yield ""
    yield (
        "| layer | pass | plain ms | blocked ms | cnnkern ms | ratio | without Winograd ms | ratio "
        "| GFLOP/s | % of peak |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for row in rows:
        share = f"{100 * row['rate'] / peak:.0f}" if peak else ""
        yield (
            f"| {row['layer']} | {row['pass']} | {row['plain']:.3f} | {row['blocked']:.3f} "
            f"| {row['cnnkern']:.3f} | {row['ratio']:.2f} | {row['sums']:.3f} | {row['sums_ratio']:.2f} "
            f"| {row['rate']:.1f} | {share} |"
        )


def chart(notes, rows, peak):
    """Two columns, a layer a line: the ratio on a logarithmic scale, and per cent of the peak."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    left, top, line, width = 210, 60, 16, 300
    height = top + line * len(layers) + 30
    share_left = left + width + 40
    lowest, highest = 0.25, 4.0

    def ratio_x(ratio):
        place = math.log(min(max(ratio, lowest), highest) / lowest) / math.log(highest / lowest)
        return left + width * place

    def text(x, y, words, anchor="start", size=11):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{share_left + width + 20}" '
        f'height="{height}" font-family="sans-serif" fill="#333">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield text(10, 16, "; ".join(notes), size=10)
    for number, (name, colour) in enumerate(PASSES.items()):
        yield f'<circle cx="{16 + 130 * number}" cy="30" r="4" fill="{colour}"/>'
        yield text(24 + 130 * number, 34, name.replace("_", " "))
    yield text(
        left, 50, "times as fast as oneDNN on plain tensors (hollow: without Winograd)", size=10
    )
    bottom = top + line * len(layers)
    for ratio in (0.25, 0.5, 1, 2, 4):
        x = ratio_x(ratio)
        colour = "#333" if ratio == 1 else "#ccc"
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{colour}"/>'
        yield text(x, bottom + 14, f"{ratio:g}", "middle")
    if peak:
        yield text(share_left, 50, "per cent of the machine's peak", size=10)
        for share in (0, 100, 200, 300):
            x = share_left + width * share / MOST_SHARE
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#ccc"/>'
            yield text(x, bottom + 14, f"{share}", "middle")
    for number, layer in enumerate(layers):
        y = top + line * number + line / 2
        yield text(left - 8, y + 4, layer, "end")
        for row in rows:
            if row["layer"] != layer:
                continue
            colour = PASSES[row["pass"]]
            if row["sums"] != row["cnnkern"]:
                x = ratio_x(row["sums_ratio"])
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="none" stroke="{colour}"/>'
            mark = f'r="4" fill="{colour}" fill-opacity="0.85"'
            yield f'<circle cx="{ratio_x(row["ratio"]):.1f}" cy="{y:.1f}" {mark}/>'
            if peak:
                x = share_left + width * min(100 * row["rate"] / peak / MOST_SHARE, 1)
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" {mark}/>'
    yield "</svg>"


def main():
    path = pathlib.Path(sys.argv[1])
    results = read(path)
    for suffix, make in ((".md", table), (".svg", chart)):
        path.with_suffix(suffix).write_text("\n".join(make(*results)) + "\n")


if __name__ == "__main__":
    main()
