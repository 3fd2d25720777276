# shellcheck shell=bash
# Narval (École de technologie supérieure), a cluster of the Digital Research Alliance of Canada. Copied to site.sh beside
# hpc_training.sh, which reads it in the job. Versions of modules change: module spider cuda

module load StdEnv/2023
# For run_trainer-cuda. It has to have been built with the same major version (docs/cuda.md).
module load cuda cudnn

# Compute nodes have no route to the internet. Where the site has this module, it leads to a proxy that lets through what
# the site has listed: ask for your Rodan (https). RabbitMQ takes no proxy; check on the login node delivers the replies.
module load httpproxy
