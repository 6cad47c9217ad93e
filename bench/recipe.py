"""A sweep for the shapes of planning/recipe.py: which size is best in which time, on several texts.

    python bench/recipe.py TEXT... [--sizes 1x128 2x128 2x192 3x256] [--seconds 60 240] [--csv docs/recipe.csv]
    python bench/recipe.py --table docs/recipe.csv [--figure docs/recipe.svg]

Every run is one of ablations.py's baselines: preset `text` in a process with one thread and so many CPU seconds for the
fit to n-grams and its updates. The table has, for each text and time, the bits per byte of each size, the size that
`fledge train --minutes` would choose for as many tokens, and its residual: how much better the best of them was. Rows
that are in --csv are not run again. How many updates fit in follows from a short measurement of their time, which is
off by up to a sixth where other programs run: differences of 0.01 say nothing.
"""

import argparse
from pathlib import Path

from ablations import BASELINE, Row, read, run_once
from fledge.planning.recipe import SHAPES

SIZES, SECONDS = ("1x128", "2x128", "2x192", "3x256"), (60.0, 240.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXT")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="BLOCKSxWIDTH")
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS, metavar="CPU_SECONDS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = read(args.table or args.csv) if args.table or args.csv else []
    options = {"set": [], "eval_tokens": 150_000, "steps": None, "csv": args.csv}
    for seconds in args.seconds if args.texts else ():
        for seed in args.seeds:
            for text in args.texts:
                for size in args.sizes:
                    run = argparse.Namespace(**options, size=size, seconds=seconds)
                    run_once(text.resolve(), BASELINE, seed, run, rows)
    print(table(rows))
    if args.figure:
        draw(rows, args.figure)


def table(rows: list[Row]) -> str:
    """Markdown: bits per byte of each size, what the recipe would choose, and its residual."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    lines = [
        f"| text | CPU time | {' | '.join(size.replace('x', ' × ') for size in sizes)} | the recipe | residual |",
        f"|---|{'---|' * (3 + len(sizes))}",
    ]
    for text, budget in dict.fromkeys((row["text"], row["budget"]) for row in rows):
        found = {size: mean_bits(rows, text, budget, size) for size in sizes}
        known = {size: bits for size, bits in found.items() if bits is not None}
        chosen = choice(rows, text, budget)
        residual = f"{known[chosen] - min(known.values()):.3f}" if chosen in known else ""
        cells = " | ".join("" if bits is None else f"{bits:.3f}" for bits in found.values())
        lines.append(f"| {text} | {budget} | {cells} | {chosen.replace('x', ' × ')} | {residual} |")
    return "\n".join(lines)


def mean_bits(rows: list[Row], text: str, budget: str, size: str) -> float | None:
    """Over the seeds."""
    found = [
        float(row["bits_per_byte"]) for row in rows if (row["text"], row["budget"], row["size"]) == (text, budget, size)
    ]
    return sum(found) / len(found) if found else None


def choice(rows: list[Row], text: str, budget: str) -> str:
    """The largest size that gets enough tokens in this time, of those that were run."""
    steps = {row["size"]: int(row["steps"]) for row in rows if (row["text"], row["budget"]) == (text, budget)}
    sizes = {f"{shape.n_layer}x{shape.n_embd}": shape for shape in SHAPES}
    enough = [size for size, shape in sizes.items() if steps.get(size, 0) * shape.step_tokens >= shape.tokens]
    return enough[-1] if enough else next(iter(sizes))


def draw(rows: list[Row], path: Path) -> None:
    """Bits per byte against CPU time, a line for each size, a panel for each text."""
    import matplotlib.pyplot as plt

    texts, sizes = (list(dict.fromkeys(row[name] for row in rows)) for name in ("text", "size"))
    figure, panels = plt.subplots(1, len(texts), figsize=(3.2 * len(texts), 3), squeeze=False, layout="constrained")
    for panel, text in zip(panels[0], texts, strict=True):
        for size in sizes:
            budgets = dict.fromkeys(row["budget"] for row in rows if (row["text"], row["size"]) == (text, size))
            points = sorted((float(b.split()[0]), mean_bits(rows, text, b, size)) for b in budgets)
            panel.plot(*zip(*points, strict=True), marker="o", label=size.replace("x", " × "))
        panel.set(title=text, xscale="log", xlabel="CPU seconds")
        times = sorted({float(row["budget"].split()[0]) for row in rows})
        panel.set_xticks(times, [f"{time:g}" for time in times])
        panel.minorticks_off()
    panels[0][0].set_ylabel("bits per byte")
    panels[0][-1].legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
