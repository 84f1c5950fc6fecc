#!/usr/bin/env bash
# The whole workflow on drawn people: make a data set, train, embed, evaluate, look.
#
#   ./demo.sh
#
# Everything it makes is in demo/, and is made anew each time, except for the drawn
# images, which stay if they are complete.
set -eu -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
. ./setup_venv.sh
setup_venv locked.txt

run() {
  # On stderr: what follows on stdout may be kept in a file.
  printf '\n$ python %s\n' "$*" >&2
  "$python" "$@"
}

# Embed both sets with checkpoint $1 and print the scores; $2 names the files.
score() {
  for set in query test; do
    run embed.py --experiment_root demo/experiment --dataset "demo/demo_$set.csv" \
      --checkpoint "checkpoint-$1" --filename "$here/demo/$2_$set.h5" \
      --crop_augment center --quiet
  done
  run evaluate.py --excluder market1501 \
    --query_dataset demo/demo_query.csv --query_embeddings "demo/$2_query.h5" \
    --gallery_dataset demo/demo_test.csv --gallery_embeddings "demo/$2_test.h5" \
    --filename "demo/$2.json" | tee "demo/$2.txt"
}

if [ -e demo/experiment ]; then
  echo "== demo/experiment and what an earlier demo made beside it are made anew"
fi
rm -rf demo/experiment demo/*.h5 demo/*.json demo/*.txt demo/*.csv demo/ranking.*
mkdir -p demo

echo
echo '== 1. A data set of drawn people, in the layout of Market-1501'
run -m drawn_people demo/data
echo
echo '== 2. Its CSV files (Market-1501 itself has more images, hence the warnings)'
run make_csv.py market1501 demo/data --output_dir demo --prefix demo

echo
echo '== 3. Train a small net from scratch'
iterations=300
run train.py --experiment_root demo/experiment \
  --train_set demo/demo_train.csv --image_root demo/data \
  --model_name small_stripes --head_name fc1024 --embedding_dim 128 \
  --batch_p 16 --batch_k 4 --flip_augment --crop_augment \
  --pre_crop_height 72 --pre_crop_width 36 \
  --net_input_height 64 --net_input_width 32 \
  --learning_rate 1e-3 --train_iterations "$iterations" --decay_start_iteration 180 \
  --checkpoint_frequency 0 --seed 1

echo
echo '== 4. Embed and evaluate: before training'
score 0 untrained
echo
echo '== 5. Embed and evaluate: after training'
score "$iterations" trained
run visualize.py --excluder market1501 --image_root demo/data \
  --query_dataset demo/demo_query.csv --query_embeddings demo/trained_query.h5 \
  --gallery_dataset demo/demo_test.csv --gallery_embeddings demo/trained_test.h5 \
  --filename demo/ranking.html demo/ranking.png

echo
echo '== Done. People that the net has never seen, found among 570 images:'
echo "untrained: $(head -n 1 demo/untrained.txt)"
echo "trained:   $(head -n 1 demo/trained.txt)"
echo "the trained network: --experiment_root demo/experiment in the commands of README"
echo "page of ranked results, the worst first: $here/demo/ranking.html"
echo "picture of some, from the worst to the best: $here/demo/ranking.png"
