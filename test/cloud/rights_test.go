package cloud

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
)

// A right is one thing that may be done.
type right struct{ group, resource, verb, name string }

func (r right) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s.%s %s", r.verb, r.resource, cmp.Or(r.group, "core"), r.name))
}

// TestRolesAreWhatIsUsed holds the rights that the controllers are given against what they did in the tests before it: nothing was
// refused, and nothing is given that was not used. Which of them uses which rule is told in the manifest.
func TestRolesAreWhatIsUsed(t *testing.T) {
	s := begin(t)
	requests, err := s.AuditSince(s.mark)
	must(t, err)
	given := s.rights(t)
	used := map[right]bool{}
	var refused []string
	for _, r := range requests {
		if r.User.Username != "system:serviceaccount:"+system+":"+controller || r.ObjectRef.Resource == "" {
			continue
		}
		is := rightOf(r)
		if r.ResponseStatus.Code == 403 {
			refused = append(refused, is.String())
		}
		for g := range given {
			if g.group == is.group && g.resource == is.resource && g.verb == is.verb && (g.name == "" || g.name == is.name) {
				used[g] = true
			}
		}
	}
	if diff := gocmp.Diff([]string(nil), slices.Compact(refused)); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	var superfluous []string
	for g := range given {
		// An API server that streams lists, as since Kubernetes 1.35, is only asked for a watch.
		if !used[g] && g.verb != "list" {
			superfluous = append(superfluous, g.String())
		}
		if g.group == "*" || g.resource == "*" || g.verb == "*" {
			t.Errorf("%s is a wildcard", g)
		}
	}
	slices.Sort(superfluous)
	if diff := gocmp.Diff([]string(nil), superfluous); diff != "" {
		t.Errorf("given and never used (-want +got):\n%s", diff)
	}
}

func rightOf(r cluster.Request) right {
	is := right{r.ObjectRef.APIGroup, r.ObjectRef.Resource, r.Verb, r.ObjectRef.Name}
	if r.ObjectRef.Subresource != "" {
		is.resource += "/" + r.ObjectRef.Subresource
	}
	return is
}

// rights returns what the manifests give.
func (s *site) rights(t *testing.T) map[right]bool {
	t.Helper()
	cluster, err := s.client.RbacV1().ClusterRoles().Get(t.Context(), controller, metav1.GetOptions{})
	must(t, err)
	local, err := s.client.RbacV1().Roles(system).Get(t.Context(), controller, metav1.GetOptions{})
	must(t, err)
	all := map[right]bool{}
	for _, rule := range slices.Concat(cluster.Rules, local.Rules) {
		for _, r := range spread(rule) {
			all[r] = true
		}
	}
	return all
}

func spread(rule rbacv1.PolicyRule) []right {
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	var all []right
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				for _, name := range names {
					all = append(all, right{group, resource, verb, name})
				}
			}
		}
	}
	return all
}
