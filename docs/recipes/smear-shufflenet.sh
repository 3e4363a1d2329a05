#!/usr/bin/env bash
# How the shipped bundle smear-shufflenet was made: from 1,500 single-cell photographs of May-Gruenwald-Giemsa smears
# (Acevedo et al., Data in Brief 30 (2020) 105474, CC BY 4.0), 300 of each class. R, G and B are color1 to color3; a
# nuclear density derived from them stands in for fluorescence. The network of the first of five folds, trained on
# 1,200 cells and calibrated on the 300 it never saw, is the bundle. Six minutes on one core; without --fold 0 and
# --name the same command cross-validates.
set -euo pipefail
pictures=${1:?"usage: smear-shufflenet.sh PICTURES FOLDER"}
out=${2:?"usage: smear-shufflenet.sh PICTURES FOLDER"}

wbcpipe import cells "$pictures" --sample pbc5 --kind stained-rgb --pixel-um 0.1
wbcpipe train pbc5 --method mm-mimo --side 112 --epochs 40 --threads 1 --folds 5 --fold 0 --out "$out" \
    --name smear-shufflenet
