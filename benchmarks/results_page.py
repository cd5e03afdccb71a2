"""docs/results.md and its picture, from the rows' files alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from results_record import RECALL, REPLICATES, Row, difference
from results_rows import DECOUPLED, HELD_OUT, REPEAT_THRESHOLD_IMAGES, SAMPLED, Size, methods

from iif.files import atomic_write
from iif.report.labels import GROUP_LABELS, IOU_NAMES
from iif.report.palette import GROUP_COLORS, RUN_COLORS
from iif.report.tables import markdown_table, page_signed

Rows = Mapping[str, Sequence[Row]]

METRICS = ("AP", "APr", "APc", "APf")
SOFTMAX = "softmax"
IMAGE = "results.png"
# Words of a person, beside the rows: what they mean, and how they are run.
READING, RUNNING = "reading.md", "running.md"
README_ROWS = (SOFTMAX, SAMPLED, "IIF raw", "IIF raw, repeat-factor sampling", "decoupled IIF raw")
# Beside the rows with repeat-factor sampling, those that are compared with sampling alone.
RIVALS = (SOFTMAX, "IIF raw", "decoupled IIF raw")
# The authors' mask AP on LVIS v1, R50-FPN (arXiv 2209.04861).
PUBLISHED = (
    ("softmax, 12 epochs", "15.2", "0.0", "10.6", "26.9"),
    ("softmax, repeat-factor sampling, 12 epochs", "22.2", "11.5", "21.2", "28.0"),
    (
        "IIF base10 by instance, cosine, repeat-factor sampling, FASA, 24 epochs",
        *("26.3", "18.6", "25.2", "30.8"),
    ),
)


def write_page(path: Path, size: Size, rows: Rows) -> None:
    """Write the page and its picture from the rows that exist."""
    with atomic_write(path.parent / "images" / IMAGE, "wb") as f:
        plot(rows).savefig(f, format="png")
    with atomic_write(path) as f:
        f.write(page(size, rows))


def page(size: Size, rows: Rows) -> str:
    """Return docs/results.md."""
    option = "" if size.name == "small" else f" --size {size.name}"
    seeds = sorted({row.seed for of in rows.values() for row in of})
    any_row = next(iter(rows.values()))[0].content
    groups = any_row["categories"]["groups"]
    kinds = [f"{groups.count(g)} {GROUP_LABELS[g]}" for g in "rcf"]
    config, opts, data = common_recipe(rows)
    settings = " ".join([config, *(part for pair in opts.items() for part in pair)])
    reading = size.rows / READING
    parts = [
        "# Results",
        f"Written by `python benchmarks/results_table.py --table-only{option}` from the files in "
        f"[benchmarks/results/{size.rows.name}](../benchmarks/results/{size.rows.name}); not "
        f"edited. `python benchmarks/results_table.py{option}` makes the rows that are missing.",
        *([reading.read_text().strip()] if reading.is_file() else []),
        "## What the intervals say",
        verdicts(rows),
        "## Boxes",
        ap_table(rows, "bbox"),
        "## Masks",
        ap_table(rows, "segm"),
        f"![Each method's AP and false positives, a dot for each seed](images/{IMAGE})",
        f"## False positives at recall {RECALL}",
        recall_table(rows),
        "## Against repeat-factor sampling alone",
        sampling_table(rows),
        "## Cost, and the values that were chosen",
        cost_table(rows),
        "## How it was measured",
        "\n".join(
            f"- {line}"
            for line in (
                f"Percent; mean ± standard deviation over training seeds "
                f"{', '.join(map(str, seeds))}. The data set is one.",
                f"Brackets: 95% interval of the difference of the means over {REPLICATES:,} "
                "replicates, each of which draws validation images, the same for both methods, "
                "and training seeds. Bold: it excludes 0. Of twenty such intervals one excludes "
                "0 by chance.",
                f"Data: {data['train']:,} training and {data['val']:,} validation images of "
                f"{data['image_size']} px, {data['categories']:,} categories "
                f"({', '.join(kinds)}), `iif openmoji` with seed {data['seed']}; annotated as "
                "LVIS is.",
                f"Detectron2, `{settings}`. A row's file has its other settings.",
                "Data, start of all layers but the classifier, schedule and order of images are "
                "alike for one seed, the order not under repeat-factor sampling. The classifier "
                "is linear; its biases start at -6.9 in EQL v2 and -4.6 in the federated loss, as "
                "their authors', and at 0 in the others.",
                f"False positives: at IoU 0.5, at the score where a category has reached recall "
                f"{RECALL}; their share of softmax's of the same seed, over the categories that "
                "both bring to it. False discovery: FP / (FP + TP), the mean over all categories, "
                "100 in one that does not reach the recall.",
                f"Decoupled: from the softmax run of the seed on, the classifier alone, for 1 / "
                f"{DECOUPLED} of the iterations. Post-hoc (NorCal, FRACAL and LogN too): the "
                f"softmax run of the seed; values are chosen by box AP on {HELD_OUT:.0%} of the "
                "training images with a second softmax run, trained without them. Nothing is "
                "chosen on validation images.",
                f"Repeat-factor sampling: threshold {size.repeat_threshold:g} of the images, "
                f"{REPEAT_THRESHOLD_IMAGES} images as on LVIS, for as many iterations.",
                f"Federated loss: {size.federated_classes} classes an iteration. FASA: without "
                "adaptation of its chances, which would hold training images out. Seesaw: with "
                "the linear classifier.",
                *(
                    ["AP-fixed is AP in every row: no cap on detections leaves one out."]
                    if fixed_is_plain(rows)
                    else []
                ),
                *machines(rows),
                *missing(size, rows),
            )
        ),
        "## To run it",
        (size.rows.parent / RUNNING).read_text().strip(),
        "## The target: the authors' figures on LVIS v1",
        "Mask AP of Mask R-CNN R50-FPN as the IIF paper publishes it; **not measured here**.",
        markdown_table(("setting", *METRICS), PUBLISHED),
    ]
    return "\n\n".join(parts) + "\n"


def ap_table(rows: Rows, iou_type: str) -> str:
    """Return AP by frequency, AP-fixed where it is another, and the differences to softmax."""
    columns = [*METRICS, *([] if fixed_is_plain(rows) else ["AP-fixed"])]
    header = ["method", "seeds", *columns, *(f"{m} less softmax's" for m in METRICS[:2])]
    cells = [
        [
            name,
            str(len(of)),
            *(spread(row.metric(iou_type, metric) for row in of) for metric in columns),
            *(compared(rows, name, SOFTMAX, iou_type, metric) for metric in METRICS[:2]),
        ]
        for name, of in rows.items()
    ]
    return markdown_table(header, cells)


def fixed_is_plain(rows: Rows) -> bool:
    """Return whether AP-fixed is AP in every row: no cap on detections leaves one out."""
    return all(
        row.metric(iou_type, "AP-fixed") == row.metric(iou_type, "AP")
        for of in rows.values()
        for row in of
        for iou_type in IOU_NAMES
    )


def recall_table(rows: Rows) -> str:
    """Return false positives at matched recall, with their reach."""
    header, cells = ["method"], []
    for word in IOU_NAMES.values():
        header += [f"{word}: share", "compared", "reached", "false discovery"]
    for name, of in rows.items():
        line = [name]
        for iou_type in IOU_NAMES:
            shares = [row.share(base, iou_type) for row, base in pairs(rows, name, SOFTMAX)]
            line += [
                spread((share for share, _ in shares), digits=2),
                spread((number for _, number in shares), digits=0),
                spread((row.reached(iou_type) for row in of), digits=0),
                spread(row.false_discovery(iou_type) for row in of),
            ]
        cells.append(line)
    return markdown_table(header, cells)


def sampling_table(rows: Rows) -> str:
    """Return what rows differ in from softmax with repeat-factor sampling."""
    header, cells = ["method"], []
    for word in IOU_NAMES.values():
        header += [f"{word} AP", f"{word} APr", f"{word} false positives", "compared"]
    for name in rows:
        if name == SAMPLED or (name not in RIVALS and not name.endswith("sampling")):
            continue
        line = [name]
        for iou_type in IOU_NAMES:
            line += [compared(rows, name, SAMPLED, iou_type, metric) for metric in METRICS[:2]]
            shares = [row.share(base, iou_type) for row, base in pairs(rows, name, SAMPLED)]
            line += [
                spread((share for share, _ in shares), digits=2),
                spread((number for _, number in shares), digits=0),
            ]
        cells.append(line)
    return markdown_table(header, cells)


def cost_table(rows: Rows) -> str:
    """Return training and inference as ratios to softmax, and the values that were chosen."""
    cells = []
    for name, of in rows.items():
        costs = [row.content["cost"] for row in of if row.content["cost"]]
        tuned = [row.content["tuned"] for row in of if row.content["tuned"]]
        chosen = ", ".join(f"{found['value']:g}" for found in tuned)
        training = inference = "-"
        if costs:
            inference = quartiles(costs[0]["inference"])
            training = training_cost(of[0].content["recipe"]["how"], costs[0])
        values = f"{tuned[0]['option']} {chosen}" if tuned else ""
        cells.append([name, training, inference, values])
    table = markdown_table(("method", "training", "inference", "chosen, by seed"), cells)
    return (
        f"{table}\n\nA step of training and the inference of an image, of the whole network with "
        "masks, as ratios to softmax: medians with quartiles, processor time, both models in turn. "
        "Softmax against itself shows the scatter. Training counts what a row starts from: a "
        "decoupled row is the softmax run and its own third, a post-hoc one the softmax run "
        "alone, the choice of its value left out (a second run)."
    )


def training_cost(how: str, cost: Mapping[str, Mapping[str, float]]) -> str:
    """Return the cost of a row's training, that of its start included; softmax's is 1."""
    if how == "post-hoc":
        return "1"
    step = cost["training step"]
    if how == "decoupled":
        return quartiles({key: 1 + value / DECOUPLED for key, value in step.items()})
    return quartiles(step)


def quartiles(of: Mapping[str, float]) -> str:
    """Return a median with its quartiles."""
    return f"{of['ratio']:.2f} ({of['low']:.2f} to {of['high']:.2f})"


def verdicts(rows: Rows) -> str:
    """Return the methods whose interval excludes 0, for each metric and baseline."""
    lines = []
    for base in (SOFTMAX, SAMPLED):
        for iou_type, word in IOU_NAMES.items():
            for metric in METRICS:
                above, below = [], []
                for name in rows:
                    if len(pairs(rows, name, base)) < 2:
                        continue
                    found = interval(rows, name, base, iou_type, metric)
                    low, high = (0.0, 0.0) if found is None else found[1] or (0.0, 0.0)
                    above += [name] * (low > 0)
                    below += [name] * (high < 0)
                lines.append(
                    [base, f"{word} {metric}", "; ".join(above) or "-", "; ".join(below) or "-"]
                )
    table = markdown_table(("against", "metric", "above", "below"), lines, left=4)
    return (
        f"{table}\n\nOf the methods with two seeds or more, those whose interval excludes no "
        "difference; the others' does not."
    )


def readme_table(rows: Rows) -> str:
    """Return README's five rows."""
    header = ["percent", "seeds", *(f"box {m}" for m in METRICS), *(f"mask {m}" for m in METRICS)]
    cells = []
    for name in README_ROWS:
        if name in rows:
            of = rows[name]
            values = [
                spread(row.metric(iou_type, metric) for row in of)
                for iou_type in IOU_NAMES
                for metric in METRICS
            ]
            shares = [row.share(base, "segm")[0] for row, base in pairs(rows, name, SOFTMAX)]
            cells.append([name, str(len(of)), *values, spread(shares, digits=2)])
    return markdown_table([*header, "mask false positives"], cells)


def pairs(rows: Rows, name: str, base: str) -> list[tuple[Row, Row]]:
    """Return a method's rows with those of another of the same seeds."""
    others = {row.seed: row for row in rows.get(base, ())}
    return [(row, others[row.seed]) for row in rows[name] if row.seed in others]


def interval(
    rows: Rows, name: str, base: str, iou_type: str, metric: str
) -> tuple[float | None, tuple[float, float] | None] | None:
    """Return a difference over the seeds that both have and its interval; None without any."""
    both = pairs(rows, name, base)
    if not both or name == base:
        return None
    own, others = zip(*both, strict=True)
    return difference(own, others, iou_type, metric)


def compared(rows: Rows, name: str, base: str, iou_type: str, metric: str) -> str:
    """Return a difference and its interval as a cell, bold where the interval excludes 0."""
    found = interval(rows, name, base, iou_type, metric)
    if found is None or found[0] is None:
        return "-"
    text = page_signed(found[0])
    if found[1] is None:
        return text
    low, high = found[1]
    text += f" [{page_signed(low)}, {page_signed(high)}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def plot(rows: Rows) -> Figure:
    """Return the figures as dots, one of each seed, with a line at their mean."""

    def of_metric(metric: str) -> Callable[[str], list[float | None]]:
        return lambda name: [row.metric("bbox", metric) for row in rows[name]]

    def shares(name: str) -> list[float | None]:
        return [row.share(base, "segm")[0] for row, base in pairs(rows, name, SOFTMAX)]

    panels = {
        "Box AP (%)": [(of_metric("AP"), RUN_COLORS[1])],
        "Box AP by frequency (%)": [
            (of_metric(f"AP{group}"), color) for group, color in GROUP_COLORS.items()
        ],
        "Mask false positives, softmax = 1": [(shares, RUN_COLORS[1])],
    }
    figure = Figure(figsize=(11, 1 + 0.3 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, (title, columns) in zip(axes, panels.items(), strict=True):
        for values, color in columns:
            for y, name in enumerate(rows):
                known = [value for value in values(name) if value is not None]
                panel.scatter(known, [y] * len(known), s=16, color=color, alpha=0.6, lw=0)
                if known:
                    panel.plot([statistics.mean(known)] * 2, [y - 0.3, y + 0.3], color=color, lw=2)
        panel.set_title(title, fontsize=10)
        panel.margins(x=0.12)
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[0].invert_yaxis()
    figure.legend(
        [Line2D([], [], color=color, lw=2) for color in GROUP_COLORS.values()],
        [GROUP_LABELS[group] for group in GROUP_COLORS],
        loc="outside lower center",
        ncols=len(GROUP_COLORS),
        frameon=False,
    )
    axes[2].axvline(1, color="0.6", lw=0.8, ls="--", zorder=0)
    return figure


def spread(values: Iterable[float | None], digits: int = 1) -> str:
    """Return mean ± sample standard deviation; a lone value alone, "-" without any."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def common_recipe(rows: Rows) -> tuple[str, dict[str, str], dict[str, int]]:
    """Return configuration, settings and data of all rows.

    Raises:
        ValueError: they are not the same.
    """
    recipes = [row.content["recipe"] for of in rows.values() for row in of]
    first, *others = [(recipe["config"], recipe["opts"], recipe["data"]) for recipe in recipes]
    if any(other != first for other in others):
        raise ValueError("the rows have not the same configuration, settings and data")
    return first


def machines(rows: Rows) -> list[str]:
    """Return the machines and versions that made the rows, each once."""
    found = {}
    for of in rows.values():
        for row in of:
            machine, versions = row.content["machine"], row.content["versions"]
            software = ", ".join(f"{k} {v}" for k, v in versions.items() if k != "platform")
            text = f"{machine['processor']}, {machine['cores']} virtual cores"
            threads = f", {machine['threads']} thread a run" if machine["threads"] else ""
            gpus = f", {machine['gpus']} GPUs" if machine["gpus"] else ""
            found[f"{text}{threads}{gpus}; {software}."] = None
    return list(found)


def missing(size: Size, rows: Rows) -> list[str]:
    """Return what was not run, and why the cosine rows are left out."""
    most = max(len(of) for of in rows.values())
    lines = []
    wanted = [method.name for method in methods(size) if method.default]
    number = {name: len(rows.get(name, ())) for name in wanted}
    none = [name for name in wanted if not number[name]]
    fewer = [f"{name} ({n} of {most} seeds)" for name, n in number.items() if 0 < n < most]
    if none or fewer:
        lines.append(f"Not run yet: {'; '.join([*none, *fewer])}.")
    if not any(name.startswith("cosine") for name in rows):
        lines.append(
            'Left out: the cosine classifier (`--methods cosine "cosine + IIF raw"`). It has not '
            "converged on this schedule."
        )
    return lines
