# shellcheck shell=bash
# Narval (École de technologie supérieure), a cluster of the Digital Research
# Alliance of Canada. Copied to site.sh beside hpc_training.sh, which reads it in the job. Versions
# of modules change: module spider cuda

module load StdEnv/2023
# What the trainer opens on a GPU: CUDA 12 or 13, cuDNN 9 (docs/gpu.md).
module load cuda cudnn

# Compute nodes have no route to the internet. Where the site has this module, it leads to a proxy
# that lets through what the site has listed: ask for your Rodan (https). RabbitMQ takes no proxy;
# check on the login node delivers the replies.
module load httpproxy
