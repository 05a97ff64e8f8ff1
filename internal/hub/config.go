package hub

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"yurt/internal/credential"
	"yurt/internal/fairness"
	"yurt/internal/filter"
	"yurt/internal/replica"
	"yurt/internal/store"
	"yurt/internal/systemd"
	"yurt/internal/upstream"
)

// Config is everything that the hub is told.
type Config struct {
	Kubeconfig  string        // of the hub's upstream: servers, CA, client certificate
	Identities  []string      // NAME=KUBECONFIG of other components with certificates of their own
	Servers     []string      // https URLs that stand in for the kubeconfig's server
	LBMode      string        // how one of them is picked: "rr" or "priority"; empty: rr
	NodeName    string        // empty: the host's name
	RootDir     string        // the store is in it
	Retention   time.Duration // of what no client asks for; 0: a week
	MaxBytes    int64         // that the store may take on disk; 0: no limit
	KeyFile     string        // with the keys that seal the store; empty: systemd's credential, or one made in RootDir
	Credentials string        // directory of systemd's credentials
	MaxInFlight int           // requests at a time; 0: 250
	BindAddress string        // of the listeners for clients on the node
	AdminPort   int
	SecurePort  int  // TLS
	ProxyPort   int  // plain HTTP
	Insecure    bool // listen there

	// DummyIf: pods reach the hub under the addresses DummyIPs, on an interface that the hub makes.
	DummyIf         bool
	DummyIfName     string
	DummyIPs        []string
	ClusterDomain   string   // of the names of Services
	DisabledFilters []string // by their names

	// DisableOverlay: pods and endpoints are shown as the cloud had them last, and pod status is not accepted in the dark.
	DisableOverlay bool

	// Sockets were opened by somebody else, who keeps them open over restarts: "secure", "admin" and "plain".
	Sockets systemd.Sockets

	Version string
	Logger  *slog.Logger
}

// Validate checks what can be checked without touching anything, and returns
// all that is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.Kubeconfig == "" {
		errs = append(errs, errors.New("--kubeconfig is required: a kubeconfig of this node, such as /etc/kubernetes/kubelet.conf"))
	}
	if c.RootDir == "" {
		errs = append(errs, errors.New("--root-dir must not be empty"))
	}
	for _, server := range c.Servers {
		if _, err := credential.ParseServer(server); err != nil {
			errs = append(errs, fmt.Errorf("--server-addr: %w", err))
		}
	}
	for _, id := range c.Identities {
		if name, path, _ := strings.Cut(id, "="); name == "" || path == "" {
			errs = append(errs, fmt.Errorf("--identity %q: want NAME=KUBECONFIG, like kube-proxy=/etc/kubernetes/kube-proxy.conf", id))
		}
	}
	if c.Retention != 0 && c.Retention < time.Hour {
		errs = append(errs, fmt.Errorf("--retention %s: must be at least an hour", c.Retention))
	}
	if c.MaxBytes != 0 && c.MaxBytes < minStore {
		errs = append(errs, fmt.Errorf("--store-max-bytes %d: must be at least %d, or 0", c.MaxBytes, minStore))
	}
	if c.MaxInFlight != 0 && c.MaxInFlight < minInFlight {
		errs = append(errs, fmt.Errorf("--max-requests-in-flight %d: must be at least %d", c.MaxInFlight, minInFlight))
	}
	if _, err := c.mode(); err != nil {
		errs = append(errs, fmt.Errorf("--lb-mode: %w", err))
	}
	errs = append(errs, c.validatePods())
	ip := net.ParseIP(c.BindAddress)
	switch {
	case ip == nil:
		errs = append(errs, fmt.Errorf("--bind-address %q is not an IP address", c.BindAddress))
	case !ip.IsLoopback():
		errs = append(errs, fmt.Errorf("--bind-address %s: the hub serves its own node and listens on loopback only", c.BindAddress))
	}
	for _, port := range []struct {
		flag  string
		value int
	}{{"--serve-port", c.AdminPort}, {"--proxy-secure-port", c.SecurePort}, {"--proxy-port", c.ProxyPort}} {
		if port.value < 0 || port.value > 65535 {
			errs = append(errs, fmt.Errorf("%s %d is not a port", port.flag, port.value))
		}
	}
	return errors.Join(errs...)
}

// validatePods checks what is about pods and filters.
func (c *Config) validatePods() error {
	var errs []error
	for _, name := range c.DisabledFilters {
		if !slices.Contains(filter.Names(), name) {
			errs = append(errs, fmt.Errorf("--disabled-resource-filters %q: there are %s", name, strings.Join(filter.Names(), ", ")))
		}
	}
	if !c.DummyIf {
		return errors.Join(errs...)
	}
	if _, err := c.dummyIPs(); err != nil {
		errs = append(errs, fmt.Errorf("--dummy-if-ip: %w", err))
	}
	if c.DummyIfName == "" || len(c.DummyIfName) > maxInterfaceName || strings.ContainsAny(c.DummyIfName, "/: ") {
		errs = append(errs, fmt.Errorf("--dummy-if-name %q: is no name of an interface", c.DummyIfName))
	}
	return errors.Join(errs...)
}

// maxInterfaceName is IFNAMSIZ without the byte at its end.
const maxInterfaceName = 15

// dummyIPs are the addresses for pods: at most one of each family.
func (c *Config) dummyIPs() ([]netip.Addr, error) {
	var ips []netip.Addr
	for _, s := range c.DummyIPs {
		ip, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			return nil, err
		case ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "":
			return nil, fmt.Errorf("%s is no address that pods can reach", ip)
		case slices.ContainsFunc(ips, func(other netip.Addr) bool { return other.Is4() == ip.Is4() }):
			return nil, fmt.Errorf("%s is the second of its family", ip)
		}
		ips = append(ips, ip.Unmap())
	}
	if len(ips) == 0 {
		return nil, errors.New("there must be one")
	}
	return ips, nil
}

const (
	// minStore is room for what a kubelet and a kube-proxy need.
	minStore = 16 << 20
	// logFactor is how much more than what it holds the store takes on disk,
	// before it compacts.
	logFactor = 3
	// minInFlight leaves the kubelet some when others have theirs.
	minInFlight     = 20
	defaultInFlight = 250
	// logFiles is how many files of the log there are at least.
	logFiles = 4
)

// storeOptions lets the store take no more than it may.
func (c *Config) storeOptions(keys func() ([][]byte, error)) store.Options {
	o := store.Options{Logger: c.Logger, Keys: keys}
	if c.MaxBytes > 0 {
		o.CompactAbove = min(32<<20, c.MaxBytes)
		o.SegmentBytes = min(8<<20, c.MaxBytes/logFiles)
	}
	return o
}

func (c *Config) limits() fairness.Limits {
	return fairness.DefaultLimits(cmp.Or(c.MaxInFlight, defaultInFlight))
}

func (c *Config) kept() replica.Retention {
	return replica.Retention{Idle: c.Retention, MaxBytes: c.MaxBytes / logFactor}
}

func (c *Config) servers() ([]*url.URL, error) {
	var servers []*url.URL
	for _, s := range c.Servers {
		u, err := credential.ParseServer(s)
		if err != nil {
			return nil, err
		}
		servers = append(servers, u)
	}
	return servers, nil
}

// identities are the files of the other components. What the hub calls them is
// in their certificates; the names before them are for who reads the flags.
func (c *Config) identities() []string {
	var paths []string
	for _, id := range c.Identities {
		_, path, _ := strings.Cut(id, "=")
		paths = append(paths, path)
	}
	return paths
}

func (c *Config) mode() (upstream.Mode, error) {
	if c.LBMode == "" {
		return upstream.RoundRobin, nil
	}
	return upstream.ParseMode(c.LBMode)
}

// nodeName is the name under which the kubelet registers when it is not told
// another: the host's, in lower case.
func (c *Config) nodeName() (string, error) {
	if c.NodeName != "" {
		return c.NodeName, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("find the node's name: %w", err)
	}
	return strings.ToLower(strings.TrimSpace(name)), nil
}

func (c *Config) address(port int) string {
	return net.JoinHostPort(c.BindAddress, strconv.Itoa(port))
}
