#!/usr/bin/env bash
# How the shipped bundle virtual-shufflenet was made. Slides are scanned on the virtual scope, segmented, and trained on;
# no seed is used twice. About an hour on two cores. Raw fields take 16 GB; WBCPIPE_DATA says where.
set -euo pipefail
out=${1:?"usage: virtual-shufflenet.sh FOLDER"}

slide() { # name, seed, preparation, fields
    wbcpipe acquire --slide "$1" --specimen-seed "$2" --specimen-preparation "$3" --fields "$4"
    wbcpipe segment --sample "$1"
}

# Enriched slides give every class alike; blood films give the classes as they come.
slide train-coat-1001 1001 buffy-coat 55
slide train-coat-1002 1002 buffy-coat 55
slide train-coat-1003 1003 buffy-coat 55
slide train-film-1011 1011 blood-film 80
slide train-film-1012 1012 blood-film 80
# Apart from training: temperatures, weights of the heads and the threshold are fitted on these.
slide val-film-1021 1021 blood-film 80
slide val-coat-1022 1022 buffy-coat 20

wbcpipe train train-coat-1001 train-coat-1002 train-coat-1003 train-film-1011 train-film-1012 \
    --validation val-film-1021 --validation val-coat-1022 --name virtual-shufflenet \
    --recipe "$(dirname "$0")/virtual-shufflenet.json" \
    --threads 1 --out "$out"

# Test seeds, looked at once the bundle was finished.
for seed in 2007 2008 2009; do
    wbcpipe run --sample "test-$seed" --specimen-seed "$seed" --bundle "$out/virtual-shufflenet"
    wbcpipe evaluate --sample "test-$seed" --json
done
