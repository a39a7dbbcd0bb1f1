#!/usr/bin/env bash
# All networks of the package in a quarter of an hour on one large GPU: stages that don't need each other run side by
# side, and the drawing of scenes beside them. `locinv pretrain recipe=core_gpu` is the same one after the other.
#
#     benchmarks/pretrain_side_by_side.sh OUTPUT [SECONDS]
#
# SECONDS (850) is when the text-to-image models end, counted from the start. Lines of progress go to OUTPUT/log. What
# has been exported isn't trained again; a training that was cut off goes on from its checkpoint, two minutes old at
# most, by `locinv pretrain` with its words.
set -euo pipefail
OUT=$1; END=${2:-850}; PYTHON=${PYTHON:-python3}; export OMP_NUM_THREADS=2
SMALL=20000 FAULTY=30000 SCENES=90000 VAE_MINUTES=3.1
mkdir -p "$OUT"
now() { echo "$SECONDS"; }
say() { echo "[$(now) s] $*" | tee -a "$OUT/log"; }
left() { "$PYTHON" -c "print(max(0.5, round(($END - $1 - $(now)) / 60, 2)))"; }
train() { # train FOLDER STAGE WORDS...
    local folder=$1 stage=$2
    shift 2
    "$PYTHON" -m locinv_pl pretrain recipe=core_gpu "output=$folder" "stages=[\"$stage\"]" \
        recipe.trainer.enable_progress_bar=false "$@" >"$folder-$stage.txt" 2>&1
}
draw() { # draw FOLDER NUMBER FAULT_RATE SEED
    "$PYTHON" - "$@" <<'END'
import sys
from pathlib import Path

from locinv_pl.pretrain.corpus import draw_corpus

if __name__ == "__main__":
    folder, number, rate, seed = sys.argv[1:]
    draw_corpus(Path(folder), int(number), seed, 128, "core", {1: 0.3, 2: 0.4, 3: 0.3}, float(rate))
END
}

draw "$OUT/small" $SMALL 0 train
for n in 8 16; do mkdir -p "$OUT/vae$n"; ln -sfn "$(realpath "$OUT/small")" "$OUT/vae$n/scenes"; done
time_of_vae="optimization.max_minutes=$VAE_MINUTES"
train "$OUT/vae8" vae recipe.num_scenes=$SMALL "recipe.vae.$time_of_vae" & vaes=$!
train "$OUT/vae16" flow_vae recipe.num_scenes=$SMALL "recipe.flow.vae.$time_of_vae" & vaes="$vaes $!"
draw "$OUT/faulty_scenes" $FAULTY 0.3 train/faulty
train "$OUT" recognizer recipe.recognizer.num_scenes=$FAULTY & judge=$!
draw "$OUT/scenes" $SCENES 0 train
for process in $vaes; do wait "$process"; done
say "VAEs"

mkdir -p "$OUT/embedded" "$OUT/embedded_sd3" "$OUT/decoder"
cp -r "$OUT/vae8/embedded/vae" "$OUT/embedded/"
cp -r "$OUT/vae16/embedded_sd3/vae" "$OUT/embedded_sd3/"
ln -sfn "$(realpath "$OUT/small")" "$OUT/decoder/scenes"
train "$OUT" diffusion "recipe.diffusion.optimization.max_minutes=$(left 35)" & models=$!
train "$OUT" flow "recipe.flow.optimization.max_minutes=$(left 45)" & models="$models $!"
train "$OUT/decoder" vae recipe.num_scenes=$SMALL "recipe.vae.start=$OUT/vae8/embedded/vae" \
    recipe.vae.train_encoder=false recipe.vae.optimization.learning_rate=1e-3 \
    recipe.vae.optimization.max_minutes=6 & models="$models $!"
wait "$judge"
say "recogniser"
for process in $models; do wait "$process"; done
rm -r "$OUT/embedded/vae"
cp -r "$OUT/decoder/embedded/vae" "$OUT/embedded/" # the same latents, a longer trained decoder
say "all networks"
