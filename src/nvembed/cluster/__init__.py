"""Running on a cluster: where the compiled pipeline lies, and handing it to Kubeflow Pipelines."""

from nvembed.cluster.spec import checkout_root, pipeline_file

__all__ = ["checkout_root", "pipeline_file"]
