#!/bin/sh
# The weekly run on a cluster: each step with the submit settings that suit it (see the .properties files; your own copies of them
# are taken from the folder $UMAIR_SUBMIT).
# Usage: cluster/weekly.sh MASTER CONFIG WEEK [--recommend] [--dry-run] [--retry-rejects] [section.key=value ...]
#   cluster/weekly.sh spark://head:7077 conf/cluster.yaml 2026-W10
#   cluster/weekly.sh yarn conf/cluster.yaml 2026-W10      (the environment: see cluster/README.md)
# --load-spark-defaults: else spark-submit leaves out spark-defaults.conf, which has the secret, where a properties file is named
set -eu
master=${1:?master}
config=${2:?config}
week=${3:?week}
shift 3
recommend=
if [ "${1:-}" = --recommend ]; then  # what suits users best, once the week is accepted
    recommend=yes
    shift
fi
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
PATH="$here/.venv/bin:$PATH"
export PATH
sh cluster/java.sh --check
run() {
    properties=$1 step=$2
    shift 2
    spark-submit --load-spark-defaults --master "$master" --properties-file "${UMAIR_SUBMIT:-cluster}/$properties.properties" \
        "jobs/$step.py" --config "$config" --week "$week" "$@"
}
run tables ingest_tables "$@"
run training pretrain_image_encoder "$@"
run training finetune_text_encoder "$@"
run embedding embed_images "$@"
run embedding embed_texts "$@"
run tables build_windows "$@"
run training train_ranker "$@"
run training evaluate_ranker "$@"
[ -z "$recommend" ] || run training recommend_illustrations "$@"
