from tradeoff import Alright, Sequential, StepSize, pareto_front, random_log_linear, simulate

problem = random_log_linear(seed=0, conflict=0.75)  # SFT and DPO data that disagree
front = pareto_front(problem, accuracy=1e-3)  # every reachable trade-off, with a certificate

runs = simulate(
    problem,
    [Sequential(first="sft", lam=0.5), Alright(lam=0.5)],
    steps=2_000,
    step_size=StepSize(0.5, decay=0.5),
    replicas=256,
)
end = runs[(runs.step == 2_000) & (runs.iterate == "last")]
losses = end.groupby("schedule", observed=True)[["sft_loss", "preference_loss"]].mean()
print(losses)
print(front.score(losses, lam=0.5)[["front_gap", "matched_weight", "regret"]])
