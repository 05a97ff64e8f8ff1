// Package endpointretention keeps the pods of dark autonomous nodes in their Services, for as long as their owners asked for.
//
// When a node is lost, the stock controller marks its pods as not ready, once, and the EndpointSlices lose them. A
// MutatingAdmissionPolicy, which the API server evaluates by itself, leaves Ready as it was when that controller takes it from a pod
// that this controller has marked. So nothing needs to be running at the moment of the loss, and pods without the mark cost nothing.
//
// It watches nodes (annotations, the Ready condition) and the pods bound to them.
//
// It writes
//   - the policy and its binding, and puts them back if somebody changes them;
//   - the annotation node.openyurt.io/retain-ready: "true" on pods, once they are ready, whose readiness is to be kept: DaemonSet and
//     static pods too. Any other value is the owner's word that it is not to be, and stays;
//   - Ready=False on marked pods of a dark node when the mark goes: the stock controller would not come back to them.
//
// It guarantees that only Ready=True is kept: a pod that was unready at the cut, or keeps crashing, is not shown as ready. A kubelet
// that can be heard is always right: what it reports of its pods is never held back.
//
// It never touches EndpointSlices, and writes no marks where the API server has no such policies (before Kubernetes 1.36): then it
// says that retention is off. Whether the policy has an effect it tries by a dry run on one API server, and never assumes.
package endpointretention
