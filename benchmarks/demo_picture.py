"""README's picture from a finished demo: `python benchmarks/demo_picture.py runs/demo docs/images/demo.png`.

One held-out prompt a column, the first ones and not the best ones; one model a row; the same seed in every row of a column. Under each
image is the oracle's score.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from inpo.evaluation.scores import read_scores

ROWS = {"base": "base", "inpo": "InPO,\n400 steps", "diffusion-dpo": "Diffusion-\nDPO,\n400 steps"}
COLUMNS, SCALE, GAP, NAMES, TITLE, LINE = 7, 4, 8, 84, 76, 18


def main(demo: Path, out: Path) -> None:
    """Writes the sheet."""
    side, font = 32 * SCALE, ImageFont.load_default(13)
    width = NAMES + COLUMNS * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, TITLE + len(ROWS) * (side + LINE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    rows = [row for row in read_scores(demo / "evaluation" / "scores.parquet") if row.scorer == "world:oracle"]
    prompts = {row.prompt_index: row.prompt for row in rows}
    scores = {(row.model, row.prompt_index): row.score for row in rows}
    for column in range(COLUMNS):
        left = NAMES + column * (side + GAP)
        draw.multiline_text((left, 4), "\n".join(textwrap.wrap(prompts[column], 20)), fill="black", font=font, spacing=2)
        for row, (name, label) in enumerate(ROWS.items()):
            top = TITLE + row * (side + LINE + GAP)
            if column == 0:
                draw.multiline_text((4, top + 4), label, fill="black", font=font)
            with Image.open(demo / "evaluation" / name / f"{column:05d}_0.png") as picture:
                sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
            draw.text((left, top + side + 1), f"{scores[name, column]:.2f}", fill="dimgray", font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
