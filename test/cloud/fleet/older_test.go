package fleet

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"yurt/internal/playground/binaries"
)

// TestRetentionIsOffOnOlderServers runs the controllers beside an API server that has no MutatingAdmissionPolicies of v1: pods are kept
// from eviction all the same, they leave their Services as usual, and the controllers say so in their log, by a metric and by an event
// on each dark autonomous node.
func TestRetentionIsOffOnOlderServers(t *testing.T) {
	if v := binaries.DefaultKubernetes(); version.MustParseGeneric(v).AtLeast(version.MajorMinor(1, 36)) {
		t.Skipf("Kubernetes %s has such policies: ask for an older one with K8S=1.34", v)
	}
	s := open(t, size{nodes: 100, pods: 2, renewal: 5 * time.Second, grace: 20 * time.Second})
	s.meter = s.startController(t)
	must(t, s.create(t.Context()))
	await(t, "pods are served, and those of autonomous nodes tolerate outages", 2*time.Minute, func() error {
		l, err := s.losses()
		if err == nil && (l.ordinary.unserved+l.autonomous.unserved+l.autonomous.evictable > 0 || l.ordinary.evictable < l.ordinary.pods) {
			err = fmt.Errorf("they are not: %+v", l)
		}
		return err
	})

	s.darken()
	await(t, "the ordinary half is evicted, and the other one is not served", 2*time.Minute, func() error {
		l, err := s.losses()
		if err == nil && (l.ordinary.evicted < l.ordinary.pods || l.autonomous.unserved < l.autonomous.pods) {
			err = fmt.Errorf("they are not: %+v", l)
		}
		return err
	})
	time.Sleep(10 * time.Second) // for what should not happen to happen
	l, err := s.losses()
	must(t, err)
	t.Logf("\n%s", l)
	if h := l.autonomous; h.evicted > 0 || h.unprotected < h.pods {
		t.Errorf("want all pods kept, and none marked for retention: %+v", h)
	}
	s.saysThatRetentionIsOff(t)
}

func (s *site) saysThatRetentionIsOff(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(s.controllerLog())
	must(t, err)
	if said := strings.Count(string(log), "readiness retention is off: the API server has no MutatingAdmissionPolicies of v1"); said != 1 {
		t.Errorf("the log says %d times that retention is off, want once", said)
	}
	metrics, err := s.meter.metrics()
	must(t, err)
	var state string
	for _, m := range metrics["yurt_endpointretention_policy_state"].GetMetric() {
		if value(m) == 1 {
			state += m.GetLabel()[0].GetValue()
		}
	}
	if state != "unsupported" {
		t.Errorf("the metric says %q, want unsupported", state)
	}
	await(t, "an event on each dark autonomous node says so, and on no other", time.Minute, func() error {
		list, err := s.client.EventsV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=ReadinessRetentionOff"})
		if err != nil {
			return err
		}
		said := map[string]bool{}
		for _, e := range list.Items {
			said[e.Regarding.Name] = true
		}
		var wrong []error
		for i := range s.nodes {
			if said[nodeName(i)] != (autonomous(i) && !spared(i)) {
				wrong = append(wrong, errors.New(nodeName(i)))
			}
		}
		return errors.Join(wrong...)
	})
}
