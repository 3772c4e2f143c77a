"""The stand-in for the Kubernetes API, asked by the real client: it must refuse what the real one refuses."""

import pytest
from cluster.fake_k8s import serve
from kubernetes import client, watch
from kubernetes.client import ApiException


@pytest.fixture
def api():
    with serve() as served:
        yield served


@pytest.fixture
def leases(api):
    configuration = client.Configuration()
    configuration.host, configuration.retries = api.url, False
    return client.CoordinationV1Api(client.ApiClient(configuration))


def lease(holder, version=None):
    metadata = client.V1ObjectMeta(name="promotion", resource_version=version)
    return client.V1Lease(metadata=metadata, spec=client.V1LeaseSpec(holder_identity=holder))


def status(call, *arguments, **options):
    with pytest.raises(ApiException) as refused:
        call(*arguments, **options)
    return refused.value.status


def test_a_lease_is_made_once_and_changed_by_whom_has_seen_its_last_version(api, leases):
    first = leases.create_namespaced_lease("team", lease("a"))
    assert status(leases.create_namespaced_lease, "team", lease("b")) == 409
    seen = first.metadata.resource_version
    second = leases.replace_namespaced_lease("promotion", "team", lease("b", seen))
    assert int(second.metadata.resource_version) > int(seen) and second.metadata.uid == first.metadata.uid
    assert status(leases.replace_namespaced_lease, "promotion", "team", lease("c", seen)) == 409
    assert leases.read_namespaced_lease("promotion", "team").spec.holder_identity == "b"
    patched = leases.patch_namespaced_lease("promotion", "team", {"spec": {"holderIdentity": None}})
    assert patched.spec.holder_identity is None
    assert status(leases.read_namespaced_lease, "other", "team") == 404
    wrong = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="another"))
    assert status(leases.delete_namespaced_lease, "promotion", "team", body=wrong) == 409
    leases.delete_namespaced_lease("promotion", "team")
    assert status(leases.delete_namespaced_lease, "promotion", "team") == 404


def test_a_watch_tells_what_changed_behind_a_version_and_410_of_one_that_is_forgotten(api, leases):
    start = leases.create_namespaced_lease("team", lease("a")).metadata.resource_version
    leases.replace_namespaced_lease("promotion", "team", lease("b"))
    leases.delete_namespaced_lease("promotion", "team")
    look = {"resource_version": start, "timeout_seconds": 1}
    told = [event["type"] for event in watch.Watch().stream(leases.list_namespaced_lease, "team", **look)]
    assert told == ["MODIFIED", "DELETED"]
    api.forget_history()
    assert status(lambda: list(watch.Watch().stream(leases.list_namespaced_lease, "team", **look))) == 410


def test_foreground_deletion_waits_for_dependents_and_orphans_are_collected(api):
    owner = api.put("trainjobs", {"metadata": {"name": "job"}})
    reference = {"kind": "TrainJob", "name": "job", "uid": owner["metadata"]["uid"]}
    api.put("pods", {"metadata": {"name": "pod", "ownerReferences": [reference]}})
    custom = client.CustomObjectsApi(_client(api))
    where = ("trainer.kubeflow.org", "v1alpha1", "team", "trainjobs", "job")
    custom.delete_namespaced_custom_object(*where, body=client.V1DeleteOptions(propagation_policy="Foreground"))
    assert custom.get_namespaced_custom_object(*where)["metadata"]["deletionTimestamp"]
    api.collect()
    assert api.find("pods", "pod") is None and api.find("trainjobs", "job") is None


@pytest.mark.parametrize("fault", ["429", "500", "503"])
def test_faults_come_as_statuses(api, leases, fault):
    api.faults = lambda *_: fault
    assert status(leases.list_namespaced_lease, "team") == int(fault)


def test_a_dropped_connection_is_no_status_and_a_request_may_have_taken_effect(api, leases):
    api.faults = lambda *_: "drop-after"
    with pytest.raises(Exception) as cut:
        leases.create_namespaced_lease("team", lease("a"))
    assert not isinstance(cut.value, ApiException)
    assert api.find("leases", "promotion")["spec"]["holderIdentity"] == "a"


def test_a_wrong_trainjob_is_refused_by_its_crds_schema(api):
    custom = client.CustomObjectsApi(_client(api))
    job = {"metadata": {"name": "job"}, "spec": {"runtimeRef": {"name": "r"}, "trainer": {"numNode": 2}}}
    where = ("trainer.kubeflow.org", "v1alpha1", "team", "trainjobs")
    assert status(custom.create_namespaced_custom_object, *where, job) == 422


def _client(api):
    configuration = client.Configuration()
    configuration.host, configuration.retries = api.url, False
    return client.ApiClient(configuration)
