# `make demo` and `make test` are all that a newcomer needs; each sets itself up, once. `make help` lists the rest.
VENV ?= .venv
PYTHON ?= python3.11
WEEK ?= 2026-W10
DATA ?= data/movielens_posters
SEEDS ?= 0 1 2
JAVA := sh cluster/java.sh --check
RUN := PATH="$(abspath $(VENV))/bin:$$PATH" SPARK_CONF_DIR="$(CURDIR)/conf/spark"
# on one machine a short run gains most from a JVM that compiles lightly and collects on one core
SUBMIT := $(JAVA) && $(RUN) spark-submit --driver-memory 3g --driver-java-options "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC"
export PYTHON
.DEFAULT_GOAL := help
.PHONY: help setup doctor demo week recommend movielens faces terms test lint types bench-embed bench-train bench-pairs evidence-encoders evidence-recommendations experiments drawn drawn-fine params docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: constraints.txt setup.py cluster/setup.sh cluster/build_horovod.sh
	@sh cluster/setup.sh $(VENV)

setup: $(VENV)/.ready ## the virtual environment, Horovod's wheel, Java (each only where missing)

doctor: $(VENV)/.ready ## what is installed, what is missing or known to break, and the way out
	@$(RUN) umair doctor

demo: $(VENV)/.ready ## a drawn world and one weekly run on it -> runs/demo/report/index.html
	@$(RUN) umair world --config conf/local.yaml
	@$(SUBMIT) jobs/weekly.py --config conf/local.yaml --week $(WEEK)

week: $(VENV)/.ready ## one weekly run on the demo's data: make week WEEK=2026-W11
	@$(SUBMIT) jobs/weekly.py --config conf/local.yaml --week $(WEEK)

recommend: $(VENV)/.ready ## what suits each of the demo's active users best, after make demo -> table recommendations; WEEK=2026-W10
	@$(SUBMIT) jobs/recommend_illustrations.py --config conf/local.yaml --week $(WEEK)

evidence-recommendations: $(VENV)/.ready ## docs/evidence/recommendations.md: how good the demo's lists are and how they age, after make demo recommend
	@$(JAVA) && $(RUN) python benchmarks/recommendations.py --week $(WEEK)

movielens: $(VENV)/.ready ## a real data set through the same jobs: make movielens DATA=folder
	@$(RUN) python examples/movielens/convert.py $(DATA) runs/movielens/raw
	@$(SUBMIT) jobs/weekly.py --config conf/movielens.yaml --week 2018-W39

faces: $(VENV)/.ready ## the image pretext on real faces: make faces DATA=folder -> docs/evidence/faces.md
	@$(JAVA) && $(RUN) python examples/faces/train.py $(DATA) --seeds $(SEEDS)

terms: $(VENV)/.ready ## the text encoder on real pairs: make terms DATA=folder -> docs/evidence/terms.md
	@$(JAVA) && $(RUN) python examples/terms/train.py $(DATA) --seeds $(SEEDS)

test: lint types ## every test, with real Spark, Horovod and Petastorm
	@mkdir -p runs && $(RUN) python -m pytest -q --junitxml=runs/test.xml && $(RUN) python tests/summary.py runs/test.xml

lint: $(VENV)/.ready ## ruff
	@$(RUN) ruff check .

types: $(VENV)/.ready ## mypy, strict, on umair/
	@$(RUN) mypy

bench-embed: $(VENV)/.ready ## benchmarks/results/embed.json: Spark against a bare loop over the same encoder
	@$(JAVA) && $(RUN) python benchmarks/embed.py $(if $(wildcard $(DATA)/movies.csv),--movies $(DATA)/movies.csv)

bench-train: $(VENV)/.ready ## benchmarks/results/train.json: rankers fed and held, scored, on one rank and on two
	@test -d runs/deepctr/deepctr_torch || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target runs/deepctr \
	    deepctr-torch==0.3.0 requests urllib3 charset-normalizer certifi || echo "no deepctr-torch to be had: the comparison with it is left out" >&2
	@$(JAVA) && $(RUN) python benchmarks/train.py $$(test -d runs/deepctr/deepctr_torch && echo --deepctr runs/deepctr)

bench-pairs: $(VENV)/.ready ## benchmarks/results/pairs.json: every user with every candidate, sides made once over row by row
	@$(RUN) python benchmarks/pairs.py

evidence-encoders: $(VENV)/.ready ## docs/evidence/encoders.md: what image vectors find; SEEDS="0 1 2"
	@$(JAVA) && $(RUN) python benchmarks/encoders.py --seeds $(SEEDS)

drawn: $(VENV)/.ready ## docs/evidence/rankers_on_drawn.md: rankers compared on a larger drawn world's week (160 trainings, some two and a half hours)
	@$(RUN) umair world --config conf/drawn.yaml
	@$(SUBMIT) jobs/weekly.py --config conf/drawn.yaml --week 2026-W10
	@$(RUN) umair experiments conf/experiments/drawn.yaml --page docs/evidence/rankers_on_drawn.md

drawn-fine: $(VENV)/.ready ## docs/evidence/rankers_on_drawn_fine.md: the same world through encoders that see more (23 trainings, three quarters of an hour with the week)
	@$(RUN) umair world --config conf/drawn_fine.yaml
	@$(SUBMIT) jobs/weekly.py --config conf/drawn_fine.yaml --week 2026-W10
	@$(RUN) umair experiments conf/experiments/drawn_fine.yaml conf/experiments/drawn_fine_rivals.yaml --page docs/evidence/rankers_on_drawn_fine.md

experiments: $(VENV)/.ready ## docs/evidence/rankers.md and table4.md: rankers on numeric worlds (340 trainings, four and a half hours on two cores)
	@$(RUN) umair experiments conf/experiments/paper.yaml conf/experiments/paper_free.yaml --page docs/evidence/table4.md
	@$(RUN) umair experiments conf/experiments/paper_without_semantic.yaml --page docs/evidence/table4_without_semantic.md
	@$(RUN) umair experiments conf/experiments/numeric.yaml --page docs/evidence/rankers.md

params: $(VENV)/.ready ## weights of the paper's rankers, rivals and ablations beside the paper's counts, as JSON
	@$(RUN) umair params

docs: $(VENV)/.ready ## docs/tables.md and docs/keys.md, from the source
	@$(RUN) umair tables > docs/tables.md
	@$(RUN) umair keys > docs/keys.md

clean: ## removes the virtual environment; runs/, with all that was made, and the Horovod wheel in the cache stay
	rm -rf $(VENV)
