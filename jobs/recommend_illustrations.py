"""Recommends each user illustrations as of the week's end, by the week's ranker: table `recommendations`.

    spark-submit jobs/recommend_illustrations.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from umair.errors import ConfigError
from umair.evaluation.scoring import plan_for
from umair.job import REJECTED, Job, main, require_finished
from umair.recommendations import RecommendPlan, recommend
from umair.schema import RECOMMENDATIONS
from umair.training.loop import MAIN
from umair.windows.moment import candidates_at, users_at


def recommend_illustrations(job: Job) -> dict[str, Any]:
    """Commits the best illustrations of each user, best first; refuses a rejected ranker unless it is asked for."""
    require_finished(job, "evaluate_ranker")
    config, evaluated = job.config.recommend, job.finished("evaluate_ranker")
    if evaluated and evaluated.outputs["exit_code"] == REJECTED and not config.rejected:
        raise ConfigError(f"week {job.week}", "a ranker that the evaluation rejected", "an accepted one",
                          "recommend for the week before again, or set recommend.rejected=true")
    scoring = plan_for(job.store.root, job.model_folder("train_ranker") / MAIN, job.config.training.features)
    scoring = replace(scoring, batch_rows=job.config.evaluation.batch_rows, threads=job.config.evaluation.threads)
    events, illustrations, moment = job.read("events"), job.read("illustrations"), job.week.end
    users = users_at(events, illustrations, moment, job.config.windows.lengths(), config.active_days)
    candidates = candidates_at(events, illustrations, moment, config.candidate_days)
    found = recommend(users, candidates, RecommendPlan(scoring, config.count, config.known))
    named = (found.join(job.read("users").select("user_index", "user_id"), "user_index", how="inner")
             .join(illustrations.select("illust_index", "illust_id"), "illust_index", how="inner"))
    snapshot = job.commit(RECOMMENDATIONS.name, named.select(*RECOMMENDATIONS.column_names))
    return {"versions": {RECOMMENDATIONS.name: snapshot.version}, "rows": snapshot.rows}


if __name__ == "__main__":
    main(recommend_illustrations)
