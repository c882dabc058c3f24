"""The manifests, and the checks that `make check-k8s` runs over them without a cluster."""
