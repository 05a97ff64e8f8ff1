package clustertest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"yurt/internal/playground/cluster"
)

// Suite is the tests of a package that share one cluster, one after the other.
type Suite struct {
	Name string // of the package, before its messages
	// Up makes the cluster. Where it fails it leaves nothing behind.
	Up func(context.Context) (*cluster.Cluster, error)
	// AddLogs, if there is one, adds to the logs that are kept of a failure.
	AddLogs func(dir string) error
}

// Run runs the tests and returns the exit code of the process. Without root they are left out, but not with CI=true.
func (s Suite) Run(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		fmt.Printf("%s: left out with -short: the tests on a real cluster\n", s.Name)
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute) // the first time it builds Kubernetes
	defer cancel()
	c, err := s.Up(ctx)
	if err != nil {
		if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
			s.say("left out", err)
			return 0
		}
		s.say("bring the cluster up", err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		s.keepLogs(c)
	}
	if err := c.Down(); err != nil {
		s.say("take the cluster down", err)
		return 1
	}
	return code
}

func (s Suite) keepLogs(c *cluster.Cluster) {
	dir, err := c.KeepLogs()
	if err == nil && s.AddLogs != nil {
		err = s.AddLogs(dir)
	}
	if err != nil {
		s.say("keep logs", err)
	}
	s.say("logs are kept in", dir)
}

func (s Suite) say(what string, detail any) {
	fmt.Fprintf(os.Stderr, "%s: %s: %v\n", s.Name, what, detail)
}
