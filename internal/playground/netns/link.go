package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

const bridge = "cloud0"

// Cloud is the namespace in the middle: a bridge to which all nodes are connected, and their router.
type Cloud struct {
	PID       int
	Addresses []netip.Prefix // of the bridge: every server of the cloud has one
}

// Link connects one node with the cloud: eth0 in the node, the named port at the cloud's bridge.
type Link struct {
	Cloud Cloud
	Port  string
	PID   int          // of a process of the node
	Node  netip.Prefix // the node's address
	Pods  netip.Prefix // what is behind the node
}

// Condition is how a link is. The zero value is a good link; several faults may hold at once.
type Condition struct {
	// Cut takes the carrier away: both ends notice at once.
	Cut bool `json:"cut,omitempty"`
	// Blackhole drops everything silently, so that nobody notices but by waiting.
	Blackhole bool `json:"blackhole,omitempty"`
	// CloudOnly confines Blackhole to what is from or for the cloud's own addresses: nodes still reach each other.
	CloudOnly bool `json:"cloudOnly,omitempty"`
	// Loss is the percentage of packets that are dropped in each direction.
	Loss int `json:"loss,omitempty"`
	// Rate is the limit in kbit/s in each direction; 0 is none.
	Rate int `json:"rate,omitempty"`
	// Forgotten are the node's TCP ports whose connections something on the way has forgotten: what is of them is dropped, in both
	// directions, while new connections are fine.
	Forgotten []int `json:"forgotten,omitempty"`
}

func (c Condition) String() string {
	var faults []string
	switch {
	case c.Cut:
		faults = append(faults, "cut")
	case c.Blackhole && c.CloudOnly:
		faults = append(faults, "black hole towards the cloud")
	case c.Blackhole:
		faults = append(faults, "black hole")
	}
	if c.Loss > 0 {
		faults = append(faults, fmt.Sprintf("%d%% loss", c.Loss))
	}
	if c.Rate > 0 {
		faults = append(faults, fmt.Sprintf("%d kbit/s", c.Rate))
	}
	if len(c.Forgotten) > 0 {
		faults = append(faults, fmt.Sprintf("%d connections forgotten", len(c.Forgotten)))
	}
	if len(faults) == 0 {
		return "good"
	}
	return strings.Join(faults, ", ")
}

// Validate says what is wrong with the condition.
func (c Condition) Validate() error {
	switch {
	case c.Loss < 0 || c.Loss > 100:
		return fmt.Errorf("loss of %d%%: must be between 0 and 100", c.Loss)
	case c.Rate < 0:
		return fmt.Errorf("rate of %d kbit/s: must not be negative", c.Rate)
	case c.CloudOnly && !c.Blackhole:
		return errors.New("only a black hole can be confined to the cloud")
	}
	return nil
}

// Create makes the bridge.
func (c Cloud) Create(ctx context.Context) error {
	return run(ctx, c.PID, c.script(), "ip", "-batch", "-")
}

func (c Cloud) script() string {
	var b strings.Builder
	// Without an address of its own the bridge would take over that of a port, and change it when a node reboots.
	fmt.Fprintf(&b, "link set lo up\nlink add name %s address %s type bridge\n", bridge, hardware(c.Addresses[0].Addr()))
	for _, a := range c.Addresses {
		fmt.Fprintf(&b, "address add %s dev %s\n", a, bridge)
	}
	fmt.Fprintf(&b, "link set %s up\n", bridge)
	return b.String()
}

// Create makes the link, in the condition given from its first moment.
func (l Link) Create(ctx context.Context, c Condition) error {
	// The kernel takes its time to remove the namespace of a node whose power was cut, and with it the old link.
	_ = run(ctx, l.Cloud.PID, "", "ip", "link", "delete", l.Port)
	if err := run(ctx, l.Cloud.PID, l.cloudScript(), "ip", "-batch", "-"); err != nil {
		return err
	}
	if err := run(ctx, l.PID, l.nodeScript(), "ip", "-batch", "-"); err != nil {
		return err
	}
	return l.Set(ctx, c)
}

// cloudScript makes both ends of the link. The port is down, and comes up with its condition. The node's hardware address is the same
// after each boot, as it would be, or its neighbours would not reach it for seconds.
func (l Link) cloudScript() string {
	return fmt.Sprintf("link add name %[1]s type veth peer name eth0 address %[2]s netns %[3]d\n"+
		"link set %[1]s master %[4]s\nroute replace %[5]s via %[6]s\n",
		l.Port, hardware(l.Node.Addr()), l.PID, bridge, l.Pods, l.Node.Addr())
}

// hardware returns a hardware address made of an IP address.
func hardware(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3])
}

func (l Link) nodeScript() string {
	return fmt.Sprintf("link set lo up\naddress add %s dev eth0\nlink set eth0 up\nroute add default via %s\n",
		l.Node, l.Cloud.Addresses[0].Addr())
}

// Set puts the link into a condition, whatever it was in before.
func (l Link) Set(ctx context.Context, c Condition) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := run(ctx, l.Cloud.PID, l.rules(c), "nft", "-f", "-"); err != nil {
		return err
	}
	if err := setRate(ctx, l.Cloud.PID, l.Port, c.Rate); err != nil {
		return err
	}
	if err := setRate(ctx, l.PID, "eth0", c.Rate); err != nil {
		return err
	}
	state := "up"
	if c.Cut {
		state = "down"
	}
	return run(ctx, l.Cloud.PID, "", "ip", "link", "set", l.Port, state)
}

// rules returns the nftables ruleset that makes the port drop what the condition wants dropped, in place of the one before. ARP
// passes always: without it the loss would be noticed as an unreachable neighbour.
func (l Link) rules(c Condition) string {
	table := "netdev link_" + l.Port
	var in, out []string
	switch {
	case c.Blackhole && c.CloudOnly:
		var cloud []string
		for _, a := range l.Cloud.Addresses {
			cloud = append(cloud, a.Addr().String())
		}
		set := "{ " + strings.Join(cloud, ", ") + " }"
		in, out = append(in, "ip daddr "+set+" drop"), append(out, "ip saddr "+set+" drop")
	case c.Blackhole:
		in, out = append(in, "meta protocol ip drop"), append(out, "meta protocol ip drop")
	}
	if c.Loss > 0 {
		lose := fmt.Sprintf("meta protocol ip numgen random mod 100 < %d drop", c.Loss)
		in, out = append(in, lose), append(out, lose)
	}
	if len(c.Forgotten) > 0 {
		ports := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(c.Forgotten)), ", "), "[]")
		in, out = append(in, "tcp sport { "+ports+" } drop"), append(out, "tcp dport { "+ports+" } drop")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table %s\ndelete table %s\n", table, table) // the first line so that the second can't fail
	if len(in) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "table %s {\n", table)
	for _, chain := range []struct {
		hook  string
		rules []string
	}{{"ingress", in}, {"egress", out}} {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s device \"%s\" priority 0\n", chain.hook, chain.hook, l.Port)
		for _, rule := range chain.rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// setRate limits what a device sends.
func setRate(ctx context.Context, pid int, device string, kbit int) error {
	if kbit > 0 {
		return run(ctx, pid, "", "tc", "qdisc", "replace", "dev", device, "root",
			"tbf", "rate", fmt.Sprintf("%dkbit", kbit), "burst", "16kb", "latency", "500ms")
	}
	// Back to what the device had in the beginning; deleting what isn't there would be an error.
	return run(ctx, pid, "", "tc", "qdisc", "replace", "dev", device, "root", "noqueue")
}
