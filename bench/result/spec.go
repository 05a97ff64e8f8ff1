package result

import "fmt"

// Upstreams that figures are taken against.
const (
	API    = "api"    // etcd and kube-apiserver
	Canned = "canned" // a program that sends prepared bytes
	Node   = "node"   // a whole node with kubelet and kube-proxy
	None   = ""       // no upstream matters
)

// Direct is the gateway that is none.
const Direct = "direct"

// Spec is one figure of a row: what it is and what limits it must keep. A limit of 0 is none.
type Spec struct {
	Row      int
	Name     string
	Upstream string
	Unit     string
	Higher   bool    // more is better, and limits are lower ones
	Ratio    float64 // limit of gateway / direct
	Value    float64 // limit of the gateway's own figure
}

// Key names a figure.
type Key struct {
	Row      int
	Name     string
	Upstream string
}

// Key returns the figure's name.
func (s Spec) Key() Key { return Key{s.Row, s.Name, s.Upstream} }

// Rows returns what each row is about, by number.
func Rows() map[int]string {
	return map[int]string{
		1:  "consistent get",
		2:  "list of 5,000 pods from the replica",
		3:  "WatchList of 10,000 objects",
		4:  "watch stream of 4 KB pods",
		5:  "latency that a watch gains at 100 events/s",
		6:  "idle memory behind 30 pods",
		7:  "memory with 10,000 Services and 10,000 EndpointSlices",
		8:  "peak memory while 22 MB are listed",
		9:  "start to first answer in the dark",
		10: "list of 5,000 pods in the dark",
		11: "bytes over the link",
		12: "bytes to disk per day, idle",
		13: "write amplification",
		14: "CPU idle and dark",
		15: "binary size",
		16: "memory of 1,000 idle watches",
	}
}

// Specs returns all figures, in the order in which they are shown.
func Specs() []Spec {
	var all []Spec
	add := func(s ...Spec) { all = append(all, s...) }
	for _, upstream := range []string{API, Canned} {
		for _, clients := range []int{1, 8} {
			who := clientsName(clients)
			add(Spec{Row: 1, Name: who + ", p50", Upstream: upstream, Unit: "µs", Ratio: onlyIf(upstream == API, 1.25)},
				Spec{Row: 1, Name: who + ", p99", Upstream: upstream, Unit: "µs", Ratio: onlyIf(upstream == API, 1.5)},
				Spec{Row: 1, Name: who + ", CPU per request", Upstream: upstream, Unit: "µs", Value: 80})
		}
	}
	for _, upstream := range []string{API, Canned} {
		for _, encoding := range []string{"protobuf", "JSON"} {
			for _, clients := range []int{1, 8} {
				name := encoding + ", " + clientsName(clients)
				add(Spec{Row: 2, Name: name, Upstream: upstream, Unit: "lists/s", Higher: true, Ratio: onlyIf(upstream == API, 3)},
					Spec{Row: 2, Name: name + ", CPU per list", Upstream: upstream, Unit: "ms"})
			}
		}
		add(Spec{Row: 2, Name: "memory growth", Upstream: upstream, Unit: "MiB", Value: 8},
			Spec{Row: 3, Name: "time to bookmark", Upstream: upstream, Unit: "ms", Ratio: onlyIf(upstream == API, 0.5)},
			Spec{Row: 3, Name: "CPU per object", Upstream: upstream, Unit: "µs"})
		for _, watchers := range []int{1, 10} {
			name := watchersName(watchers)
			add(Spec{Row: 4, Name: name, Upstream: upstream, Unit: "events/s", Higher: true, Ratio: 0.6,
				Value: onlyIf(upstream == Canned && watchers == 1, 5000)},
				Spec{Row: 4, Name: name + ", CPU per event", Upstream: upstream, Unit: "µs"})
		}
		add(Spec{Row: 5, Name: "p50", Upstream: upstream, Unit: "ms"},
			Spec{Row: 5, Name: "p50 less 2 fdatasyncs", Upstream: upstream, Unit: "ms", Value: 1},
			Spec{Row: 5, Name: "p99", Upstream: upstream, Unit: "ms"},
			Spec{Row: 5, Name: "p99 less 4 fdatasyncs", Upstream: upstream, Unit: "ms", Value: 2},
			Spec{Row: 5, Name: "CPU per event", Upstream: upstream, Unit: "µs"})
	}
	add(Spec{Row: 6, Name: "VmRSS", Upstream: Node, Unit: "MiB", Value: 25},
		Spec{Row: 6, Name: "RssAnon", Upstream: Node, Unit: "MiB", Value: 10},
		Spec{Row: 7, Name: "RssAnon", Upstream: API, Unit: "MiB", Value: 24},
		Spec{Row: 7, Name: "VmRSS", Upstream: API, Unit: "MiB"},
		Spec{Row: 7, Name: "works in 64 MiB", Upstream: API, Unit: "yes=1", Higher: true, Value: 1},
		Spec{Row: 7, Name: "three identities, RssAnon", Upstream: API, Unit: "MiB"},
		Spec{Row: 8, Name: "first list", Upstream: API, Unit: "MiB more", Value: 10},
		Spec{Row: 8, Name: "relist", Upstream: API, Unit: "MiB more", Value: 10},
		Spec{Row: 9, Name: "cold", Upstream: API, Unit: "ms", Value: 100},
		Spec{Row: 9, Name: "warm", Upstream: API, Unit: "ms"},
		Spec{Row: 10, Name: "protobuf", Upstream: API, Unit: "ms", Ratio: 0.3, Value: 15},
		Spec{Row: 11, Name: "all", Upstream: API, Unit: "KB", Ratio: 0.4},
		Spec{Row: 11, Name: "first sync", Upstream: API, Unit: "KB"},
		Spec{Row: 11, Name: "an hour idle", Upstream: API, Unit: "KB"},
		Spec{Row: 11, Name: "after a cut with 1 % changed", Upstream: API, Unit: "% of a list", Value: 2},
		Spec{Row: 11, Name: "reboot of all clients", Upstream: API, Unit: "lists", Value: 0.01},
		Spec{Row: 12, Name: "bytes to the device", Upstream: Node, Unit: "MB/day", Value: 20},
		Spec{Row: 13, Name: "1 event/s", Upstream: Canned, Unit: "× object", Value: 4},
		Spec{Row: 13, Name: "1,000 events/s", Upstream: Canned, Unit: "× object", Value: 3},
		Spec{Row: 14, Name: "idle", Upstream: Node, Unit: "% of a core", Value: 0.3},
		Spec{Row: 14, Name: "dark", Upstream: Node, Unit: "% of a core", Value: 0.5},
		Spec{Row: 15, Name: "this machine's", Upstream: None, Unit: "MB", Value: 30},
		Spec{Row: 15, Name: "linux/arm/v7", Upstream: None, Unit: "MB", Value: 30},
		Spec{Row: 16, Name: "one watch", Upstream: Canned, Unit: "KiB", Value: 24})
	return all
}

func clientsName(n int) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", n)
}

func watchersName(n int) string {
	if n == 1 {
		return "1 watcher"
	}
	return fmt.Sprintf("%d watchers", n)
}

func onlyIf(yes bool, limit float64) float64 {
	if yes {
		return limit
	}
	return 0
}
