#!/bin/sh
# Spark's GPU discovery script: prints this node's GPUs in the form that Spark reads.
# spark.{driver,executor,worker}.resource.gpu.discoveryScript points here.
set -eu
if ! command -v nvidia-smi >/dev/null 2>&1; then
    echo "discover_gpus.sh: found no nvidia-smi on $(hostname); expected an NVIDIA driver. What to do: install it, or" >&2
    echo "submit without spark.*.resource.gpu.* settings." >&2
    exit 2
fi
nvidia-smi --query-gpu=index --format=csv,noheader |
    awk 'BEGIN { printf "{\"name\": \"gpu\", \"addresses\": [" }
         { printf "%s\"%s\"", (NR > 1 ? ", " : ""), $1 }
         END { print "]}" }'
