package overlay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"yurt/internal/wire"
)

// facts is what of a pod's status matters to those who send it traffic.
type facts struct {
	ipv4, ipv6 []string
	ready      bool
	terminal   bool // it ended and will not run again
}

func factsOf(status *corev1.PodStatus) facts {
	f := facts{terminal: terminal(status.Phase)}
	for _, ip := range status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		switch {
		case err != nil:
		case addr.Unmap().Is4():
			f.ipv4 = append(f.ipv4, addr.Unmap().String())
		default:
			f.ipv6 = append(f.ipv6, addr.String())
		}
	}
	for _, c := range status.Conditions {
		if c.Type == corev1.PodReady {
			f.ready = c.Status == corev1.ConditionTrue
		}
	}
	return f
}

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodFailed || phase == corev1.PodSucceeded
}

func (f facts) equal(g facts) bool {
	return f.ready == g.ready && f.terminal == g.terminal && slices.Equal(f.ipv4, g.ipv4) && slices.Equal(f.ipv6, g.ipv6)
}

// decodeStatus reads the status out of a pod.
func decodeStatus(enc wire.Encoding, pod []byte) (*corev1.PodStatus, error) {
	c := codecOf(enc)
	raw := c.One(pod, podStatus)
	if c.Err != nil {
		return nil, fmt.Errorf("read pod status: %w", c.Err)
	}
	status := &corev1.PodStatus{}
	var err error
	switch {
	case raw == nil:
	case enc == wire.Protobuf:
		err = status.Unmarshal(raw)
	default:
		err = json.Unmarshal(raw, status)
	}
	if err != nil {
		return nil, fmt.Errorf("decode pod status: %w", err)
	}
	return status, nil
}

// spliceStatus returns a pod with another status, given in protobuf. Every other byte of the pod stays.
func spliceStatus(enc wire.Encoding, pod, status []byte) ([]byte, error) {
	if enc != wire.Protobuf {
		decoded := &corev1.PodStatus{}
		err := decoded.Unmarshal(status)
		if err == nil {
			status, err = json.Marshal(decoded)
		}
		if err != nil {
			return nil, fmt.Errorf("convert pod status: %w", err)
		}
	}
	c := codecOf(enc)
	spliced := c.With(pod, podStatus, status)
	if c.Err != nil {
		return nil, fmt.Errorf("replace pod status: %w", c.Err)
	}
	return spliced, nil
}
