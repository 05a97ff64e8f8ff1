package endpointretention

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// PolicyName is the name of the policy, and of its binding.
const PolicyName = "pod-readiness-retention.openyurt.io"

// NodeControllers returns the users as whom the stock node controller writes, depending on how its manager was started.
func NodeControllers() []string {
	return []string{"system:serviceaccount:kube-system:node-controller", "system:kube-controller-manager"}
}

// policy returns the policy. A canary is a user whose dry runs it treats like writes of the node controller.
//
// All defaults are spelled out, so that it can be compared with what the API server has. The mutation is an ApplyConfiguration: a
// JSONPatch fails by the type of its result, and with it silently the whole policy.
func policy(users []string, canary string) *admissionv1.MutatingAdmissionPolicy {
	var quoted []string
	for _, user := range users {
		quoted = append(quoted, fmt.Sprintf("%q", user))
	}
	return &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: PolicyName},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy:      ptr.To(admissionv1.Ignore),
			ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			MatchConstraints: &admissionv1.MatchResources{
				MatchPolicy:       ptr.To(admissionv1.Equivalent),
				NamespaceSelector: &metav1.LabelSelector{},
				ObjectSelector:    &metav1.LabelSelector{},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Update},
					Rule: admissionv1.Rule{
						APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/status"}, Scope: ptr.To(admissionv1.NamespacedScope),
					},
				}}},
			},
			MatchConditions: []admissionv1.MatchCondition{
				{Name: "from-the-node-controller", Expression: fmt.Sprintf(
					`request.userInfo.username in [%s] || request.userInfo.username == %q && has(request.dryRun) && request.dryRun`,
					strings.Join(quoted, ", "), canary)},
				{Name: "of-a-marked-pod", Expression: fmt.Sprintf(
					`has(oldObject.metadata.annotations) && %q in oldObject.metadata.annotations && oldObject.metadata.annotations[%q] == %q`,
					RetainKey, RetainKey, Keep)},
				{Name: "from-ready-to-unready", Expression: `has(oldObject.status.conditions) && has(object.status.conditions) && ` +
					`oldObject.status.conditions.exists(c, c.type == "Ready" && c.status == "True") && ` +
					`object.status.conditions.exists(c, c.type == "Ready" && c.status == "False")`},
			},
			Variables: []admissionv1.Variable{
				{Name: "was", Expression: `oldObject.status.conditions.filter(c, c.type == "Ready")[0]`},
			},
			Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeApplyConfiguration,
				ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: `Object{status: Object.status{conditions: [Object.status.conditions{` +
					`type: "Ready", status: "True", lastTransitionTime: variables.was.lastTransitionTime}]}}`},
			}},
		},
	}
}

func binding() *admissionv1.MutatingAdmissionPolicyBinding {
	return &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: PolicyName},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: PolicyName},
	}
}
