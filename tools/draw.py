"""Draw the pictures of docs/parallelism.md from the code that they show: `python tools/draw.py`."""

from pathlib import Path

from homegrown.parallel.drawing import draw_timeline
from homegrown.parallel.layout import Layout
from homegrown.parallel.picture import draw_layout
from homegrown.parallel.schedule import nominal, simulate, training_order

FOLDER = Path(__file__).parents[1] / "docs/pictures"
EXAMPLE = Layout(pp=2, dp=2, cp=2, tp=2, ep=4, embp=8, part_layers=(2, 2))


def pictures() -> dict[str, str]:
    """File name -> text."""
    plain = [training_order(stage, 4, 1, 8) for stage in range(4)]
    mixed = [training_order(stage, 4, 2, 8) for stage in range(4)]
    return {
        "layout.svg": draw_layout(EXAMPLE),
        "pipeline.svg": draw_timeline(simulate(plain, 1, nominal), "1F1B, 4 stages, 8 micro-batches"),
        "interleaved.svg": draw_timeline(simulate(mixed, 2, lambda act: nominal(act) / 2), "the same, 2 parts a stage"),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pictures().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
