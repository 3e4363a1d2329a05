#!/usr/bin/env bash
# How the shipped bundle smear-shufflenet was made, from the smears of three laboratories. R, G and B are color1 to
# color3; a nuclear density derived from them stands in for fluorescence.
#   pbc5   1,500 single-cell photographs, 300 of each class (Acevedo et al., Data in Brief 30 (2020) 105474, CC BY 4.0)
#   chula  310 single-cell photographs (Chulalongkorn University WBC data set, MIT)
#   bccd   the boxed white cells of 364 fields that show one class (BCCD, MIT)
# chula and bccd are left out in turn for calibration, so that the threshold is that of a laboratory which the network has
# not seen; the shipped network has learned from all three. Forty minutes on one core.
set -euo pipefail
folder=${1:?"usage: smear-shufflenet.sh FOLDER_OF_THE_THREE OUT"}
out=${2:?"usage: smear-shufflenet.sh FOLDER_OF_THE_THREE OUT"}
boxes=$(mktemp --suffix .csv)
trap 'rm -f "$boxes"' EXIT

for laboratory in pbc5 chula; do
    wbcpipe import cells "$folder/$laboratory" --sample "$laboratory" --kind stained-rgb --pixel-um 0.1
done
wbcpipe import fields "$folder/bccd/JPEGImages" --sample bccd --kind stained-rgb --pixel-um 0.075
wbcpipe segment --sample bccd --pixel-um 0.1
python - "$folder/bccd" > "$boxes" <<'END'
import csv, pathlib, sys
import xml.etree.ElementTree as xml

folder = pathlib.Path(sys.argv[1])
print("file,label,xmin,ymin,xmax,ymax")
for row in csv.DictReader((folder / "labels.csv").open(newline="")):
    annotation = folder / "Annotations" / f"{pathlib.Path(row['file']).stem}.xml"
    for one in xml.parse(annotation).iter("object"):
        if one.findtext("name") == "WBC":
            corners = [one.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
            print(row["file"], row["label"].strip(), *corners, sep=",")
END
wbcpipe labels import "$boxes" --sample bccd
wbcpipe train pbc5 chula bccd --leave-out chula --leave-out bccd --method early-fusion --side 112 --epochs 60 --threads 1 \
    --set target_accuracy=0.9,max_unidentified_fraction=0.5 --out "$out" --name smear-shufflenet
