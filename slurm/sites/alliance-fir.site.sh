# shellcheck shell=bash
# Fir (Simon Fraser University), a cluster of the Digital Research Alliance of
# Canada. Copied to site.sh beside hpc_training.sh, which reads it in the job. Versions of modules
# change: module spider cuda

module load StdEnv/2023
# What the trainer opens on a GPU: CUDA 12 or 13, cuDNN 9 (docs/gpu.md).
module load cuda cudnn

# Compute nodes reach the internet: no proxy.
