# shellcheck shell=bash
# Nibi (University of Waterloo), a cluster of the Digital Research Alliance of Canada. Copied to site.sh beside
# hpc_training.sh, which reads it in the job. Versions of modules change: module spider cuda

module load StdEnv/2023
# For run_trainer-cuda. It has to have been built with the same major version (docs/cuda.md).
module load cuda cudnn

# Compute nodes reach the internet: no proxy.
