// Package clustertest gives tests a cluster.
//
// A test that can't have one, for want of root, a Debian package or a built program, is skipped with the reason; with CI=true it
// fails instead. The cluster ends with the test, even if the test crashes; if the test fails, its logs are kept.
package clustertest

import (
	"errors"
	"log/slog"
	"os"
	"testing"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/host"
)

// Up brings up a cluster that the test owns.
func Up(t testing.TB, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	Require(t, cfg.Kubernetes)
	cfg.Owned = true
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	c, err := cluster.Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			keepLogs(t, c)
		}
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Require skips the test, or with CI=true fails it, unless a cluster with a release of Kubernetes (the default if empty) can be
// brought up without building anything but the checkout itself.
func Require(t testing.TB, kubernetes string) {
	t.Helper()
	err := available(kubernetes)
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no cluster can be brought up here: %v", err)
	}
	t.Skipf("no cluster can be brought up here: %v", err)
}

func available(kubernetes string) error {
	if kubernetes == "" {
		kubernetes = binaries.DefaultKubernetes()
	}
	if err := host.Check(); err != nil {
		return err
	}
	checkout, err := cluster.FindCheckout()
	if err != nil {
		return err
	}
	_, err = (&binaries.Builder{Checkout: checkout}).Cached(kubernetes)
	if errors.Is(err, binaries.ErrNotBuilt) {
		return errors.Join(err, errors.New("run go run ./cmd/playground prepare"))
	}
	return err
}

func keepLogs(t testing.TB, c *cluster.Cluster) {
	t.Helper()
	if _, err := os.Stat(c.LogDir()); err != nil {
		return // the test took the cluster down itself
	}
	dir, err := c.KeepLogs()
	if err != nil {
		t.Logf("keep logs: %v", err)
		return
	}
	t.Logf("logs of the cluster are kept in %s", dir)
}
