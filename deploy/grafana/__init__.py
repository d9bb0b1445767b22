"""Grafana for Tapewatch: four dashboards, their data sources and alert rules, as code. How to use it: docs/grafana.md.

    python -m grafana.build         writes dashboards/*.json and provisioning/**; needs requirements/dev.lock
    python -m grafana.provision     what scripts/start_grafana.sh runs: renders, and starts Grafana

Both with deploy/ on the path (PYTHONPATH=deploy).
"""
