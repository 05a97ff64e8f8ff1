package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"yurt/internal/playground/machine"
	"yurt/internal/playground/netns"
)

const linkFile = "link.json"

// Link returns the condition of the node's link.
func (n *Node) Link() (netns.Condition, error) {
	var c netns.Condition
	data, err := os.ReadFile(filepath.Join(n.Dir, linkFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read condition of the link of %s: %w", n.Config.Name, err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read condition of the link of %s: %w", n.Config.Name, err)
	}
	return c, nil
}

// SetLink puts the node's link into a condition, whatever it was in before. It stays so across power cuts; it may be set while the
// power is off.
func (n *Node) SetLink(ctx context.Context, c netns.Condition) error {
	if err := c.Validate(); err != nil {
		return err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.Dir, linkFile), data, 0o644); err != nil {
		return fmt.Errorf("keep condition of the link of %s: %w", n.Config.Name, err)
	}
	link, err := n.link()
	if errors.Is(err, machine.ErrOff) {
		return nil // Boot makes it so
	}
	if err != nil {
		return err
	}
	if err := link.Set(ctx, c); err != nil {
		return fmt.Errorf("set link of %s: %w", n.Config.Name, err)
	}
	n.cluster.Config.Log.Info("link set", "node", n.Config.Name, "condition", c.String())
	return nil
}

// Cut takes the carrier of the node's link away; other faults that it has stay for later.
func (n *Node) Cut(ctx context.Context) error {
	return n.changeLink(ctx, func(c *netns.Condition) { c.Cut = true })
}

// Blackhole makes the node's link drop everything without a sign.
func (n *Node) Blackhole(ctx context.Context) error {
	return n.changeLink(ctx, func(c *netns.Condition) { c.Blackhole = true })
}

// Slow limits the node's link, in kbit/s.
func (n *Node) Slow(ctx context.Context, rate int) error {
	return n.changeLink(ctx, func(c *netns.Condition) { c.Rate = rate })
}

// Lossy makes the node's link lose a percentage of all packets in each direction.
func (n *Node) Lossy(ctx context.Context, percent int) error {
	return n.changeLink(ctx, func(c *netns.Condition) { c.Loss = percent })
}

// Forget makes something on the way forget the node's connections to the cloud: what is of them is dropped from now on, while new
// ones are fine.
func (n *Node) Forget(ctx context.Context) error {
	pid, err := n.PID()
	if err != nil {
		return fmt.Errorf("%s: %w", n.Config.Name, err)
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		return fmt.Errorf("list connections of %s: %w", n.Config.Name, err)
	}
	return n.changeLink(ctx, func(c *netns.Condition) { c.Forgotten = localPorts(string(table), n.Address()) })
}

// localPorts returns the ports of the connections that the kernel's table has from an address.
func localPorts(table, address string) []int {
	var ports []int
	ip := netip.MustParseAddr(address).As4()
	prefix := fmt.Sprintf("%02X%02X%02X%02X:", ip[3], ip[2], ip[1], ip[0])
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != "01" { // established
			continue
		}
		if port, ok := strings.CutPrefix(fields[1], prefix); ok {
			n, err := strconv.ParseInt(port, 16, 32)
			if err == nil {
				ports = append(ports, int(n))
			}
		}
	}
	return ports
}

// Delay makes each round trip over the node's link longer, until ctx ends.
func (n *Node) Delay(ctx context.Context, by time.Duration) error {
	link, err := n.link()
	if err != nil {
		return err
	}
	if err := link.Delay(ctx, by); err != nil {
		return fmt.Errorf("%s: %w", n.Config.Name, err)
	}
	return nil
}

// Heal makes the node's link good.
func (n *Node) Heal(ctx context.Context) error { return n.SetLink(ctx, netns.Condition{}) }

// Flap cuts and heals the node's link again and again, each for the period, until ctx ends; then it heals it.
func (n *Node) Flap(ctx context.Context, period time.Duration) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for cut := true; ; cut = !cut {
		change := n.Heal
		if cut {
			change = n.Cut
		}
		// A change that has begun is finished, so that the link is never in between.
		if err := change(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return n.Heal(context.WithoutCancel(ctx))
		case <-tick.C:
		}
	}
}

func (n *Node) changeLink(ctx context.Context, change func(*netns.Condition)) error {
	c, err := n.Link()
	if err != nil {
		return err
	}
	change(&c)
	return n.SetLink(ctx, c)
}

func (n *Node) link() (netns.Link, error) {
	cloud, err := n.cluster.wire()
	if err != nil {
		return netns.Link{}, err
	}
	pid, err := n.PID()
	if err != nil {
		return netns.Link{}, fmt.Errorf("%s: %w", n.Config.Name, err)
	}
	return netns.Link{
		Cloud: cloud,
		Port:  fmt.Sprintf("port%d", n.index+1),
		PID:   pid,
		Node:  onLink(nodeAddress(n.index)),
		Pods:  podSubnet(n.index),
	}, nil
}
