package autonomy

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestOfNode(t *testing.T) {
	for _, test := range []struct {
		name        string
		annotations map[string]string
		want        Term
		wantErr     string
	}{
		{name: "nothing"},
		{name: "a duration", annotations: map[string]string{DurationKey: "1h30m"}, want: For(90 * time.Minute)},
		{name: "without end", annotations: map[string]string{DurationKey: "0"}, want: Endless()},
		{name: "without end, with a unit", annotations: map[string]string{DurationKey: "0s"}, want: Endless()},
		{name: "off", annotations: map[string]string{DurationKey: "off"}},
		{name: "older spelling", annotations: map[string]string{EndlessKey: "true"}, want: Endless()},
		{name: "oldest spelling", annotations: map[string]string{BindingKey: "true"}, want: Endless()},
		{name: "older spelling, not true", annotations: map[string]string{EndlessKey: "false", BindingKey: "1"}},
		{name: "older spelling wins", annotations: map[string]string{EndlessKey: "true", DurationKey: "5m"}, want: Endless()},
		{
			name: "no duration", annotations: map[string]string{DurationKey: "forever"},
			wantErr: `read annotation node.openyurt.io/autonomy-duration="forever": want a duration like 30m, 0 for without end, or off: time: invalid duration "forever"`,
		},
		{
			name: "no unit", annotations: map[string]string{DurationKey: "300"},
			wantErr: `read annotation node.openyurt.io/autonomy-duration="300": want a duration like 30m, 0 for without end, or off: time: missing unit in duration "300"`,
		},
		{
			name: "empty", annotations: map[string]string{DurationKey: ""},
			wantErr: `read annotation node.openyurt.io/autonomy-duration="": want a duration like 30m, 0 for without end, or off: time: invalid duration ""`,
		},
		{
			name: "negative", annotations: map[string]string{DurationKey: "-5m"},
			wantErr: `read annotation node.openyurt.io/autonomy-duration="-5m": want a duration like 30m, 0 for without end, or off: is negative`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := OfNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: test.annotations}})
			if got != test.want {
				t.Errorf("term %+v, want %+v", got, test.want)
			}
			if diff := cmp.Diff(test.wantErr, text(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOfPod(t *testing.T) {
	pod := func(value string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{DurationKey: value}}}
	}
	for _, test := range []struct {
		name      string
		pod       *corev1.Pod
		node      Term
		want      Term
		wantError bool
	}{
		{name: "follows the node", pod: &corev1.Pod{}, node: For(time.Hour), want: For(time.Hour)},
		{name: "shorter than the node", pod: pod("1m"), node: For(time.Hour), want: For(time.Minute)},
		{name: "longer than the node", pod: pod("0"), node: For(time.Hour), want: Endless()},
		{name: "on an ordinary node", pod: pod("1m"), want: For(time.Minute)},
		{name: "opts out", pod: pod("off"), node: Endless()},
		{name: "a slip changes nothing", pod: pod("1 m"), node: For(time.Hour), want: For(time.Hour), wantError: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := OfPod(test.pod, test.node)
			if got != test.want || (err != nil) != test.wantError {
				t.Errorf("OfPod: %+v, %v; want %+v, an error: %t", got, err, test.want, test.wantError)
			}
		})
	}
}

func TestAt(t *testing.T) {
	since := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	node := func(ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue},
			{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(since)},
		}}}
	}
	for _, test := range []struct {
		name     string
		term     Term
		node     *corev1.Node
		after    time.Duration
		want     Phase
		wantEnds time.Duration
	}{
		{name: "nobody asked", node: node(corev1.ConditionUnknown)},
		{name: "reachable", term: For(time.Minute), node: node(corev1.ConditionTrue), after: time.Hour, want: Protected},
		{name: "never heard of", term: For(time.Minute), node: &corev1.Node{}, after: time.Hour, want: Protected},
		{name: "dark", term: For(time.Minute), node: node(corev1.ConditionUnknown), after: 59 * time.Second, want: Protected, wantEnds: time.Minute},
		{name: "not ready", term: For(time.Minute), node: node(corev1.ConditionFalse), want: Protected, wantEnds: time.Minute},
		{name: "over", term: For(time.Minute), node: node(corev1.ConditionUnknown), after: time.Minute, want: Lapsed},
		{name: "without end", term: Endless(), node: node(corev1.ConditionUnknown), after: 1000 * time.Hour, want: Protected},
	} {
		t.Run(test.name, func(t *testing.T) {
			var wantEnds time.Time
			if test.wantEnds != 0 {
				wantEnds = since.Add(test.wantEnds)
			}
			got, ends := test.term.At(since.Add(test.after), test.node)
			if got != test.want || !ends.Equal(wantEnds) {
				t.Errorf("At: %v until %v; want %v until %v", got, ends, test.want, wantEnds)
			}
		})
	}
}

func TestSame(t *testing.T) {
	since := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	node := func(ready corev1.ConditionStatus, at metav1.Time, annotations map[string]string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Annotations: annotations},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: ready, LastTransitionTime: at, LastHeartbeatTime: at},
			}},
		}
	}
	later := metav1.NewTime(since.Add(time.Minute))
	first := node(corev1.ConditionUnknown, since, map[string]string{DurationKey: "1m"})
	for _, test := range []struct {
		name string
		a, b *corev1.Node
		want bool
	}{
		{name: "itself", a: first, b: first, want: true},
		{name: "other annotations", a: first, b: node(corev1.ConditionUnknown, since, map[string]string{DurationKey: "1m", "other": "1"}), want: true},
		{name: "another duration", a: first, b: node(corev1.ConditionUnknown, since, map[string]string{DurationKey: "2m"})},
		{name: "an older annotation", a: first, b: node(corev1.ConditionUnknown, since, map[string]string{DurationKey: "1m", BindingKey: "true"})},
		{name: "back", a: first, b: node(corev1.ConditionTrue, later, map[string]string{DurationKey: "1m"})},
		{name: "dark anew", a: first, b: node(corev1.ConditionUnknown, later, map[string]string{DurationKey: "1m"})},
		{name: "reachable anew", a: node(corev1.ConditionTrue, since, nil), b: node(corev1.ConditionTrue, later, nil), want: true},
	} {
		if got := Same(test.a, test.b); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
