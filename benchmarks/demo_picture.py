"""README's picture from a finished demo: `python benchmarks/demo_picture.py runs/demo docs/images/demo.png`.

One held-out prompt a column, the first ones and not the best ones; one model a row; the same seed in every row of a column.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROWS = {"base": "base", "inpo": "InPO, 400 steps", "diffusion-dpo": "Diffusion-DPO, 400 steps"}
COLUMNS, SCALE, GAP, LABEL = 12, 3, 6, 22


def main(demo: Path, out: Path) -> None:
    """Writes the sheet."""
    side = 32 * SCALE
    width, height = COLUMNS * (side + GAP) + GAP, len(ROWS) * (side + LABEL + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, (name, label) in enumerate(ROWS.items()):
        top = GAP + row * (side + LABEL + GAP)
        draw.text((GAP, top), label, fill="black", font=font)
        for column in range(COLUMNS):
            with Image.open(demo / "evaluation" / name / f"{column:05d}_0.png") as picture:
                large = picture.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (GAP + column * (side + GAP), top + LABEL))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
