"Settings of hypothesis: the same examples every time, no deadline, no health check of speed or filtering."
from hypothesis import HealthCheck, settings

settings.register_profile("vidneg", derandomize=True, deadline=None,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
settings.load_profile("vidneg")
