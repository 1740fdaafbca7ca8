"""What a schedule runs, and the files that Airflow, Kubernetes and Cloud Scheduler take."""
