#!/usr/bin/env bash
# The paper's setting on eight GPUs: DeiT-Small on ImageNet, pruned once, 300 epochs, 2,048 images per step, no teacher.
#
#     sbatch examples/slurm_8gpu.sh                                    # from the root of this repository
#     RECIPE=deit-20 EXTRA="--distill" sbatch examples/slurm_8gpu.sh   # the short one, with a teacher
#
# ImageNet is gated: accept its terms on the Hub and log in (hf auth login), or name your own folders of its synsets:
#
#     EXTRA="--train_dir imagenet/train --validation_dir imagenet/val" DATASET= sbatch examples/slurm_8gpu.sh
#
# A job that is started again goes on from its last checkpoint.
#SBATCH --job-name=optimum-snp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=72:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

MODEL=${MODEL:-facebook/deit-small-patch16-224}
PRESET=${PRESET:-deit-small-2.0g}
METHOD=${METHOD:-snp}
RECIPE=${RECIPE:-deit-300}
DATASET=${DATASET-imagenet-1k}
OUTPUT=${OUTPUT:-runs/$PRESET-$METHOD-$RECIPE}

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}

# Said again, since the srun of newer versions of Slurm does not take it from the job.
# shellcheck disable=SC2086  # EXTRA is several words
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" accelerate launch --config_file examples/accelerate_8gpu.yaml examples/run_image_classification_snp.py \
    --model_name_or_path "$MODEL" \
    ${DATASET:+--dataset_name "$DATASET"} \
    --preset "$PRESET" \
    --method "$METHOD" \
    --recipe "$RECIPE" \
    --do_train --do_eval \
    --per_device_train_batch_size 256 \
    --per_device_eval_batch_size 256 \
    --bf16 \
    --dataloader_num_workers 10 \
    --dataloader_persistent_workers \
    --eval_strategy epoch \
    --save_strategy epoch \
    --save_total_limit 2 \
    --resume_from_checkpoint True \
    --report_to none \
    --output_dir "$OUTPUT" \
    ${EXTRA:-}
