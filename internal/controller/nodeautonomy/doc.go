// Package nodeautonomy keeps the stock control plane from evicting the pods of autonomous nodes while these are dark, for as long as
// their owners asked for, and lets it evict them then.
//
// It watches nodes (annotations, the Ready condition) and the pods bound to them.
//
// It writes
//   - tolerationSeconds of the NoExecute tolerations for not-ready and unreachable that count in a pod, putting a toleration in front
//     where none is there that it may change: none while the pod is protected, 0 when its node's time is over, the original one when
//     nobody asks for protection any more. The originals are kept in annotations of the pod;
//   - the condition PodsProtected of nodes that are dark, or whose annotation cannot be understood, with since when, until when and
//     for how many pods; and an event when protection begins and ends.
//
// It guarantees that a pod that was protected once stays so while no replica of this controller runs: what protects it is in the pod.
// Only the end of a finite term needs somebody to be there, so a late controller protects longer, never shorter.
//
// It never touches taints, never deletes a pod, never changes the pods of a DaemonSet or static pods, and never changes what a pod
// tolerates beyond these two taints. It does not protect against anything but these two taints.
package nodeautonomy
