package netns

import (
	"net/netip"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScripts holds what is told to ip and nft against testdata/scripts: one command for each, with the condition of the link as
// arguments.
func TestScripts(t *testing.T) {
	link := Link{
		Cloud: Cloud{PID: 1, Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.99.0.1/16"), netip.MustParsePrefix("10.99.0.2/16"),
		}},
		Port: "port1",
		PID:  2,
		Node: netip.MustParsePrefix("10.99.1.1/16"),
		Pods: netip.MustParsePrefix("10.244.1.0/24"),
	}
	datadriven.RunTest(t, "testdata/scripts", func(t *testing.T, d *datadriven.TestData) string {
		var c Condition
		c.Cut = d.HasArg("cut")
		c.Blackhole = d.HasArg("blackhole")
		c.CloudOnly = d.HasArg("cloud-only")
		d.MaybeScanArgs(t, "loss", &c.Loss)
		d.MaybeScanArgs(t, "rate", &c.Rate)
		switch d.Cmd {
		case "cloud":
			return link.Cloud.script()
		case "node":
			return link.nodeScript()
		case "port":
			return link.cloudScript()
		case "rules":
			return link.rules(c)
		case "say":
			if err := c.Validate(); err != nil {
				return err.Error() + "\n"
			}
			return c.String() + "\n"
		default:
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		}
	})
}
