"""Recommends active users illustrations as of the week's end, by the week's ranker: table `recommendations`.

    spark-submit jobs/recommend_illustrations.py --config conf/local.yaml --week 2026-W10 [section.key=value ...]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from umair.errors import ConfigError
from umair.evaluation.scoring import plan_for
from umair.job import REJECTED, Job, main, require_finished
from umair.recommendations import RecommendPlan, among, recommend, require_sides
from umair.schema import RECOMMENDATIONS
from umair.training.checkpoint import load_ranker
from umair.training.loop import MAIN
from umair.windows.moment import active_users, candidates_at, users_at


def recommend_illustrations(job: Job) -> dict[str, Any]:
    """Commits the best illustrations of each active user; refuses a rejected ranker unless it is asked for."""
    require_finished(job, "evaluate_ranker")
    config, evaluated = job.config.recommend, job.finished("evaluate_ranker")
    if evaluated and evaluated.outputs["exit_code"] == REJECTED and not config.rejected:
        raise ConfigError(f"week {job.week}", "a ranker that the evaluation rejected", "an accepted one", "mend what the "
                          "report names; recommendations of the week before stay. Or set recommend.rejected=true")
    folder = job.model_folder("train_ranker") / MAIN
    require_sides(load_ranker(folder))  # now, and not after all history was gone through
    scoring = replace(plan_for(job.store.root, folder, job.config.training.features),
                      batch_rows=config.batch_rows, threads=config.threads)
    events, illustrations, moment = job.read("events"), job.read("illustrations"), job.week.end
    chosen = among(illustrations, config.candidates)
    with job.phase("count users"):
        active = active_users(events, moment, config.active_days).count()
    users = users_at(events, illustrations, moment, job.config.windows.lengths(), config.active_days)
    candidates = candidates_at(events, chosen, moment, config.candidate_days)
    with job.phase("candidates"):
        found = recommend(users, candidates, RecommendPlan(scoring, config.count, config.seen), active)
    named = (found.join(job.read("users").select("user_index", "user_id"), "user_index", how="inner")
             .join(illustrations.select("illust_index", "illust_id"), "illust_index", how="inner"))
    whole = named.select(*RECOMMENDATIONS.column_names).repartition("user_index").sortWithinPartitions("user_index", "place")
    snapshot = job.commit(RECOMMENDATIONS.name, whole, ranker=str(folder), moment=moment.isoformat(),
                          recommend=config.model_dump(mode="json"))
    return {"versions": {RECOMMENDATIONS.name: snapshot.version}, "rows": snapshot.rows}


if __name__ == "__main__":
    main(recommend_illustrations)
