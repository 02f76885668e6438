"""Makes a table and a chart of what conv or pool printed.

    chart.py RESULTS.csv

writes RESULTS.md and RESULTS.svg beside it.
"""

import csv
import math
import pathlib
import sys
from html import escape
from typing import NamedTuple


class Comparison(NamedTuple):
    """What is shown of a program's results."""

    passes: dict  # and their colours
    work: str  # the column that counts it, in billions
    limit: str  # begins the note that says how much of it the machine does in a second
    means: list  # headings and ratios of rows, summed up by pass
    columns: list  # headings and formats of a row
    ratio_title: str
    ratios: tuple
    share_title: str
    shares: tuple


CONV = Comparison(
    passes={"forward": "#2a6fbb", "backward_data": "#d9822b", "backward_weights": "#4a9a55"},
    work="gflop",
    limit="peak",
    means=[
        ("ratio to plain", lambda row: row["ratio"]),
        ("ratio to blocked", lambda row: row["blocked"] / row["cnnkern"]),
        ("without Winograd, to plain", lambda row: row["sums_ratio"]),
    ],
    columns=[
        ("plain ms", "{plain:.3f}"),
        ("blocked ms", "{blocked:.3f}"),
        ("cnnkern ms", "{cnnkern:.3f}"),
        ("ratio", "{ratio:.2f}"),
        ("without Winograd ms", "{sums:.3f}"),
        ("ratio", "{sums_ratio:.2f}"),
        ("GFLOP/s", "{rate:.1f}"),
        ("% of peak", "{percent}"),
    ],
    ratio_title="times as fast as oneDNN on plain tensors (hollow: without Winograd)",
    ratios=(0.25, 0.5, 1, 2, 4),
    share_title="per cent of the machine's peak",
    shares=(0, 100, 200, 300),  # Winograd's saved products exceed the peak.
)

POOL = Comparison(
    passes={
        "max_forward": "#2a6fbb",
        "max_backward": "#d9822b",
        "avg_forward": "#4a9a55",
        "avg_backward": "#8a5aa8",
    },
    work="gbyte",
    limit="copy",
    means=[("ratio", lambda row: row["ratio"])],
    columns=[
        ("oneDNN ms", "{plain:.3f}"),
        ("cnnkern ms", "{cnnkern:.3f}"),
        ("ratio", "{ratio:.2f}"),
        ("GB/s", "{rate:.1f}"),
        ("% of copying", "{percent}"),
    ],
    ratio_title="times as fast as oneDNN on plain tensors",
    ratios=(0.125, 0.25, 0.5, 1, 2, 4),
    share_title="per cent of the rate at which the machine copies",
    shares=(0, 50, 100, 150, 200),  # Tensors that stay in a cache exceed that rate.
)


def read(path):
    lines = path.read_text().splitlines()
    notes = [line[2:] for line in lines if line.startswith("#")]
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    kind = CONV if CONV.work in rows[0] else POOL
    limit = next((float(note.split()[1]) for note in notes if note.startswith(kind.limit)), 0)
    for row in rows:
        for name in row.keys() - {"layer", "pass"}:
            row[name] = float(row[name])
        row.setdefault("sums", row["cnnkern"])
        row["ratio"] = row["plain"] / row["cnnkern"]
        row["sums_ratio"] = row["plain"] / row["sums"]
        row["rate"] = row[kind.work] / row["cnnkern"] * 1e3
        row["share"] = 100 * row["rate"] / limit if limit else None
        row["percent"] = f"{row['share']:.0f}" if limit else ""
    return kind, notes, rows


def mean(values):
    """The geometric mean."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def table(kind, notes, rows):
    def line(cells):
        return "| " + " | ".join(cells) + " |"

    def head(names, numbers):
        yield line(names + numbers)
        yield "|" + "---|" * len(names) + "--:|" * len(numbers)

    yield from (note + "  " for note in notes)
    yield ""
    yield from head(["pass"], [heading for heading, _ in kind.means])
    for name, chosen in [(p, [r for r in rows if r["pass"] == p]) for p in kind.passes] + [("all", rows)]:
        yield line([name] + [f"{mean(map(ratio, chosen)):.2f}" for _, ratio in kind.means])
    yield ""
    yield from head(["layer", "pass"], [heading for heading, _ in kind.columns])
    for row in rows:
        yield line([row["layer"], row["pass"]] + [form.format(**row) for _, form in kind.columns])


def chart(kind, notes, rows):
    """Two columns, a layer a line: the ratio on a logarithmic scale, and per cent of the limit."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    left, top, line, width = 210, 60, 16, 300
    bottom = top + line * len(layers)
    height = bottom + 30
    share_left = left + width + 40
    lowest, highest = kind.ratios[0], kind.ratios[-1]
    limited = rows[0]["share"] is not None

    def ratio_x(ratio):
        place = math.log(min(max(ratio, lowest), highest) / lowest) / math.log(highest / lowest)
        return left + width * place

    def share_x(share):
        return share_left + width * min(share / kind.shares[-1], 1)

    def text(x, y, words, anchor="start", size=11):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{share_left + width + 20}" '
        f'height="{height}" font-family="sans-serif" fill="#333">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield text(10, 16, "; ".join(notes), size=10)
    for number, (name, colour) in enumerate(kind.passes.items()):
        yield f'<circle cx="{16 + 130 * number}" cy="30" r="4" fill="{colour}"/>'
        yield text(24 + 130 * number, 34, name.replace("_", " "))
    yield text(left, 50, kind.ratio_title, size=10)
    for ratio in kind.ratios:
        x = ratio_x(ratio)
        colour = "#333" if ratio == 1 else "#ccc"
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="{colour}"/>'
        yield text(x, bottom + 14, f"{ratio:g}", "middle")
    if limited:
        yield text(share_left, 50, kind.share_title, size=10)
        for share in kind.shares:
            x = share_x(share)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="#ccc"/>'
            yield text(x, bottom + 14, f"{share}", "middle")
    for number, layer in enumerate(layers):
        y = top + line * number + line / 2
        yield text(left - 8, y + 4, layer, "end")
        for row in rows:
            if row["layer"] != layer:
                continue
            colour = kind.passes[row["pass"]]
            if row["sums"] != row["cnnkern"]:
                x = ratio_x(row["sums_ratio"])
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="none" stroke="{colour}"/>'
            mark = f'r="4" fill="{colour}" fill-opacity="0.85"'
            yield f'<circle cx="{ratio_x(row["ratio"]):.1f}" cy="{y:.1f}" {mark}/>'
            if limited:
                yield f'<circle cx="{share_x(row["share"]):.1f}" cy="{y:.1f}" {mark}/>'
    yield "</svg>"


def main():
    path = pathlib.Path(sys.argv[1])
    results = read(path)
    for suffix, make in ((".md", table), (".svg", chart)):
        path.with_suffix(suffix).write_text("\n".join(make(*results)) + "\n")


if __name__ == "__main__":
    main()
