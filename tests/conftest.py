"Hypothesis: the same examples every time, and no judgement of how fast or how often an input is thrown away."
from hypothesis import HealthCheck, settings

settings.register_profile("vidneg", derandomize=True, deadline=None,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
settings.load_profile("vidneg")
