#!/usr/bin/env bash
# The paper's recipe for Market-1501: TriNet, a ResNet-50 from ImageNet weights.
#
#   market1501_train.sh PATH_TO_IMAGES RESNET_CHECKPOINT_FILE EXPERIMENT_ROOT [flags]
#
# PATH_TO_IMAGES is the folder with bounding_box_train; RESNET_CHECKPOINT_FILE is
# TF-Slim's resnet_v1_50.ckpt, or the word imagenet. Further flags go to train.py and
# win over the recipe's.
set -eu

if [ "$#" -lt 3 ]; then
  echo "usage: $0 PATH_TO_IMAGES RESNET_CHECKPOINT_FILE EXPERIMENT_ROOT [flags of train.py]" >&2
  exit 1
fi
image_root=$1
initial_checkpoint=$2
experiment_root=$3
shift 3

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
# Outside any environment, the one that demo.sh and test.sh make.
if [ -z "${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$here/.venv/bin/python" ]; then
  python="$here/.venv/bin/python"
fi

for set in train query test; do
  if [ ! -f "$here/data/market1501_$set.csv" ]; then
    "$python" "$here/make_csv.py" market1501 "$image_root"
    break
  fi
done

exec "$python" "$here/train.py" \
  --experiment_root "$experiment_root" \
  --train_set "$here/data/market1501_train.csv" \
  --image_root "$image_root" \
  --initial_checkpoint "$initial_checkpoint" \
  --model_name resnet_v1_50 \
  --last_stride 2 \
  --head_name fc1024 \
  --embedding_dim 128 \
  --precision float32 \
  --batch_p 18 \
  --batch_k 4 \
  --pre_crop_height 288 \
  --pre_crop_width 144 \
  --net_input_height 256 \
  --net_input_width 128 \
  --flip_augment \
  --crop_augment \
  --pad_crop 0 \
  --color_jitter 0 \
  --random_erasing 0 \
  --loss batch_hard \
  --margin soft \
  --metric euclidean \
  --optimizer adam \
  --learning_rate 3e-4 \
  --weight_decay 0 \
  --warmup_iterations 0 \
  --train_iterations 25000 \
  --decay_start_iteration 15000 \
  --adam_beta1_at_decay 0.9 \
  --checkpoint_frequency 1000 \
  "$@"
