"""The autoscaler's model against documented examples, a day of load through it, and a short story over real parts."""

import random
import sys

import pytest

import day
from autoscaler import Autoscaler, Fallback, Rules
from cluster import Cluster, Settings
from conftest import ROOT, one, rendered, run


def autoscaler(**changes):
    """One with nothing in its way: no windows, no policies that bind."""
    free = [{"type": "Pods", "value": 10_000, "periodSeconds": 15}]
    given = {"threshold": 100, "least": 1, "most": 10_000, "up": Rules(0, free), "down": Rules(0, free), **changes}
    return Autoscaler(**given)


def ours():
    """The one of k8s/."""
    return Autoscaler.of_scaled_object(one(rendered("k8s/overlays/production"), "ScaledObject"))


def rounds(scaler, replicas, answer, count, start=0, step=15):
    """The replicas after each of `count` rounds with the same answer."""
    seen = []
    for n in range(count):
        replicas = scaler.decide(start + n * step, replicas, answer)
        seen.append(replicas)
    return seen


# Kubernetes' documentation, "Horizontal Pod Autoscaling", algorithm details and scaling policies.

@pytest.mark.parametrize("replicas, average, desired", [(3, 200, 6), (4, 50, 2), (10, 109, 10), (10, 91, 10), (10, 112, 12)])
def test_the_documented_ratio_and_its_tolerance(replicas, average, desired):
    assert autoscaler().decide(0, replicas, average * replicas) == desired


def test_fifty_pods_at_ninety_of_seventy_five_become_sixty():
    assert autoscaler(threshold=75).decide(0, 50, 50 * 90) == 60


def test_down_from_eighty_by_the_greater_of_ten_percent_and_four_pods():
    down = Rules(0, [{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}])
    seen = rounds(autoscaler(down=down), 80, 10 * 100, 20, step=60)
    assert seen[:2] == [72, 64], "8 of 80, then 7.2 of 72, which is rounded up to 8"
    below = seen[next(i for i, replicas in enumerate(seen) if replicas <= 40):]
    assert [a - b for a, b in zip(below, below[1:])][:5] == [4, 4, 4, 4, 4]
    assert seen[-1] == 10


def test_the_strict_policy_wins_where_min_is_selected_and_none_where_disabled():
    policies = [{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]
    assert autoscaler(down=Rules(0, policies, "Min")).decide(0, 80, 1000) == 76
    assert autoscaler(down=Rules(0, policies, "Disabled")).decide(0, 80, 1000) == 80


# The enhancement proposal "Configurable scale velocity for HPA", its stories.

def test_up_by_nine_hundred_percent_is_one_ten_hundred_thousand():
    up = Rules(0, [{"type": "Percent", "value": 900, "periodSeconds": 60}])
    assert rounds(autoscaler(up=up), 1, 100 * 10_000, 3, step=60) == [10, 100, 1000]


def test_up_by_one_pod_a_period():
    up = Rules(0, [{"type": "Pods", "value": 1, "periodSeconds": 60}])
    assert rounds(autoscaler(up=up), 1, 100 * 100, 9) == [2, 2, 2, 2, 3, 3, 3, 3, 4]


def test_down_waits_for_the_largest_recommendation_of_its_window():
    free = [{"type": "Percent", "value": 100, "periodSeconds": 15}]
    scaler = autoscaler(down=Rules(300, free))
    assert rounds(scaler, 10, 10 * 100, 4) == [10] * 4
    # The last recommendation of ten was at 45 s; it counts until 345 s.
    seen = rounds(scaler, 10, 2 * 100, 30, start=60)
    assert seen[:19] == [10] * 19 and seen[-1] == 2


# KEDA's documentation: the Prometheus scaler and the fallback.

def test_thirty_thousand_connections_at_six_thousand_are_five_replicas():
    assert ours().decide(0, 3, 30_000) == 5


def test_an_average_instead_of_the_sum_would_be_divided_twice():
    assert autoscaler(threshold=6000, least=3).decide(0, 5, 30_000 / 5) == 3


def test_an_empty_answer_scales_in_unless_null_values_count():
    assert autoscaler(least=3, null_is_zero=True).decide(0, 20, None) == 3
    assert autoscaler(least=3, null_is_zero=False).decide(0, 20, None) == 20
    assert ours().null_is_zero is False


def test_the_fallback_counts_after_the_third_failure():
    fallback = Fallback(3, 10)
    assert rounds(autoscaler(fallback=fallback), 4, "error", 3) == [4, 4, 10]
    assert Fallback(3, 10, "currentReplicasIfHigher").chosen(20) == 20


def test_our_fallback_never_scales_in():
    assert rounds(ours(), 23, "error", 200)[-1] == 23
    assert rounds(ours(), 3, "error", 30)[-1] == 10


# Ours.

def test_up_four_pods_a_minute_and_at_once():
    assert rounds(ours(), 3, 40 * 6000, 9) == [7, 7, 7, 7, 11, 11, 11, 11, 15]


def test_down_one_pod_in_two_minutes_after_ten():
    scaler = ours()
    rounds(scaler, 10, 60_000, 1)
    seen = rounds(scaler, 10, 20_000, 100, start=15)
    changes = [15 * (i + 1) for i, (a, b) in enumerate(zip([10] + seen, seen)) if a != b]
    assert changes[0] >= 600 and all(b - a >= 120 for a, b in zip(changes, changes[1:]))
    assert set(a - b for a, b in zip([10] + seen, seen)) <= {0, 1}


def test_never_below_three_nor_above_forty():
    assert rounds(ours(), 3, 0, 300)[-1] == 3
    assert rounds(ours(), 3, 1_000_000, 100)[-1] == 40


def test_a_storm_that_empties_all_pods_for_a_minute_scales_nothing():
    scaler = ours()
    assert rounds(scaler, 20, 120_000, 1) + rounds(scaler, 20, 0, 4, start=15) + rounds(scaler, 20, 120_000, 1, start=75) == [20] * 6


def test_the_hpa_and_keda_decide_alike(everything):
    hpa = Autoscaler.of_hpa(one(everything, "HorizontalPodAutoscaler"))
    keda, chance, replicas = ours(), random.Random(7), 3
    for n in range(500):
        answer = chance.randrange(250_000)
        wanted = keda.decide(15 * n, replicas, answer)
        assert hpa.decide(15 * n, replicas, answer) == wanted
        replicas = wanted


def small(**changes):
    """A cluster of two pods of a hundred clients."""
    cluster = Cluster(Settings(**{"capacity": 100, "drain_delay_s": 5, "drain_window_s": 30, "close_deadline_s": 5, "grace_s": 60,
                                  "start_s": 10, **changes}), random.Random(1))
    cluster.scale(-100, 2)
    cluster.arrive(0, 80)
    cluster.step(0)
    return cluster


def run_for(cluster, start, seconds):
    """Steps the cluster."""
    for now in range(start, start + seconds):
        cluster.step(now)


def test_a_drained_pods_clients_are_told_and_arrive_at_the_other():
    cluster = small()
    assert [pod.clients for pod in cluster.pods] == [40, 40]
    cluster.scale(1, 1)
    run_for(cluster, 1, 60)
    assert [pod.clients for pod in cluster.pods] == [80] and (cluster.told, cluster.untold) == (40, 0)


def test_a_grace_period_shorter_than_the_drain_drops_clients_untold():
    cluster = small(grace_s=20)
    cluster.scale(1, 1)
    run_for(cluster, 1, 60)
    assert cluster.untold > 0, "the model must see what the manifests avoid"


def test_a_full_cluster_refuses_and_the_clients_come_back():
    cluster = small()
    cluster.arrive(1, 200)
    run_for(cluster, 1, 5)
    assert cluster.clients == 200 and cluster.refused >= 80
    cluster.scale(6, 3)
    run_for(cluster, 6, 120)
    assert cluster.clients == 280 and cluster.away == 0


def test_no_client_of_a_whole_day_is_dropped_untold():
    record = day.simulate()
    assert record.untold == 0 and record.told > 0
    storm = next(i for i, hour in enumerate(record.at) if hour * 3600 >= day.STORM_S)
    before, after = record.replicas[storm - 1], record.replicas[storm : storm + 40]
    assert all(replicas >= before for replicas in after), "a storm is no reason to scale in"
    assert record.connected[storm + 8] > 0.99 * record.wanted[storm + 8], "two minutes later everybody is back"
    blind = [r for hour, r in zip(record.at, record.replicas) if day.BLIND_S[0] <= hour * 3600 < day.BLIND_S[1]]
    assert blind == sorted(blind), "blind, nothing is scaled in"
    assert min(record.replicas) == 3 and record.refused[-1] == 0


def test_over_real_gateways_clients_and_prometheus_a_storm_and_a_scale_in_drop_nobody_untold(tidegate):
    told = run(sys.executable, ROOT / "tests/deploy/autoscale_live.py", "--smoke", "--binary", tidegate).stdout
    assert "untold losses 0\n" in told and "gateways 3 → 5 → 3" in told


@pytest.mark.parametrize("script, arguments, complaint", [
    ("autoscale_live.py", ["--binary", "/nonexistent"], "no gateway binary"),
    ("autoscale_live.py", ["--plot", "picture.gif"], "no .svg or .png"),
    ("autoscale_live.py", ["--json", "/nonexistent/file"], "is no directory"),
    ("autoscale_live.py", ["--smoke", "--plot", "day.svg"], "leave --smoke out"),
    ("day.py", ["--plot", "picture.gif"], "no .svg or .png"),
    ("day.py", ["--seed", "one"], "invalid int value"),
    ("balancers_load.py", ["--connections", "0"], "1 to 900"),
    ("balancers_load.py", ["--rate", "0"], "at least 1"),
])
def test_a_wrong_argument_is_told_before_anything_starts(script, arguments, complaint, tidegate):
    refused = run(sys.executable, ROOT / "tests/deploy" / script, *arguments, check=False)
    assert refused.returncode == 2 and complaint in refused.stderr
