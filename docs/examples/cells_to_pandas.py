"""Read the cells of a sample into numpy and pandas: `python cells_to_pandas.py DATA SAMPLE`.

Needs pandas: `pip install pandas`.
"""

import sys

import pandas as pd

import wbcpipe


def main(data: str, name: str) -> None:
    """Print the mean measurements of each class, and how bright its nuclei are."""
    cells = wbcpipe.CellStore(wbcpipe.Sample.open(data, name).cells_path)
    table = pd.DataFrame(cells.table())

    # (N, M, side, side) and (N, side, side); a large sample is read in parts: images(0, 320), ...
    images, masks = cells.images(), cells.masks()
    nuclear = cells.modalities.index("fluorescence")
    table["nucleus_mean"] = [
        image[nuclear][mask == 2].mean() if (mask == 2).any() else float("nan")
        for image, mask in zip(images, masks, strict=True)
    ]
    shown = ["area_um2", "nucleus_area_um2", "nucleus_mean"]
    print(table.groupby("predicted_class")[shown].mean().round(1).to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
