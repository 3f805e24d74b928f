"""Analysis of trained agents: interventions on their state, traces of their fast weights, reports and figures."""
