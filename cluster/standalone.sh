#!/bin/sh
# A standalone Spark cluster from the pip package alone, which has no start-master.sh.
# On the master:       cluster/standalone.sh master HOST
# On every worker:     cluster/standalone.sh worker HOST CORES MEMORY     (the master's HOST, for example: worker head 32 96g)
# To try it on one machine, both in the background on 127.0.0.1; then submit with --master spark://HOST:7077.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH="$here/../.venv/bin:$PATH"
export PATH
role=${1:?master or worker}
host=${2:?host of the master}
case "$role" in
master)
    exec spark-class org.apache.spark.deploy.master.Master --host "$host" --port 7077 --webui-port 8080 ;;
worker)
    if command -v nvidia-smi >/dev/null 2>&1; then
        SPARK_WORKER_OPTS="-Dspark.worker.resource.gpu.amount=$(nvidia-smi -L | grep -c '^GPU ' || true) \
-Dspark.worker.resource.gpu.discoveryScript=\"$here/discover_gpus.sh\""  # quoted: Spark splits these at blanks
        export SPARK_WORKER_OPTS
    fi
    exec spark-class org.apache.spark.deploy.worker.Worker --cores "${3:?cores}" --memory "${4:?memory}" "spark://$host:7077" ;;
*)
    echo "standalone.sh: found '$role'; expected master or worker" >&2
    exit 2 ;;
esac
