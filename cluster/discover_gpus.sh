#!/bin/sh
# Spark's GPU discovery script: prints this node's GPUs in the form that Spark reads.
# spark.{driver,executor,worker}.resource.gpu.discoveryScript points here.
set -eu
if ! command -v nvidia-smi >/dev/null 2>&1; then
    echo "discover_gpus.sh: found no nvidia-smi on $(hostname); expected an NVIDIA driver. What to do: install it, or" >&2
    echo "submit without spark.*.resource.gpu.* settings." >&2
    exit 2
fi
if ! found=$(nvidia-smi --query-gpu=index --format=csv,noheader); then  # which writes its errors to where its answers go
    echo "discover_gpus.sh: found a driver that fails on $(hostname) ($found); expected a list of GPUs. What to do: mend the" >&2
    echo "driver, or submit without spark.*.resource.gpu.* settings." >&2
    exit 2
fi
printf '%s\n' "$found" |
    awk 'BEGIN { printf "{\"name\": \"gpu\", \"addresses\": [" }
         /^[0-9]+$/ { printf "%s\"%s\"", (count++ ? ", " : ""), $1 }
         END { print "]}" }'
