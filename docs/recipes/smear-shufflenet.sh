#!/usr/bin/env bash
# How the shipped bundle smear-shufflenet was made: from 1,500 single-cell photographs of May-Gruenwald-Giemsa smears
# (Acevedo et al., Data in Brief 30 (2020) 105474, CC BY 4.0), 300 of each class. R, G and B are color1 to color3; a
# nuclear density derived from them stands in for fluorescence. Five folds are trained; the first one's network, trained on
# 1,200 cells and calibrated on the 300 it never saw, is the bundle.
set -euo pipefail
pictures=${1:?"usage: smear-shufflenet.sh PICTURES FOLDER"}
out=${2:?"usage: smear-shufflenet.sh PICTURES FOLDER"}

wbcpipe import cells "$pictures" --sample pbc5 --kind stained-rgb --pixel-um 0.1
recipe=(--side 112 --teacher-epochs 20 --epochs 40 --temperature 1 --threads 1 --out "$out")
# The folds may run side by side, one process each.
for fold in 0 1 2 3 4; do
    wbcpipe train pbc5 --folds 5 --fold "$fold" "${recipe[@]}"
done
wbcpipe train pbc5 --folds 5 --fold 0 "${recipe[@]}" --name smear-shufflenet
