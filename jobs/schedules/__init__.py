"""The commands of a schedule, and their files for Airflow, Kubernetes and Cloud Scheduler."""
